"""Several stages in order, from one config: the main job.

`config.steps` maps a name to a stage config; each runs in `workdir/<name>`.
A path `step:NAME` in a stage config stands for that folder, so later steps
take what earlier ones left. With several seeds the whole pipeline runs once
per seed in `workdir/seed_<n>`, and the summaries are averaged. Stopped at any
point and started again, it goes on where it was.
"""

import pathlib
import statistics
import time

import jax
from ml_collections import ConfigDict

from rlaif_jax import stages
from rlaif_jax.stages import common
from rlaif_jax.training import workdir as workdir_lib


def default_config() -> ConfigDict:
  """An empty pipeline; see configs/rlaif.py for a full one."""
  c = common.base_config('pipeline')
  c.seeds = ()  # run once per seed; () = once, with config.seed
  c.steps = ConfigDict()  # name -> stage config, in order
  return c


def run(config: ConfigDict, workdir) -> None:
  """Runs all steps (for all seeds) and shows the last step's table."""
  root = workdir_lib.open_workdir(
    workdir, config.to_dict(), ignore=common.RUNTIME_KEYS
  )
  if not config.seeds:
    run_steps(config, root, config.seed)
    return
  for seed in config.seeds:
    run_steps(config, root / f'seed_{seed}', seed)
  summary = average(
    [
      workdir_lib.finished(root / f'seed_{seed}' / list(config.steps)[-1])
      for seed in config.seeds
    ]
  )
  workdir_lib.finish(root, summary)
  evaluate = stages.load('evaluate')
  common.say('')
  evaluate.show(summary, title=f'mean of seeds {tuple(config.seeds)}')


def run_steps(config: ConfigDict, root: pathlib.Path, seed: int) -> None:
  """One pass over the steps in `root`."""
  for number, (name, block) in enumerate(config.steps.items(), 1):
    step = resolve_steps(block, root)
    step.seed = seed
    step.mesh = config.mesh
    common.say(f'[bold]{number}/{len(config.steps)} {name}[/bold]')
    start = time.monotonic()
    stages.load(step.stage).run(step, root / name)
    common.say(f'  {time.monotonic() - start:.0f} s')
    jax.clear_caches()


def resolve_steps(block: ConfigDict, root: pathlib.Path) -> ConfigDict:
  """Copy of a stage config with `step:NAME` replaced by its folder."""

  def resolve(value):
    if isinstance(value, dict):
      return {k: resolve(v) for k, v in value.items()}
    if isinstance(value, str) and value.startswith('step:'):
      return str(root / value.removeprefix('step:'))
    return value

  return ConfigDict(resolve(block.to_dict()), sort_keys=False)


def average(summaries: list[dict]) -> dict:
  """Field-wise mean of nested summaries, with `<field>_std` beside it."""
  first, result = summaries[0], {}
  for key, value in first.items():
    values = [s[key] for s in summaries]
    if isinstance(value, dict):
      result[key] = average(values)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
      result[key] = statistics.fmean(values)
      result[f'{key}_std'] = statistics.pstdev(values)
    else:
      result[key] = value
  return result
