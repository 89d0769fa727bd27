"""What each stage of a config runs on the devices, on shapes alone.

The programs are the stages' own: made by the functions that the stages call,
lowered on abstract arrays that are sharded as the stages shard theirs.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import jax
from ml_collections import ConfigDict

from rlaif_jax import sharding
from rlaif_jax.plan import inference, training
from rlaif_jax.plan.context import Context, Program
from rlaif_jax.stages import _options


def of_label(config: ConfigDict, context: Context) -> list[Program]:
  """Scoring of stages/label.py and, with pairs='samples', the sampling."""
  if config.source != 'labeler' or config.labeler.endpoint.url:
    return []
  found = [inference.scoring(config.labeler, context, inference.PAIR)]
  if config.pairs == 'samples':
    policy = context.policy(config.policy)
    rows = config.labeler.batch_size
    found += inference.rollout(config, context, policy, rows)
  everything = [p.params for p in found]
  return [p.beside(everything) for p in found]


# Stage -> its programs. Others run these programs too (evaluate scores and
# samples), or none.
STAGES = {
  'sft': training.of_sft,
  'label': of_label,
  'reward': training.of_reward,
  'rl': training.of_rl,
}


def steps_of(config: ConfigDict) -> Mapping[str, ConfigDict]:
  """The stage configs of a pipeline by name, or the one stage itself."""
  if 'steps' in config:
    return dict(config.steps.items())
  return {config.stage: config}


def of_config(
  config: ConfigDict, mesh: jax.sharding.Mesh, only: tuple[str, ...] = ()
) -> list[Program]:
  """Programs of a stage, or of all stages of a pipeline, in order.

  Of programs that are the same (reward models of the same shape, say) one is
  kept, the one with most beside it in memory.

  Args:
    config: of a stage or a pipeline.
    mesh: to shard for; a stage's own `mesh` is not looked at.
    only: names of steps, stages or programs to keep; () keeps all.

  Raises:
    ValueError: nothing is left, or something cannot be sharded.
  """
  found: dict[str, Program] = {}
  for name, stage, program in _all(config, mesh):
    names = {name, program.name, stage, name.split('/')[0]}
    if only and not names & set(only):
      continue
    arguments = training.bare((program.params, program.others))
    shape = str((program.name, program.work, arguments))
    before = found.get(shape)
    if before is None or program.resident_bytes() > before.resident_bytes():
      found[shape] = dataclasses.replace(program, name=name)
  if not found:
    raise ValueError(
      f'nothing to plan for with only={",".join(only) or "all"} in '
      f'{", ".join(steps_of(config))}; stages that have programs here: '
      f'{", ".join(STAGES)}'
    )
  return list(found.values())


def _all(
  config: ConfigDict, mesh: jax.sharding.Mesh
) -> Iterator[tuple[str, str, Program]]:
  """(step/program, stage, program) of all steps, in order."""
  steps = steps_of(config)
  for step, block in steps.items():
    if block.stage not in STAGES:
      continue
    _options.check_fields(block)
    _options.check_batch(block, sharding.row_parts(mesh))
    rules = {**sharding.DEFAULT_RULES, **block.sharding_rules.to_dict()}
    with jax.set_mesh(mesh):
      for program in STAGES[block.stage](block, Context(mesh, rules, steps)):
        yield f'{step}/{program.name}', block.stage, program
