"""The RL step: exactness on a tiny random policy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import models, sharding
from rlaif_jax.core.types import PromptBatch
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.inference import decode, score
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.models import locate
from rlaif_jax.stages import common, rl

B, P, R = 8, 6, 5


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


def step_on(world, devices, config, scores, mesh_shape=None):
  """One RL step on `devices`: (rollout, new state, metrics, reference)."""
  loaded, prompts = world
  shape = mesh_shape or dict(data=1, fsdp=len(devices), tensor=1)
  mesh = sharding.make_mesh(shape, devices)
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
    value_model, state, reference = rl.init_state(
      s, here, txs, jax.random.key(1)
    )
    generate = decode.make_generate(
      loaded.model,
      max_new_tokens=R,
      sampling=SamplingConfig(**config.sampling.to_dict()),
      eos_ids=(loaded.tokenizer.eos_id,),
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
    state, metrics = update(state, reference, rollout, scores)
    return jax.device_get((rollout, state, metrics, reference))


SCORES = np.linspace(-1.0, 1.0, B)


def test_first_step_has_no_kl_and_sampler_agrees(world):
  _, _, metrics, _ = step_on(world, jax.devices()[:1], make_config(), SCORES)
  assert abs(metrics['objective/kl']) < 1e-5
  assert metrics['val/sampler_gap'] < 1e-4
  np.testing.assert_allclose(
    metrics['objective/scores'], SCORES.mean(), atol=1e-6
  )


def test_zero_advantage_leaves_the_policy_alone(world):
  """Equal scores, a perfect value model, no KL: nothing to learn from."""
  config = make_config(algorithm_config=dict(beta=0.0))
  _, state, _, reference = step_on(
    world, jax.devices()[:1], config, np.zeros(B)
  )
  # The value head starts near zero, so move it out of the way: scores equal
  # to the values give advantages of exactly zero only when both are zero.
  values = jax.tree.map(jnp.zeros_like, state.value.params['head'])
  assert jax.tree.all(jax.tree.map(lambda v: not v.any(), values))
  moved = jax.tree.map(
    lambda a, b: np.abs(a - b).max(), state.policy.params, reference
  )
  assert max(jax.tree.leaves(moved)) < 0.1


@pytest.mark.multidevice
@pytest.mark.parametrize(
  'shape',
  [
    dict(data=8, fsdp=1, tensor=1),
    dict(data=1, fsdp=8, tensor=1),
    dict(data=2, fsdp=2, tensor=2),
  ],
)
def test_sharded_step_equals_unsharded(world, shape):
  config = make_config()
  one = step_on(world, jax.devices()[:1], config, SCORES)
  many = step_on(world, jax.devices(), config, SCORES, shape)
  np.testing.assert_array_equal(one[0].response_tokens, many[0].response_tokens)
  for key, value in one[2].items():
    np.testing.assert_allclose(
      many[2][key], value, rtol=2e-4, atol=2e-5, err_msg=key
    )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), one[1], many[1]
  )


def test_accumulation_changes_nothing(world):
  one = step_on(world, jax.devices()[:1], make_config(), SCORES)
  two = step_on(
    world, jax.devices()[:1], make_config(num_microbatches=4), SCORES
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
    one[1].policy.params,
    two[1].policy.params,
  )


def test_policy_delay_trains_the_value_only(world):
  _, state, _, reference = step_on(
    world, jax.devices()[:1], make_config(policy_delay=1), SCORES
  )
  jax.tree.map(np.testing.assert_array_equal, state.policy.params, reference)
  assert any(
    np.abs(x).max() > 0 for x in jax.tree.leaves(state.value.params['head'])
  )


def test_response_values_line_up_with_tokens(world):
  """Value t belongs to the state before response token t."""
  loaded, prompts = world
  rollout, *_ = step_on(world, jax.devices()[:1], make_config(), SCORES)
  model, params = common.heads.ScalarModel(loaded.model), None
  params = model.init_from(loaded.params, jax.random.key(3))
  values = score.response_values(model, params, rollout)
  tokens = np.concatenate([prompts.tokens, rollout.response_tokens[:, :2]], 1)
  mask = np.concatenate([prompts.mask, np.ones((B, 2), bool)], 1)
  full = model.values(params, tokens, mask=mask)
  np.testing.assert_allclose(values[:, 0], full[:, P - 1], atol=1e-5)
  np.testing.assert_allclose(values[:, 1], full[:, P], atol=1e-5)


def test_running_reward_scaling():
  stats = rl.RunningStats.zero()
  scores = jnp.array([1.0, 3.0, 5.0, 7.0])
  scaled, stats = rl.scale_rewards('running', scores, stats)
  np.testing.assert_allclose(scaled, scores / np.std(scores), rtol=1e-6)
  _, stats = rl.scale_rewards('running', -scores, stats)
  everything = np.concatenate([scores, -scores])
  np.testing.assert_allclose(stats.std(), everything.std(), rtol=1e-6)
  with pytest.raises(ValueError, match='reward_scaling'):
    rl.scale_rewards('sometimes', scores, stats)
