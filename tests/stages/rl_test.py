"""The RL step: exactness on a tiny random policy."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import models, sharding
from rlaif_jax.core.types import PromptBatch
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.inference import decode, score
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.models import heads, hf, locate
from rlaif_jax.stages import _rl_update, _sampler, common, rl
from rlaif_jax.training.metrics import read_metrics

B, P, R = 8, 6, 5
CLOCK = ('time/', 'perf/')


@pytest.fixture(scope='module')
def world():
  """A random two-layer policy with prompts of several lengths."""
  tokenizer = load_tokenizer(locate.resolve('tiny:tokenizer'))
  model = models.build(
    dict(
      model_type='llama',
      vocab_size=tokenizer.vocab_size,
      hidden_size=16,
      intermediate_size=32,
      num_hidden_layers=2,
      num_attention_heads=4,
      num_key_value_heads=2,
      max_position_embeddings=64,
      rms_norm_eps=1e-5,
      tie_word_embeddings=True,
    )
  )
  params = model.init(jax.random.key(0))
  rng = np.random.default_rng(0)
  mask = np.arange(P)[None] >= rng.integers(0, P - 1, (B, 1))
  tokens = rng.integers(3, tokenizer.vocab_size, (B, P)).astype(np.int32)
  loaded = common.Loaded(model, params, tokenizer, '')
  return loaded, PromptBatch(np.where(mask, tokens, 0), mask)


def make_config(**overrides):
  c = rl.default_config()
  c.batch_size, c.num_steps, c.max_prompt, c.max_response = B, 2, P, R
  c.optimizer.name = c.value_optimizer.name = 'sgd'
  c.optimizer.learning_rate = c.value_optimizer.learning_rate = 0.1
  with c.unlocked():
    c.update(overrides)
  return c


def step_on(
  world, devices, config, scores, mesh_shape=None, start=lambda state: state
):
  """One RL step on `devices`: (rollout, new state, metrics, reference).

  `start` may change the state before the step.
  """
  loaded, prompts = world
  shape = mesh_shape or dict(data=1, fsdp=len(devices), tensor=1)
  mesh = sharding.make_mesh(shape, devices=devices)
  with jax.set_mesh(mesh):
    s = common.Session(None, config, mesh, sharding.DEFAULT_RULES)
    where = sharding.shardings(
      loaded.model.param_axes(), loaded.model.abstract_params(), mesh, s.rules
    )
    here = dataclasses.replace(
      loaded, params=jax.device_put(jax.device_get(loaded.params), where)
    )
    txs = {
      'policy': common.make_optimizer(config.optimizer, 2),
      'value': common.make_optimizer(config.value_optimizer, 2),
    }
    value_model, state, frozen = rl.init_state(s, here, txs, jax.random.key(1))
    state = start(state)
    generate = decode.make_generate(
      loaded.model,
      max_new_tokens=R,
      sampling=SamplingConfig(**config.sampling.to_dict()),
      eos_ids=loaded.tokenizer.eos_ids,
      pad_id=loaded.tokenizer.pad_id,
    )
    rollout = generate(
      state.policy.params,
      sharding.shard_batch(prompts, mesh),
      jax.random.key(2),
      np.arange(B, dtype=np.int32),
    )
    update = rl.make_update(config, loaded.model, value_model, txs)
    scores = sharding.shard_batch(np.asarray(scores, np.float32), mesh)
    state, metrics = update(state, frozen, rollout, scores)
    return jax.device_get((rollout, state, metrics, frozen.reference))


SCORES = np.linspace(-1.0, 1.0, B)


@pytest.fixture(scope='module')
def base(world):
  """The step on one device with the default options."""
  return step_on(world, jax.devices()[:1], make_config(), SCORES)


def largest(tree):
  return max(np.abs(x).max() for x in jax.tree.leaves(tree))


def test_first_step_has_no_kl_and_sampler_agrees(base):
  _, _, metrics, _ = base
  assert abs(metrics['objective/kl']) < 1e-5
  assert metrics['val/sampler_gap'] < 1e-4
  np.testing.assert_allclose(
    metrics['objective/scores'], SCORES.mean(), atol=1e-6
  )


def test_metrics_follow_the_conventions(base):
  rollout, state, metrics, _ = base
  assert {
    'objective/kl', 'objective/entropy', 'objective/scores',
    'objective/rlhf_reward', 'objective/non_score_reward', 'loss/policy_avg',
    'loss/value_avg', 'val/response_length', 'policy/optim/grad_norm',
  } <= metrics.keys()  # fmt: skip
  lengths = rollout.response_mask.sum(axis=1)
  assert metrics['val/response_length'] == pytest.approx(lengths.mean())
  assert metrics['objective/scores_std'] == pytest.approx(SCORES.std())
  assert state.policy.step == state.value.step == 1
  assert state.reward_stats.count == B


def constant_value(value):
  """Makes the value model say `value` of every state."""

  def start(state):
    head = {
      'kernel': jnp.zeros_like(state.value.params['head']['kernel']),
      'bias': jnp.full_like(state.value.params['head']['bias'], value),
    }
    params = {**state.value.params, 'head': head}
    return dataclasses.replace(
      state, value=dataclasses.replace(state.value, params=params)
    )

  return start


@pytest.mark.parametrize('placement', ['token', 'sequence'])
def test_zero_advantage_changes_nothing(world, placement):
  """Values equal returns at every token: both gradients are exactly 0."""
  config = make_config(algorithm_config=dict(beta=0.0, kl_placement=placement))
  start = constant_value(0.75)
  _, state, metrics, reference = step_on(
    world, jax.devices()[:1], config, np.full(B, 0.75), start=start
  )
  assert metrics['loss/policy_avg'] == metrics['loss/value_avg'] == 0.0
  for part in ('policy', 'value'):
    assert metrics[f'{part}/optim/grad_norm'] == 0.0
    assert metrics[f'{part}/optim/update_norm'] == 0.0
  jax.tree.map(np.testing.assert_array_equal, state.policy.params, reference)
  head = state.value.params['head']
  assert head['bias'] == 0.75
  assert not head['kernel'].any()


def test_another_baseline_gives_a_gradient(world):
  """What the test above would say if it could not fail."""
  config = make_config(algorithm_config=dict(beta=0.0))
  start = constant_value(0.5)
  _, state, metrics, reference = step_on(
    world, jax.devices()[:1], config, np.full(B, 0.75), start=start
  )
  assert metrics['policy/optim/grad_norm'] > 1e-3
  moved = jax.tree.map(np.subtract, state.policy.params, reference)
  assert largest(moved) > 1e-4
  assert state.value.params['head']['bias'] > 0.5


@pytest.mark.multidevice
@pytest.mark.parametrize(
  'shape',
  [
    dict(data=8, fsdp=1, tensor=1),
    dict(data=1, fsdp=8, tensor=1),
    dict(data=2, fsdp=2, tensor=2),
    dict(data=1, fsdp=2, tensor=4),
  ],
)
def test_sharded_step_equals_unsharded(world, base, shape):
  def spread(state):
    """Parameters are in pieces, where the mesh says so, and not copies."""
    for part in (state.policy, state.value):
      whole = [x.is_fully_replicated for x in jax.tree.leaves(part.params)]
      assert all(whole) if shape['data'] == 8 else not all(whole)
      assert {len(x.devices()) for x in jax.tree.leaves(part.params)} == {8}
    return state

  one = base
  many = step_on(
    world, jax.devices(), make_config(), SCORES, shape, start=spread
  )
  np.testing.assert_array_equal(one[0].response_tokens, many[0].response_tokens)
  for key, value in one[2].items():
    np.testing.assert_allclose(
      many[2][key], value, rtol=2e-4, atol=2e-5, err_msg=key
    )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), one[1], many[1]
  )


def test_accumulation_changes_nothing(world, base):
  config = make_config(num_microbatches=4)
  _, state, *_ = step_on(world, jax.devices()[:1], config, SCORES)
  for part in ('policy', 'value'):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
      getattr(base[1], part).params,
      getattr(state, part).params,
    )


def test_bfloat16_computes_and_float32_is_kept(world, base):
  """The switch changes what is computed a little, and no parameter's type."""
  loaded, prompts = world
  model = models.with_options(loaded.model, dtype='bfloat16')
  half = (dataclasses.replace(loaded, model=model), prompts)
  _, state, metrics, _ = step_on(half, jax.devices()[:1], make_config(), SCORES)
  for part in (state.policy, state.value):
    types = {str(x.dtype) for x in jax.tree.leaves(part.params)}
    assert types == {'float32'}
  entropy = base[2]['objective/entropy']
  assert metrics['objective/entropy'] == pytest.approx(entropy, rel=0.02)
  assert metrics['objective/entropy'] != entropy
  assert abs(metrics['objective/kl']) < 1e-5
  assert metrics['policy/optim/grad_norm'] > 0


