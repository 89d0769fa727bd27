"""One update with LoRA: what moves, what it takes, and on eight devices."""

import dataclasses

import jax
import numpy as np
import pytest

from rlaif_jax import sharding
from rlaif_jax.core.types import PairBatch, Rollout
from rlaif_jax.models import hf, lora
from rlaif_jax.stages import _lora, common, reward, rl
from rlaif_jax.training import step, train_state

ADAPTERS = {'lora_a', 'lora_b'}
B, P, R = 8, 4, 4


def step_config(rank, base_dtype='float32', optimizer='adam', rate=1e-2):
  c = rl.default_config()
  c.policy.lora.rank, c.policy.lora.base_dtype = rank, base_dtype
  c.batch_size, c.max_prompt, c.max_response = B, P, R
  c.optimizer.name, c.optimizer.learning_rate = optimizer, rate
  c.optimizer.clip_norm = 0.0
  return c


def one_device():
  return sharding.make_mesh(devices=jax.devices()[:1])


def load(config, folder, mesh):
  """(session, model as a stage loads it) on a mesh that is set."""
  s = common.Session(None, config, mesh, sharding.DEFAULT_RULES)
  dtype = _lora.base_dtype(config.policy)
  model, params = hf.load(folder, dtype=dtype, mesh=mesh)
  model, params = _lora.start(config.policy, model, params, 0)
  return s, common.Loaded(model, params, None, '')


def made(config, folder, mesh):
  """(update, its arguments) of the RL stage."""
  with jax.set_mesh(mesh):
    s, loaded = load(config, folder, mesh)
    txs = dict.fromkeys(
      ('policy', 'value'), common.make_optimizer(config.optimizer, 1)
    )
    value_model, state, frozen = rl.init_state(
      s, loaded, txs, jax.random.key(2)
    )
    rollout = Rollout(
      prompt_tokens=np.arange(B * P, dtype=np.int32).reshape(B, P),
      prompt_mask=np.ones((B, P), bool),
      response_tokens=np.arange(B * R, dtype=np.int32).reshape(B, R),
      response_mask=np.ones((B, R), bool),
      logprobs=np.zeros((B, R), np.float32),
    )
    scores = np.arange(B, dtype=np.float32)
    rollout, scores = sharding.shard_batch((rollout, scores), mesh)
    update = rl.make_update(config, loaded.model, value_model, txs)
    return update, (state, frozen, rollout, scores)


def largest(first, second):
  """The largest difference between two trees."""
  differences = jax.tree.map(lambda a, b: np.abs(a - b).max(), first, second)
  return max(jax.tree.leaves(differences))


@pytest.mark.parametrize('base_dtype', ['float32', 'int8'])
def test_one_step_moves_nothing_but_adapters(small, base_dtype):
  mesh = one_device()
  update, args = made(step_config(2, base_dtype), small, mesh)
  state, frozen, rollout, scores = args
  assert frozen.policy == frozen.value == {}
  before = jax.device_get((state, frozen))
  with jax.set_mesh(mesh):
    state, metrics = update(state, frozen, rollout, scores)
  jax.tree.map(np.testing.assert_array_equal, frozen, before[1])
  assert abs(metrics['objective/kl']) < 1e-6
  policy = jax.tree.map(
    lambda a, b: np.abs(a - b).max(),
    dataclasses.replace(state.policy, opt_state=()),
    dataclasses.replace(before[0].policy, opt_state=()),
  ).params
  # A moves once B is not 0.
  for branch in policy['layers'].values():
    for projection in branch.values():
      assert projection.keys() == ADAPTERS
      assert projection['lora_b'] > 1e-3
  value = state.value.params
  assert value.keys() == {'trunk', 'head'}
  assert lora.adapters(value['trunk']).keys() == value['trunk'].keys()
  assert largest(value['head'], before[0].value.params['head']) > 1e-3


def peak_bytes(config, folder):
  """What one update needs on the device: arguments and all it makes."""
  update, args = made(config, folder, one_device())
  found = update.lower(*args).compile().memory_analysis()
  return (
    found.argument_size_in_bytes
    + found.output_size_in_bytes
    + found.temp_size_in_bytes
    - found.alias_size_in_bytes
  )


