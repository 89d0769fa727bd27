"""PPO-ptx: what other texts add to an update, and where the value starts."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import sharding
from rlaif_jax.core.types import Rollout, TokenBatch
from rlaif_jax.models import hf
from rlaif_jax.rewards import reward_model
from rlaif_jax.stages import _ptx, _rl_update, common, rl
from rlaif_jax.training.metrics import read_metrics

B, P, R, RATIO = 8, 4, 6, 2
CLOCK = ('time/', 'perf/')
SCORES = np.array([1.0, -1.0, 0.5, 0.25, 2.0, 0.0, -0.5, 0.75], np.float32)


def step_config(algorithm='rloo', coef=3.0, **options):
  c = rl.default_config()
  c.batch_size, c.max_prompt, c.max_response = B, P, R
  c.ptx.coef, c.ptx.ratio = coef, RATIO
  c.optimizer.update(name='sgd', learning_rate=0.01, clip_norm=0.0, b1=0.0)
  c.algorithm = algorithm
  with c.unlocked():
    c.algorithm_config = options
  return c


def random_texts(vocab_size):
  """Of several lengths, so that a mean over tokens is none over texts."""
  rng = np.random.default_rng(1)
  lengths = rng.integers(2, P + R + 1, (B, RATIO, 1))
  mask = np.arange(P + R)[None, None] < lengths
  tokens = rng.integers(3, vocab_size, mask.shape).astype(np.int32)
  return TokenBatch(np.where(mask, tokens, 0), mask, mask)


def update_on(folder, config, mesh_shape=None, scores=SCORES, with_texts=True):
  """(parameters before, those after, metrics) of one update, on the host."""
  count = int(np.prod(list((mesh_shape or {'data': 1}).values())))
  mesh = sharding.make_mesh(mesh_shape, devices=jax.devices()[:count])
  with jax.set_mesh(mesh):
    s = common.Session(None, config, mesh, sharding.DEFAULT_RULES)
    model, params = hf.load(folder, mesh=mesh)
    loaded = common.Loaded(model, params, None, '')
    txs = {'policy': common.make_optimizer(config.optimizer, 9)}
    _, state, frozen = rl.init_state(s, loaded, txs, jax.random.key(1))
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, model.config.vocab_size, (B, P + R))
    tokens = tokens.astype(np.int32)
    mask = np.arange(R)[None] < rng.integers(1, R + 1, (B, 1))
    rollout = Rollout(
      tokens[:, :P], np.ones((B, P), bool), np.where(mask, tokens[:, P:], 0),
      mask, np.zeros((B, R), np.float32),
    )  # fmt: skip
    stats = _rl_update.score.response_stats(
      model, jax.device_get(params), rollout, temperature=0.9
    )
    logprobs = np.where(mask, stats.logprobs, 0).astype(np.float32)
    rollout = Rollout(**{**vars(rollout), 'logprobs': logprobs})
    texts = random_texts(model.config.vocab_size) if with_texts else None
    args = sharding.shard_batch((rollout, scores, texts), mesh)
    update = rl.make_update(config, model, None, txs)
    before = sharding.to_host(state.policy.params)
    state, metrics = sharding.to_host(update(state, frozen, *args))
    return before, state.policy.params, metrics


def mean_nll(model, params, tokens, mask):
  """Over all tokens but the first ones, with a whole log-softmax."""
  logits = model.apply(params, tokens, mask=mask).logits[:, :-1]
  logs = jax.nn.log_softmax(logits)
  found = jnp.take_along_axis(logs, tokens[:, 1:, None], -1)[..., 0]
  real = mask[:, 1:]
  return -jnp.sum(jnp.where(real, found, 0.0)) / jnp.sum(real)


def moved(after, before):
  return jax.tree.map(lambda a, b: a - b, after, before)


def assert_close(one, other, atol=1e-6):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol),
    one,
    other,
  )


@pytest.mark.parametrize('parts', [pytest.param(1, marks=pytest.mark.slow), 4])
def test_an_update_is_that_without_plus_gamma_times_the_texts(
  tiny_model, parts
):
  """Whatever the microbatches, which hold unlike numbers of tokens."""
  plain = step_config(coef=0.0, group_size=2)
  _, without, _ = update_on(tiny_model, plain, with_texts=False)
  config = step_config(group_size=2)
  config.num_microbatches = parts
  before, after, metrics = update_on(tiny_model, config)
  model, _ = hf.load(tiny_model)
  texts = random_texts(model.config.vocab_size)
  flat = [x.reshape(-1, P + R) for x in (texts.tokens, texts.mask)]
  loss, grads = jax.jit(jax.value_and_grad(functools.partial(mean_nll, model)))(
    before, *flat
  )
  np.testing.assert_allclose(metrics['loss/ptx'], loss, rtol=1e-5)
  expected = jax.tree.map(lambda g: -0.01 * 3.0 * g, grads)
  assert max(np.abs(x).max() for x in jax.tree.leaves(expected)) > 1e-4
  assert_close(moved(after, without), expected)


@pytest.mark.slow
def test_each_part_of_a_batch_has_its_own_texts(tiny_model):
  """Nothing to learn from the scores: only the texts of its rows move it."""
  config = step_config(beta=0.0, group_size=2, num_minibatches=2)
  before, after, _ = update_on(tiny_model, config, scores=0 * SCORES)
  model, _ = hf.load(tiny_model)
  texts = random_texts(model.config.vocab_size)
  _, options = rl.make_options(config)
  grad = jax.jit(jax.grad(functools.partial(mean_nll, model)))
  params = before
  for rows in _rl_update.make_order(config.seed, jnp.int32(0), B, options):
    flat = [x[rows].reshape(-1, P + R) for x in (texts.tokens, texts.mask)]
    params = jax.tree.map(
      lambda p, g: p - 0.01 * 3.0 * g, params, grad(params, *flat)
    )
  assert_close(after, params)


def test_nothing_is_there_when_it_is_off(tiny_model):
  _, _, metrics = update_on(
    tiny_model, step_config(coef=0.0, group_size=2), with_texts=False
  )
  assert not [key for key in metrics if 'ptx' in key]
  assert _ptx.make_texts(step_config(coef=0.0), None)(0) is None
  batch = _rl_update._Batch(*[jnp.zeros(2)] * 3, None, None)
  assert len(jax.tree.leaves(batch)) == 3


@pytest.mark.slow
@pytest.mark.multidevice
def test_a_mesh_changes_nothing(tiny_model):
  config = step_config(group_size=2)
  one = update_on(tiny_model, config)
  eight = update_on(tiny_model, config, dict(data=2, fsdp=2, tensor=2))
  assert_close(one[1], eight[1], atol=2e-5)
  np.testing.assert_allclose(
    one[2]['loss/ptx'], eight[2]['loss/ptx'], rtol=1e-5
  )


# -- the whole stage ----------------------------------------------------------


def stage_config(policy, reward, **overrides):
  """Three steps on eight prompts of the tiny world."""
  c = step_config(group_size=2, num_minibatches=2)
  c.policy.path, c.reward.path = policy, reward
  c.data.update(name='tiny_tldr', path='', split='rl', size=8)
  c.ptx.data.update(name='tiny_tldr', path='', split='train', size=6)
  c.num_steps, c.max_prompt = 3, 80
  c.checkpoint.every = 2
  for block in (c.optimizer, c.value_optimizer):
    block.update(name='adam', learning_rate=1e-3, b1=0.9)
  c.update_from_flattened_dict(overrides)
  return c


def test_texts_are_prompt_and_response(tiny_model):
  config = stage_config(tiny_model, '')
  config.max_prompt, config.max_response = 40, 4
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  with jax.set_mesh(mesh):
    s = common.Session(None, config, mesh, sharding.DEFAULT_RULES)
    loaded = common.load_policy(config.policy, s)
  texts = _ptx.make_texts(config, loaded)
  found = texts(0)
  assert found.tokens.shape == (B, RATIO, 44)
  rows = [r for at in range(2) for r in texts(at).tokens.reshape(-1, 44)]
  rows = {row.tobytes() for row in rows}
  tokenizer = loaded.tokenizer
  expected = set()
  for e in common.load_examples(config.ptx.data):
    ids = tokenizer.encode(e.prompt)
    ids += [*tokenizer.encode_plain(' ' + e.response), tokenizer.eos_id]
    ids = (ids + [tokenizer.pad_id] * 44)[:44]
    expected.add(np.array(ids, np.int32).tobytes())
  assert rows == expected
  np.testing.assert_array_equal(found.tokens, texts(0).tokens)


def test_a_run_goes_on_where_it_was(
  tiny_model, tiny_reward_model, tmp_path, one_device
):
  config = stage_config(tiny_model, tiny_reward_model)
  rl.run(config, tmp_path / 'whole')
  rows = read_metrics(tmp_path / 'whole')
  assert rows[2]['loss/ptx'] < rows[0]['loss/ptx']
  rl.run(config, tmp_path / 'cut')
  for name in ('summary.json', 'checkpoints/3'):
    path = tmp_path / 'cut' / name
    path.rename(tmp_path / path.name)
  rl.run(config, tmp_path / 'cut')
  for row, expected in zip(read_metrics(tmp_path / 'cut'), rows, strict=True):
    for key in expected.keys() - {k for k in expected if k.startswith(CLOCK)}:
      assert row[key] == expected[key], key


@pytest.mark.slow
@pytest.mark.parametrize('rank', [0, 2])
def test_ppo_with_a_value_model_that_was_a_reward_model(
  tiny_model, tiny_reward_model, tmp_path, one_device, rank
):
  """Whole, and with adapters."""
  config = stage_config(tiny_model, tiny_reward_model, value=tiny_reward_model)
  config.algorithm = 'ppo'
  with config.unlocked():
    config.algorithm_config = dict(inner_epochs=1, num_minibatches=2)
  config.policy.lora.rank = rank
  rl.run(config, tmp_path)
  rows = read_metrics(tmp_path)
  assert rows[2]['loss/ptx'] < rows[0]['loss/ptx']
  assert all(row['loss/value_avg'] > 0 for row in rows)


def test_texts_that_are_missing_are_asked_for(tiny_model, tmp_path):
  for overrides, message in (
    ({'ptx.data.name': ''}, 'coef=3.0, but there are no texts'),
    ({'ptx.coef': -1.0}, 'coef=-1.0 is below 0'),
    ({'ptx.ratio': 0}, 'ratio=0; it must be at least 1'),
  ):
    config = stage_config(tiny_model, '', **overrides)
    with pytest.raises(ValueError, match=message):
      rl.run(config, tmp_path)


# -- where the value model starts ---------------------------------------------


def test_values_start_as_the_reward_says(
  tiny_model, tiny_reward_model, tmp_path
):
  """At the end of a response the value is its normalised score."""
  config = stage_config(tiny_model, tiny_reward_model)
  folder = tmp_path / 'reward'
  model, params = hf.load_reward_model(tiny_reward_model)
  hf.save(folder, model, params, None)
  (folder / reward_model.STATS_FILE).write_text(
    json.dumps({'mean': 0.3, 'std': 2.5})
  )
  config.value = str(folder)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  with jax.set_mesh(mesh):
    s = common.Session(tmp_path, config, mesh, sharding.DEFAULT_RULES)
    txs = dict.fromkeys(
      ('policy', 'value'), common.make_optimizer(config.optimizer, 1)
    )
    value_model, state, _ = rl.init_state(
      s, common.load_policy(config.policy, s), txs, jax.random.key(0)
    )
  tokens = np.arange(3, 15, dtype=np.int32).reshape(2, 6)
  raw = np.asarray(model.apply(params, tokens))
  found = value_model.apply(state.value.params, tokens)
  np.testing.assert_allclose(found, (raw - 0.3) / 2.5, atol=1e-5)
  assert np.ptp(raw) > 1e-3
