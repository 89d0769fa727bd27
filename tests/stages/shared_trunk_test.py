"""Policy and value on one trunk: what it computes, takes and leaves."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlaif_jax import sharding
from rlaif_jax.core.types import Rollout
from rlaif_jax.models import hf
from rlaif_jax.models.heads import ScalarModel
from rlaif_jax.stages import _lora, common, rl
from rlaif_jax.training.metrics import read_metrics

B, P, R = 8, 4, 6
ALGORITHMS = {
  'reinforce': dict(value_coef=0.3),
  'ppo': dict(value_coef=0.3, inner_epochs=1),
}
each_algorithm = pytest.mark.parametrize('name', ALGORITHMS)


def step_config(name='reinforce', **fields):
  """Plain gradient descent at rate 1, so that a step is the gradient."""
  c = rl.default_config()
  c.batch_size, c.max_prompt, c.max_response = B, P, R
  c.shared_trunk, c.algorithm = True, name
  with c.unlocked():
    c.algorithm_config = dict(ALGORITHMS[name])
  for block in (c.optimizer, c.value_optimizer):
    block.update(name='sgd', learning_rate=1.0, clip_norm=0.0, b1=0.0)
  c.update_from_flattened_dict(fields)
  return c


def random_rollout():
  """Random responses of several lengths, and log-probs in their range."""
  rng = np.random.default_rng(0)
  mask = np.arange(R)[None] < np.array([6, 2, 5, 1, 6, 3, 4, 6])[:, None]
  tokens = rng.integers(3, 60, (B, P + R)).astype(np.int32)
  logprobs = np.where(mask, -7 + 0.3 * rng.normal(size=(B, R)), 0)
  return Rollout(
    prompt_tokens=tokens[:, :P],
    prompt_mask=np.arange(P)[None] >= np.arange(B)[:, None] % 3,
    response_tokens=np.where(mask, tokens[:, P:], 0),
    response_mask=mask,
    logprobs=logprobs.astype(np.float32),
  )


SCORES = np.array([1.0, -1.0, 0.5, 0.25, 2.0, 0.0, -0.5, 0.75], np.float32)


def made(folder, config, mesh, head=0.1):
  """(update, its arguments) of the stage, from a head of about this size."""
  with jax.set_mesh(mesh):
    s = common.Session(None, config, mesh, sharding.DEFAULT_RULES)
    model, params = hf.load(folder, mesh=mesh)
    model, params = _lora.start(config.policy, model, params, 0)
    loaded = common.Loaded(model, params, None, '')
    txs = {
      'policy': common.make_optimizer(config.optimizer, 9),
      'value': common.make_optimizer(config.value_optimizer, 9),
    }
    value_model, state, frozen = rl.init_state(
      s, loaded, txs, jax.random.key(1)
    )
    if config.shared_trunk:
      kernel = state.value.params['head']['kernel']
      assert not np.any(kernel)
      state.value.params['head']['kernel'] = jax.device_put(
        np.linspace(-head, head, kernel.size, dtype=np.float32), kernel.sharding
      )
    rollout, scores = sharding.shard_batch((random_rollout(), SCORES), mesh)
    update = rl.make_update(config, model, value_model, txs)
    return update, (state, frozen, rollout, scores)


def one_update(folder, config, shape=None, head=0.1):
  """(parameters before, after, metrics), on the host; 'head' among them."""
  count = int(np.prod(list((shape or {'data': 1}).values())))
  mesh = sharding.make_mesh(shape, devices=jax.devices()[:count])
  update, args = made(folder, config, mesh, head)
  with jax.set_mesh(mesh):
    before = sharding.to_host((args[0].policy.params, args[0].value.params))
    state, metrics = update(*args)
    after = sharding.to_host((state.policy.params, state.value.params))
  return before, after, sharding.to_host(metrics)


def distance(found, expected):
  """How far a tree is from another, by the length of that one."""
  gap = optax.tree.norm(jax.tree.map(np.subtract, found, expected))
  return float(gap / optax.tree.norm(expected))


# -- what it computes ---------------------------------------------------------


def plain_outputs(model, params, head, rollout):
  """Log-probs and values [B, R], from whole logits of one pass."""
  tokens = np.concatenate([rollout.prompt_tokens, rollout.response_tokens], 1)
  mask = np.concatenate([rollout.prompt_mask, rollout.response_mask], 1)
  out = model.apply(params, tokens, mask=mask)
  logits = out.logits[:, P - 1 : -1] / 0.9
  logprobs = jnp.take_along_axis(
    jax.nn.log_softmax(logits), rollout.response_tokens[..., None], -1
  )[..., 0]
  values = out.hidden[:, P - 1 : -1] @ head['kernel'] + head['bias']
  return logprobs, values


def to_go(rewards):
  """Sums of what is still to come, token by token."""
  rewards = np.asarray(rewards).copy()
  for t in reversed(range(R - 1)):
    rewards[:, t] += rewards[:, t + 1]
  return rewards


def plain_reinforce(logprobs, values, reference, rollout):
  """Appendix F: sum_t -log p (Z - V) + 0.3 (Z - V)^2, mean over rows."""
  m = rollout.response_mask
  fixed = np.asarray(jax.lax.stop_gradient(logprobs))
  rewards = np.where(m, -0.05 * (fixed - reference), 0)
  last = m.sum(1) - 1
  rewards[np.arange(B), last] += 0.95 * SCORES
  returns = np.where(m, to_go(rewards), 0)
  gap = jax.lax.stop_gradient(returns - values)
  terms = -logprobs * gap + 0.3 * (returns - values) ** 2
  return jnp.where(m, terms, 0).sum() / B


def plain_ppo(logprobs, values, reference, rollout):
  """One epoch: clipped ratio, GAE, clipping of values has no effect yet."""
  m, old = rollout.response_mask, rollout.logprobs
  fixed = np.asarray(jax.lax.stop_gradient(values))
  rewards = np.where(m, -0.05 * (old - reference), 0)
  last = m.sum(1) - 1
  rewards[np.arange(B), last] += SCORES
  later = np.zeros((B, R))
  for i in range(B):
    above = 0.0
    for t in reversed(range(m[i].sum())):
      after = fixed[i, t + 1] if t < last[i] else 0.0
      above = rewards[i, t] + after - fixed[i, t] + 0.95 * above
      later[i, t] = above
  returns = later + fixed
  mean = later[m].mean()
  advantages = (later - mean) / np.sqrt(((later[m] - mean) ** 2).mean() + 1e-8)
  ratio = jnp.exp(logprobs - old)
  policy = -jnp.minimum(
    ratio * advantages, jnp.clip(ratio, 0.8, 1.2) * advantages
  )
  terms = policy + 0.3 * 0.5 * (values - returns) ** 2
  return jnp.where(m, terms, 0).sum() / m.sum()


@pytest.mark.parametrize(
  'name', ['reinforce', pytest.param('ppo', marks=pytest.mark.slow)]
)
def test_gradients_are_those_of_the_plain_loss(small, name):
  """Of both losses through the one trunk, and of the head."""
  before, after, metrics = one_update(small, step_config(name))
  model, params = hf.load(small)
  rollout = random_rollout()
  plain = {'reinforce': plain_reinforce, 'ppo': plain_ppo}[name]
  reference, _ = plain_outputs(model, params, before[1]['head'], rollout)
  (logprobs, values), back = jax.vjp(
    lambda *both: plain_outputs(model, *both, rollout),
    before[0],
    before[1]['head'],
  )
  slopes = jax.grad(plain, argnums=(0, 1))(
    logprobs, values, np.asarray(reference), rollout
  )
  trunk, head = back(slopes)
  found = jax.tree.map(np.subtract, before, after)
  assert distance(found[0], trunk) < 1e-5
  assert distance(found[1], {'head': head}) < 1e-5
  # A small leaf is not lost among the others; attention's cancel in float32.
  each = jax.tree.leaves(jax.tree.map(distance, found[0], trunk))
  assert max(each) < 1e-4
  assert metrics['value/optim/grad_norm'] > 1e-2


@pytest.mark.slow
def test_a_head_at_zero_leaves_the_policys_gradient_alone(small):
  """Its values are 0, and so is what they send into the trunk."""
  config = step_config()
  before, after, _ = one_update(small, config, head=0.0)
  config.algorithm_config.value_coef = 100.0
  _, other, _ = one_update(small, config, head=0.0)
  jax.tree.map(np.testing.assert_array_equal, after[0], other[0])
  assert distance(after[0], before[0]) > 1e-3
  moved, further = (x[1]['head']['kernel'] for x in (after, other))
  assert distance(further, moved) > 10


@pytest.mark.slow
def test_policy_delay_trains_the_head_only(small):
  before, after, _ = one_update(small, step_config(policy_delay=1))
  jax.tree.map(np.testing.assert_array_equal, before[0], after[0])
  assert distance(after[1], before[1]) > 1e-3


@pytest.mark.slow
@each_algorithm
def test_accumulation_changes_nothing(small, name):
  _, whole, _ = one_update(small, step_config(name))
  _, parts, _ = one_update(small, step_config(name, num_microbatches=4))
  assert distance(parts[0], whole[0]) < 1e-4
  assert distance(parts[1], whole[1]) < 1e-4


@pytest.mark.slow
@pytest.mark.multidevice
@pytest.mark.parametrize(
  ('name', 'rank'), [('reinforce', 0), ('ppo', 0), ('reinforce', 2)]
)
def test_a_mesh_changes_nothing(small, name, rank):
  config = step_config(name, **{'policy.lora.rank': rank})
  before, alone, metrics = one_update(small, config)
  shape = dict(data=2, fsdp=2, tensor=2)
  _, split, others = one_update(small, config, shape)
  for found, expected, start in zip(split, alone, before, strict=True):
    moved = distance(expected, start)
    assert moved > 1e-3
    assert distance(found, expected) < 1e-3 * moved
  for key, value in metrics.items():
    assert others[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key


# -- what it takes ------------------------------------------------------------


def cost_of(folder, config):
  """(bytes on the device, floating-point operations) of one update."""
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  update, args = made(folder, config, mesh)
  with jax.set_mesh(mesh):
    compiled = update.lower(*args).compile()
  found = compiled.memory_analysis()
  memory = (
    found.argument_size_in_bytes
    + found.output_size_in_bytes
    + found.temp_size_in_bytes
    - found.alias_size_in_bytes
  )
  return memory, compiled.cost_analysis()['flops']


@pytest.mark.slow
@each_algorithm
def test_a_step_takes_less(folder, record_property, name):
  """One trunk less is kept, optimised, and run forward and backward."""
  shared = step_config(name)
  for block in (shared.optimizer, shared.value_optimizer):
    block.update(name='adam', b1=0.9)
  own = shared.copy_and_resolve_references()
  own.shared_trunk = False
  path = folder(width=64, layers=4)
  (memory, flops), (more, many) = (cost_of(path, c) for c in (shared, own))
  record_property('memory_ratio', memory / more)
  record_property('flops_ratio', flops / many)
  print(f'{name}: memory {memory / more:.2f}, operations {flops / many:.2f}')
  assert memory < 0.75 * more
  assert flops < 0.85 * many


# -- the whole stage ----------------------------------------------------------


def stage_config(policy, reward, name, **fields):
  """Three steps on eight prompts of the tiny world."""
  c = rl.default_config()
  c.shared_trunk, c.algorithm = True, name
  with c.unlocked():
    c.algorithm_config = dict(ALGORITHMS[name])
  c.policy.path = policy
  c.reward.name, c.reward.path = 'reward_model', reward
  c.data.update(name='tiny_tldr', path='', split='rl', size=8)
  c.batch_size, c.num_steps, c.max_prompt, c.max_response = 8, 3, 80, 6
  c.checkpoint.every = 2
  for block in (c.optimizer, c.value_optimizer):
    block.name, block.learning_rate = 'adam', 1e-3
  c.update_from_flattened_dict(fields)
  return c


def untimed(rows):
  return [
    {k: v for k, v in row.items() if not k.startswith(('time/', 'perf/'))}
    for row in rows
  ]


@pytest.mark.parametrize(
  ('name', 'rank'),
  [('reinforce', 2), pytest.param('ppo', 0, marks=pytest.mark.slow)],
)
def test_stage(
  tiny_model, tiny_reward_model, tmp_path, one_device, name, rank, stored
):
  """It learns, keeps one trunk, resumes exactly, and leaves a plain model."""
  config = stage_config(tiny_model, tiny_reward_model, name)
  config.policy.lora.rank = rank
  rl.run(config, tmp_path / 'whole')
  rows = untimed(read_metrics(tmp_path / 'whole'))
  assert [row['step'] for row in rows] == [1, 2, 3]
  assert rows[0]['loss/value_avg'] > 0
  assert all(row['val/sampler_gap'] < 1e-4 for row in rows)
  assert abs(rows[2]['objective/kl']) > 1e-7
  value = {
    k for k in stored(tmp_path / 'whole') if k.startswith('value.params')
  }
  assert value == {'value.params.head.kernel', 'value.params.head.bias'}

  model, params = hf.load(tmp_path / 'whole' / 'model')
  _, start = hf.load(tiny_model)
  assert not isinstance(hf.describe(tmp_path / 'whole' / 'model'), ScalarModel)
  assert model.config.lora is None
  assert 1e-5 < distance(params, start) < 1

  rl.run(config, tmp_path / 'cut')
  for file in ('summary.json', 'checkpoints/3'):
    path = tmp_path / 'cut' / file
    path.rename(tmp_path / path.name)
  shutil.rmtree(tmp_path / 'cut' / 'model')
  rl.run(config, tmp_path / 'cut')
  assert untimed(read_metrics(tmp_path / 'cut')) == rows
  weights = 'model/model.safetensors'
  files = [(tmp_path / n / weights).read_bytes() for n in ('whole', 'cut')]
  assert files[0] == files[1]


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'algorithm': 'grpo'}, 'shared_trunk=True: grpo has no value model'),
    ({'value': 'runs/reward'}, "config.value='runs/reward' .*leave one"),
  ],
)
def test_what_cannot_be(fields, message):
  config = step_config()
  if 'algorithm' in fields:
    with config.unlocked():
      config.algorithm_config = {}
  config.update_from_flattened_dict(fields)
  with pytest.raises(ValueError, match=message):
    rl.make_options(config)