def test_a_step_takes_less_than_half_the_memory(folder, record_property):
  """Of full fine-tuning. An int8 base takes that of its kernels away, too: no
  layer's float copy outlives the layer.
  """
  path = folder(width=256, layers=4)
  full, adapted, packed = (
    peak_bytes(step_config(*options), path)
    for options in ((0,), (8,), (8, 'int8'))
  )
  record_property('memory_ratio', adapted / full)
  record_property('memory_ratio_int8', packed / full)
  print(f'LoRA {adapted:,} int8 {packed:,} / full {full:,} bytes')
  assert adapted < 0.5 * full
  kernels = 4 * 4 * (4 * 256 * 256 + 3 * 256 * 1024)  # float32, 4 layers
  assert adapted - packed > 0.7 * kernels


# -- eight devices ------------------------------------------------------------

EIGHT = {'data': 2, 'fsdp': 2, 'tensor': 2}


def assert_moved_alike(found, expected, start):
  """Trained parameters that differ by far less than they moved."""
  moved = largest(expected, start)
  assert moved > 1e-3
  assert largest(sharding.to_host(found), expected) < 1e-3 * moved


@pytest.mark.multidevice
@pytest.mark.parametrize('base_dtype', ['float32', 'int8'])
def test_policy_and_value_move_alike_on_a_mesh(small, base_dtype):
  # With larger steps values explode in the second, and rounding with them.
  config = step_config(2, base_dtype, 'sgd', 0.01)
  results = []
  for mesh in (one_device(), sharding.make_mesh(EIGHT)):
    update, (state, frozen, rollout, scores) = made(config, small, mesh)
    start = sharding.to_host((state.policy.params, state.value.params))
    query = frozen.base['layers']['attention']['query']['kernel']
    assert query.sharding.num_devices == mesh.size
    with jax.set_mesh(mesh):
      for _ in range(2):  # A moves once B is not 0
        state, metrics = update(state, frozen, rollout, scores)
    trained = state.policy.params, state.value.params
    results.append((*sharding.to_host((trained, metrics)), start))
  (alone, alone_metrics, start), (split, split_metrics, _) = results
  for found, expected, before in zip(split, alone, start, strict=True):
    assert_moved_alike(found, expected, before)
  for key, value in alone_metrics.items():
    assert split_metrics[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key


@pytest.mark.multidevice
@pytest.mark.parametrize('base_dtype', ['float32', 'int8'])
def test_a_reward_model_moves_alike_on_a_mesh(small, base_dtype):
  config = step_config(2, base_dtype, 'sgd', 1.0)
  rng = np.random.default_rng(0)
  first, second = rng.integers(0, 64, (2, B, P + R)).astype(np.int32)
  mask = np.ones((B, P + R), bool)
  mask[: B // 2, -3:] = False
  ones = np.ones(B, np.float32)
  pairs = PairBatch(first, mask, second, mask, 0.9 * ones, ones)
  results = []
  for mesh in (one_device(), sharding.make_mesh(EIGHT)):
    with jax.set_mesh(mesh):
      s, loaded = load(config, small, mesh)
      model, params = common.scalar_from(loaded, s, jax.random.key(2))
      frozen, trained = lora.split(model, params)
      tx = common.make_optimizer(config.optimizer, 1)
      train = step.make_train_step(lora.joined(reward.make_loss(model, 8)), tx)
      state = train_state.create(trained, tx, mesh)
      start = sharding.to_host(state.params)
      batch = sharding.shard_batch(pairs, mesh)
      for _ in range(2):
        state, metrics = train(state, batch, jax.random.key(0), frozen)
    results.append((sharding.to_host(state.params), metrics, start))
  (alone, alone_metrics, start), (split, split_metrics, _) = results
  assert split.keys() == {'trunk', 'head'}
  assert_moved_alike(split, alone, start)
  loss = float(alone_metrics['loss/reward'])
  assert float(split_metrics['loss/reward']) == pytest.approx(loss, rel=1e-4)