def test_policy_delay_trains_the_value_only(world):
  _, state, _, reference = step_on(
    world, jax.devices()[:1], make_config(policy_delay=1), SCORES
  )
  jax.tree.map(np.testing.assert_array_equal, state.policy.params, reference)
  trunk = jax.tree.map(np.subtract, state.value.params['trunk'], reference)
  assert largest(trunk) > 1e-5


def test_response_values_line_up_with_tokens(world, base):
  """Value t belongs to the state before response token t."""
  loaded, prompts = world
  rollout = base[0]
  model = heads.ScalarModel(loaded.model)
  params = model.init_from(loaded.params, jax.random.key(3))
  values = jax.jit(lambda p, r: score.response_values(model, p, r))(
    params, rollout
  )
  tokens = np.concatenate([prompts.tokens, rollout.response_tokens[:, :2]], 1)
  mask = np.concatenate([prompts.mask, np.ones((B, 2), bool)], 1)
  full = jax.jit(lambda p: model.values(p, tokens, mask=mask))(params)
  np.testing.assert_allclose(values[:, 0], full[:, P - 1], atol=1e-5)
  second = rollout.response_mask[:, 1]
  np.testing.assert_allclose(
    np.asarray(values)[second, 1], np.asarray(full)[second, P], atol=1e-5
  )
  assert not np.asarray(values)[~rollout.response_mask].any()


