"""Groups of responses that share a prompt, against a row for each."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import models, sharding
from rlaif_jax.core.types import PromptBatch, Rollout
from rlaif_jax.inference import compact, decode, rows, score
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.models import heads
from rlaif_jax.rewards import reward_model

GROUPS, GROUP, P, R = 2, 4, 5, 6
B = GROUPS * GROUP
close = dict(rtol=2e-5, atol=2e-6)


@pytest.fixture(scope='module')
def world():
  """(model, params): learned positions and a window that cuts prompts off."""
  model = models.build(
    dict(
      model_type='gpt_neo',
      vocab_size=24,
      hidden_size=16,
      num_layers=2,
      num_heads=4,
      attention_types=[[['global', 'local'], 1]],
      window_size=4,
      max_position_embeddings=P + R,
      intermediate_size=32,
    )
  )
  return model, jax.jit(model.init)(jax.random.key(0))


@pytest.fixture(scope='module')
def rollout():
  """Groups of unlike prompts, responses of all lengths; group not said."""
  rng = np.random.default_rng(0)
  mask = np.arange(P)[None] >= np.array([[0], [2]])
  tokens = np.where(mask, rng.integers(4, 24, (GROUPS, P)), 0)
  real = np.arange(R)[None] < np.array([[6, 0, 3, 1, 2, 6, 6, 5]]).T
  response = np.where(real, rng.integers(4, 24, (B, R)), 0)
  return Rollout(
    tokens.repeat(GROUP, 0).astype(np.int32),
    mask.repeat(GROUP, 0),
    response.astype(np.int32),
    real,
    np.zeros((B, R), np.float32),
  )


def in_groups(batch, count=GROUP):
  return dataclasses.replace(batch, group=count)


@pytest.mark.parametrize('count', [1, 2, 4])
def test_statistics_and_gradients(world, rollout, monkeypatch, count):
  model, params = world

  def loss(params, batch):
    stats = score.response_stats(model, params, batch, entropy=True)
    weight = jnp.cos(jnp.arange(B * R, dtype=jnp.float32).reshape(B, R))
    return jnp.sum((stats.logprobs + stats.entropy) * weight), stats

  run = jax.value_and_grad(loss, has_aux=True)
  alone = run(params, rollout)
  monkeypatch.setattr(rows, 'together', lambda config, batch: count)
  assert rows.join(model.config, in_groups(rollout)).tokens.shape == (
    B // count,
    P + count * R,
  )
  shared = run(params, in_groups(rollout))
  chex.assert_trees_all_close(shared, alone, **close)


@pytest.mark.parametrize('count', [1, 2, 4])
def test_scores_and_values(world, rollout, monkeypatch, count):
  model = heads.ScalarModel(world[0])
  params = model.init(jax.random.key(1))
  text = np.concatenate([rollout.prompt_tokens, rollout.response_tokens], 1)
  mask = np.concatenate([rollout.prompt_mask, rollout.response_mask], 1)
  scores = model.apply(params, text, mask=mask)
  values = score.response_values(model, params, rollout)
  monkeypatch.setattr(rows, 'together', lambda config, batch: count)
  # Compiled anew: what is compiled does not know what was patched.
  found = jax.jit(lambda p: reward_model.score_rollout(model, p, groups))
  groups = in_groups(rollout)
  chex.assert_trees_all_close(found(params), scores, **close)
  found = score.response_values(model, params, groups)
  chex.assert_trees_all_close(found, values, **close)


@pytest.mark.parametrize('module', [decode, compact])
def test_prompts_are_prefilled_once(world, rollout, module):
  model, params = world
  prompts = PromptBatch(rollout.prompt_tokens, rollout.prompt_mask)
  generate = module.make_generate(
    model,
    max_new_tokens=R,
    sampling=SamplingConfig(),
    eos_ids=(3, 4, 5),
    pad_id=0,
  )
  key = jax.random.key(0)
  alone = generate(params, prompts, key)
  shared = generate(params, in_groups(prompts), key)
  assert shared.group == GROUP
  chex.assert_trees_all_close(in_groups(shared, 1), alone, **close)
  first = np.asarray(shared.response_tokens)[:GROUP]
  assert len(np.unique(first, axis=0)) > 1
  logits, cache = decode.prefill(model, params, in_groups(prompts), R)
  expected, whole = decode.prefill(model, params, prompts, R)
  chex.assert_trees_all_close((logits, cache), (expected, whole), **close)
  text = str(
    jax.make_jaxpr(decode.prefill, static_argnums=(0, 3))(
      model, params, in_groups(prompts), R
    )
  )
  assert f'f32[{GROUPS},{P},16]' in text
  assert f'f32[{B},{P},16]' not in text


def test_as_many_as_take_the_least_arithmetic(world):
  config = dataclasses.replace(world[0].config, width=256)

  def chosen(prompt, new, group, rows_=64):
    tokens, response = np.zeros((rows_, prompt)), np.zeros((rows_, new))
    batch = Rollout(tokens, tokens, response, response, response, group)
    return rows.together(config, batch)

  assert chosen(128, 64, 1) == 1
  assert chosen(128, 64, 2) == 2
  # By hand, 128 + 64 n slots times (6 * 256 + slots), over n: for n of 1, 2,
  # 4, 8 and 16 these are 331776, 229376, 184320, 174080 and 192960.
  assert chosen(128, 64, 16) == 8
  assert chosen(1, 512, 16) == 1
  # 6 is no divisor of 64 rows; 3 neither.
  assert chosen(128, 64, 6) == 2


@pytest.mark.multidevice
def test_only_where_the_mesh_splits_groups_too(world, rollout):
  model, params = world
  batch, mesh = in_groups(rollout), sharding.make_mesh(dict(data=2, tensor=4))
  expected = score.response_stats(model, params, rollout)
  with jax.set_mesh(mesh):
    assert rows.divides(batch, 4)
    assert not rows.divides(batch, 4, parts=2)
    assert rows.divides(batch, 2, parts=2)
    assert not rows.divides(batch, 3)
    where = sharding.shardings(
      model.param_axes(), model.abstract_params(), mesh
    )
    found = jax.jit(score.response_stats, static_argnums=0)(
      model, jax.device_put(params, where), sharding.shard_batch(batch, mesh)
    )
  chex.assert_trees_all_close(sharding.to_host(found), expected, **close)
  with jax.set_mesh(sharding.make_mesh(dict(data=8))):
    assert not rows.divides(batch, 2)
    assert rows.together(model.config, batch) == 1
