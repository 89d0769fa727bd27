"""Programs of a plan are those that the stages run, and take what they take."""

import re

import jax
import pytest
from ml_collections import ConfigDict

from configs import common
from rlaif_jax import sharding, stages
from rlaif_jax.inference import packing
from rlaif_jax.labeler import in_mesh
from rlaif_jax.plan import context, hlo, inference, programs
from rlaif_jax.stages import reward, rl, sft

_MESH = {'data': 2, 'fsdp': 2, 'tensor': 2}

pytestmark = pytest.mark.multidevice


class _SeenError(Exception):
  """Ends a stage once its program is known."""


def sft_config(path):
  c = stages.load('sft').default_config()
  c.model.path = path
  common.tiny_data(c.data, 'train', 16)
  common.tiny_data(c.eval_data, 'test', 8)
  return finish(c)


def reward_config(path):
  c = stages.load('reward').default_config()
  c.model.path = path
  common.tiny_data(c.data, 'preferences', 16)
  common.tiny_data(c.eval_data, 'test_preferences', 8)
  return finish(c)


def rl_config(path, reward_path):
  c = stages.load('rl').default_config()
  c.policy.path, c.reward.path = path, reward_path
  common.tiny_data(c.data, 'rl', 16)
  return finish(c)


def finish(c):
  common.tiny_lengths(c)
  c.batch_size, c.num_steps, c.num_microbatches = 8, 1, 2
  c.mesh.update(_MESH)
  return c


def plan_text(config, short):
  """The named program of a plan, as it is lowered."""
  mesh = sharding.make_mesh(_MESH)
  found = {p.name: p for p in programs.of_config(config, mesh)}
  program = found[f'{config.stage}/{short}']
  with jax.set_mesh(mesh):
    return program.lower({}).as_text()


def stage_text(tmp_path, config, module, name):
  """The program that `module.name(...)` makes in a real run, lowered."""
  made = getattr(module, name)
  texts = []

  def make(*args, **kwargs):
    real = made(*args, **kwargs)

    def run(*arrays):
      texts.append(real.lower(*arrays).as_text())
      raise _SeenError

    return run

  with pytest.MonkeyPatch.context() as patch, pytest.raises(_SeenError):
    patch.setattr(module, name, make)
    stages.load(config.stage).run(config, tmp_path / 'run')
  return texts[0]


def test_sft_step(tmp_path, tiny_model):
  config = sft_config(tiny_model)
  real = stage_text(tmp_path, config, sft.step, 'make_train_step')
  assert plan_text(config, 'step') == real


def test_reward_step(tmp_path, tiny_model):
  config = reward_config(tiny_model)
  real = stage_text(tmp_path, config, reward.step, 'make_train_step')
  assert plan_text(config, 'step') == real


@pytest.mark.parametrize('held', [{}, {'param_dtype': 'int8', 'offload': True}])
def test_label_scoring_is_the_labelers(tiny_model, held):
  config = stages.load('label').default_config()
  config.labeler.path = tiny_model
  config.labeler.max_tokens, config.labeler.batch_size = 32, 8
  config.labeler.update(held)
  mesh = sharding.make_mesh(_MESH)
  with jax.set_mesh(mesh):
    labeler = in_mesh.load(
      tiny_model, mesh=mesh, max_tokens=32, batch_size=8, **held
    )
    rows = [list(range(3, 35))] * 8
    alone = [packing.Tree((i,), 0) for i in range(8)]
    batch = packing.pack(rows, alone, 0, inference.PAIR, labeler.limit, 0)
    real = in_mesh._label_logprobs.lower(
      labeler.model,
      labeler.params,
      sharding.shard_batch(batch, mesh),
      inference.PAIR,
      None,
    )
  assert plan_text(config, 'score labels') == real.as_text()


@pytest.mark.parametrize(
  'kind',
  [
    'reinforce',
    'frozen apart',
    pytest.param('shared trunk', marks=pytest.mark.slow),
    pytest.param('rounds', marks=pytest.mark.slow),
  ],
)
def test_rl_update(tmp_path, tiny_model, tiny_reward_model, kind):
  config = rl_config(tiny_model, tiny_reward_model)
  config.sampling.temperature = 1.0
  config.shared_trunk = kind == 'shared trunk'
  if kind == 'frozen apart':
    config.reference_param_dtype, config.reference_offload = 'int8', True
  if kind == 'rounds':
    config.algorithm, config.max_sampling_rounds = 'rloo', 2
    config.algorithm_config = ConfigDict()
  real = stage_text(tmp_path, config, rl, 'make_update')
  mine = plan_text(config, 'update')
  assert mine == real


def test_a_shared_trunk_is_planned_once(tiny_model, tiny_reward_model):
  """In what is kept of it, and in what is computed."""
  config = rl_config(tiny_model, tiny_reward_model)
  found = []
  for config.shared_trunk in (False, True):
    programs_ = programs.of_config(config, sharding.make_mesh(_MESH))
    found.append({p.name: p for p in programs_}['rl/update'])
  own, shared = found
  trunk = context.bytes_per_chip(own.params[1])  # the reference
  less = context.bytes_per_chip(own.params) - context.bytes_per_chip(
    shared.params
  )
  assert less > 0.9 * trunk
  assert shared.work.flops < 0.8 * own.work.flops