def test_running_reward_scaling():
  stats = _rl_update.RunningStats.zero()
  scores = jnp.array([1.0, 3.0, 5.0, 7.0])
  scaled, stats = _rl_update.scale_rewards('running', scores, stats)
  np.testing.assert_allclose(scaled, scores / np.std(scores), rtol=1e-6)
  _, stats = _rl_update.scale_rewards('running', -scores, stats)
  everything = np.concatenate([scores, -scores])
  np.testing.assert_allclose(stats.std(), everything.std(), rtol=1e-6)
  unscaled, same = _rl_update.scale_rewards(
    'none', scores, _rl_update.RunningStats.zero()
  )
  np.testing.assert_array_equal(unscaled, scores)
  np.testing.assert_allclose(same.std(), np.std(scores), rtol=1e-6)


# -- the whole stage ----------------------------------------------------------


def stage_config(policy, reward, **overrides):
  """Three steps on eight prompts of the tiny world."""
  c = rl.default_config()
  c.policy.path = policy
  c.reward.name, c.reward.path = reward
  c.reward.max_tokens, c.reward.batch_size = 256, 8
  c.data.update(name='tiny_tldr', path='', split='rl', size=8)
  c.batch_size, c.num_steps, c.max_prompt, c.max_response = 8, 3, 80, 6
  for block in (c.optimizer, c.value_optimizer):
    block.name, block.learning_rate = 'adam', 1e-3
  c.update_from_flattened_dict(overrides)
  return c


def assert_alike(one, two):
  """Two runs' metrics are the same but for rounding."""
  for first, second in zip(one, two, strict=True):
    for key in first.keys() - {k for k in first if k.startswith(CLOCK)}:
      # Adam's first update is as large where the gradient is rounding alone.
      steep = 'grad_norm' in key or key == 'objective/kl'
      rel = 1e-2 if steep else 1e-3
      assert second[key] == pytest.approx(first[key], rel=rel, abs=1e-4), key