def test_gathered_weights_are_sent_once(tiny_model):
  """What decoding sends does not grow with the tokens."""
  mesh = sharding.make_mesh({'data': 4, 'fsdp': 2})

  def sent(gather, length):
    config = rl_config(tiny_model, '')
    config.reward.name, config.max_response = 'length', length
    config.sampler.gather = gather
    found = {p.name: p for p in programs.of_config(config, mesh)}
    with jax.set_mesh(mesh):
      text = found['rl/decode'].lower({}).compile().as_text()
    return sum(c.bytes for c in hlo.collectives(text).values())

  each, once = (sent(gather, 32) - sent(gather, 16) for gather in (False, True))
  assert each > 0
  assert once < 0.02 * each


def test_nothing_passes_through_the_host(tiny_model, tiny_reward_model):
  """From the prompts to the new weights: no callback, no feed, no sending."""
  config = rl_config(tiny_model, tiny_reward_model)
  mesh = sharding.make_mesh(_MESH)
  outward = re.compile('callback|infeed|outfeed|send|recv')
  for program in programs.of_config(config, mesh):
    with jax.set_mesh(mesh):
      found = outward.search(program.lower({}).as_text())
    assert not found, (program.name, found)
  text = jax.jit(lambda x: jax.debug.print('{}', x)).lower(1.0).as_text()
  assert outward.search(text)


def test_what_a_stage_refuses_is_not_planned(tiny_model, tiny_reward_model):
  config = rl_config(tiny_model, tiny_reward_model)
  config.policy.lora.rank, config.reference_offload = 2, True
  with pytest.raises(ValueError, match=r'policy\.lora\.base_dtype'):
    programs.of_config(config, sharding.make_mesh(_MESH))


def test_what_waits_in_host_memory_is_not_counted(
  tiny_model, tiny_reward_model
):
  """And eight bits as eight."""

  def planned(**fields):
    config = rl_config(tiny_model, tiny_reward_model)
    config.update_from_flattened_dict(fields)
    found = programs.of_config(config, sharding.make_mesh(_MESH))
    update, rewards = (found[i] for i in (-1, -2))
    return (
      context.bytes_per_chip(update.params),
      context.bytes_per_chip(rewards.params),
      update.resident_bytes(),
    )

  params, rewards, resident = planned()
  assert resident == rewards > 0
  less, none, nothing = planned(
    reference_offload=True, **{'reward.offload': True}
  )
  assert nothing == none < 0.02 * rewards  # vectors stay
  reference = params - less
  assert 0.9 < reference / rewards < 1.1
  half, _, _ = planned(reference_param_dtype='bfloat16')
  assert params - half == pytest.approx(reference / 2, rel=0.05)


def test_rollouts_go_from_prefill_to_decode(tiny_model, tiny_reward_model):
  config = rl_config(tiny_model, tiny_reward_model)
  mesh = sharding.make_mesh(_MESH)
  found = programs.of_config(config, mesh)
  assert [p.name for p in found] == [
    'rl/prefill', 'rl/decode', 'rl/score rewards', 'rl/update',
  ]  # fmt: skip
  prefill, decode, rewards, update = found
  with jax.set_mesh(mesh):
    compiled = {'prefill': prefill.lower({}).compile()}
    memory = decode.lower(compiled).compile().memory_analysis()
  # Keys are 8 bytes to XLA too, and decode takes what the plan says it does.
  assert memory.argument_size_in_bytes == decode.argument_bytes()
  # Both models, the optimisers and the reference are there all the time.
  everything = update.argument_bytes() + rewards.argument_bytes()
  for program in (prefill, decode):
    held = program.argument_bytes() + program.resident_bytes()
    assert 0.9 * everything < held
  assert update.resident_bytes() == context.bytes_per_chip(rewards.params)


def test_only_and_what_is_the_same(tiny_model):
  c = stages.load('pipeline').default_config()
  c.steps = ConfigDict(
    {'sft': sft_config(tiny_model), 'a': reward_config('step:sft'),
     'b': reward_config('step:sft')},
    sort_keys=False,
  )  # fmt: skip
  mesh = sharding.make_mesh(_MESH)
  names = [p.name for p in programs.of_config(c, mesh)]
  assert names == ['sft/step', 'a/step']
  assert [p.name for p in programs.of_config(c, mesh, ('reward',))] == [
    'a/step'
  ]
  with pytest.raises(ValueError, match='nothing to plan for with only=rl'):
    programs.of_config(c, mesh, ('rl',))
  c.steps.a.model.path = 'step:later'
  with pytest.raises(ValueError, match='no step of this name'):
    programs.of_config(c, mesh)