@pytest.mark.parametrize('name', ['reward_model', 'direct'])
def test_stage(tiny_model, tiny_reward_model, tmp_path, one_device, name):
  path = tiny_reward_model if name == 'reward_model' else tiny_model
  rl.run(stage_config(tiny_model, (name, path)), tmp_path)
  rows = read_metrics(tmp_path)
  assert [row['step'] for row in rows] == [1, 2, 3]
  assert abs(rows[0]['objective/kl']) < 1e-5
  assert abs(rows[2]['objective/kl']) > 1e-5
  assert all(row['val/sampler_gap'] < 1e-4 for row in rows)
  assert all(row['objective/scores_std'] > 0 for row in rows)
  if name == 'direct':
    assert all(-1 <= row['objective/scores'] <= 1 for row in rows)
  assert json.loads((tmp_path / 'summary.json').read_text()) == rows[-1]
  _, start = hf.load(tiny_model)
  _, params = hf.load(tmp_path / 'model')
  assert largest(jax.tree.map(np.subtract, params, start)) > 1e-4


def test_prompts_padded_to_their_longest(
  tiny_model, tmp_path, one_device, monkeypatch
):
  """Another width of the same prompts: the same run, but for rounding."""
  widths, make = [], _sampler.make

  def seen(*args):
    sampler = make(*args)

    def run(params, prompts, *rest):
      widths.append(prompts.tokens.shape[1])
      return sampler(params, prompts, *rest)

    return run

  monkeypatch.setattr(_sampler, 'make', seen)
  rows = []
  for buckets in (True, False):
    config = stage_config(
      tiny_model,
      ('length', ''),
      max_prompt=110,
      **{'sampler.buckets': buckets},
    )
    rl.run(config, tmp_path / str(buckets))
    rows.append(read_metrics(tmp_path / str(buckets)))
  assert max(widths[:3]) < 110
  assert widths[3:] == [110] * 3
  assert_alike(*rows)


@pytest.mark.multidevice
def test_stage_on_a_mesh_is_that_on_one_device(
  tiny_model, tmp_path, one_device, monkeypatch
):
  """Rollouts, scores and updates of the first two steps agree."""
  config = stage_config(tiny_model, ('direct', tiny_model), num_steps=2)
  rl.run(config, tmp_path / 'one')
  everywhere = functools.partial(sharding.make_mesh, devices=jax.devices())
  monkeypatch.setattr(sharding, 'make_mesh', everywhere)
  config.mesh.update(data=2, fsdp=2, tensor=2)
  rl.run(config, tmp_path / 'eight')
  assert_alike(*(read_metrics(tmp_path / name) for name in ('one', 'eight')))


def test_reference_and_value_of_their_own(make_model, tmp_path, one_device):
  """KL is to the reference; the value model starts from its own trunk."""
  other = make_model(1)
  config = stage_config(
    make_model(0), ('direct', make_model(0)), reference=other, value=other
  )
  mesh = sharding.make_mesh()
  with jax.set_mesh(mesh):
    s = common.Session(tmp_path, config, mesh, sharding.DEFAULT_RULES)
    txs = dict.fromkeys(
      ('policy', 'value'), common.make_optimizer(config.optimizer, 1)
    )
    _, state, frozen = rl.init_state(
      s, common.load_policy(config.policy, s), txs, jax.random.key(0)
    )
  _, params = hf.load(other)
  jax.tree.map(np.testing.assert_array_equal, frozen.reference, params)
  jax.tree.map(
    np.testing.assert_array_equal, state.value.params['trunk'], params
  )
  assert largest(jax.tree.map(np.subtract, state.policy.params, params)) > 0.1
  config.num_steps = 1
  rl.run(config, tmp_path / 'run')
  assert abs(read_metrics(tmp_path / 'run')[0]['objective/kl']) > 0.1
