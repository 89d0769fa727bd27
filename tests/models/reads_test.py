"""A pass of which some slots alone are read, against all of a full pass."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import models
from rlaif_jax.inference import score
from rlaif_jax.models import sight

FAMILIES = ['gemma2', 'gpt_neo', 'olmo2', 'phi', 'qwen3']
# Not in order, twice the same, and at padding.
READS = np.array([[5, 2, 2], [23, 0, 11], [9, 8, 1]], np.int32)
close = dict(rtol=2e-5, atol=2e-5)


def hidden_of(model, params, tokens, *, early, reads=READS, **options):
  """Hidden states at `reads`, picked at the end or left out before."""
  at = reads if early else None
  out = model.apply(params, tokens, reads=at, logits=False, **options)
  hidden = out.hidden if early else sight.take(out.hidden, reads)
  return hidden, out.cache


def assert_alike(model, params, tokens, **options):
  """In values, caches, and gradients of something that all results are in."""

  def loss(params, early):
    hidden, cache = hidden_of(model, params, tokens, early=early, **options)
    weight = jnp.cos(jnp.arange(hidden.size, dtype=jnp.float32))
    return (hidden.reshape(-1) * weight).mean(), (hidden, cache)

  run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
  chex.assert_trees_all_close(run(params, True), run(params, False), **close)


@pytest.mark.parametrize('name', FAMILIES)
def test_gradients(load_checkpoint, name):
  lm = load_checkpoint(name)
  model, params = lm.language_model
  model = models.with_options(model, remat=name == 'phi')
  tokens, mask = lm.padded('right')
  assert_alike(model, params, tokens, mask=mask)


@pytest.mark.parametrize('name', ['gpt_neo', 'qwen3'])
def test_the_cache_is_whole(load_checkpoint, name):
  lm = load_checkpoint(name)
  model, params = lm.language_model
  tokens, mask = lm.padded('left')
  cache = model.init_cache(3, 30)
  (hidden, found), (expected, whole) = (
    hidden_of(model, params, tokens, mask=mask, cache=cache, early=early)
    for early in (True, False)
  )
  chex.assert_trees_all_close(hidden, expected, **close)
  chex.assert_trees_all_close(found, whole, **close)


@pytest.mark.parametrize('name', ['gemma2', 'gpt_neo'])
def test_trees_after_a_prefix(load_checkpoint, name):
  lm = load_checkpoint(name)
  model, params = lm.language_model
  tokens, _ = lm.padded('right', pad_id=1)
  ends = np.full(tokens.shape, 20)
  ends[:, 4:9] = 9
  ends[:, 20:] = 0
  before = score.prefill(model, params, tokens[:1], np.arange(24)[None] > 3)
  assert_alike(model, params, tokens, ends=ends, prefix=before)


def test_more_reads_than_slots(load_checkpoint):
  lm = load_checkpoint('gpt_neo')
  model, params = lm.language_model
  tokens, mask = lm.padded('right')
  reads = np.arange(60).reshape(3, 20).repeat(2, axis=1) % 24
  assert_alike(model, params, tokens, mask=mask, reads=reads)


def test_with_a_kernel(load_checkpoint):
  lm = load_checkpoint('gpt_neo')
  model, params = lm.language_model
  tokens, mask = lm.padded('left')
  splash = models.with_options(model, attention='splash')
  found = hidden_of(splash, params, tokens, mask=mask, early=True)
  expected = hidden_of(model, params, tokens, mask=mask, early=False)
  real = np.take_along_axis(mask, READS, axis=1)[..., None]
  chex.assert_trees_all_close(found[0] * real, expected[0] * real, **close)


def test_the_last_layer_is_not_computed_elsewhere(load_checkpoint):
  model, params = load_checkpoint('gpt_neo').language_model
  tokens = np.ones((8, 24), np.int32)

  def operations(reads):
    run = jax.jit(lambda p: model.apply(p, tokens, reads=reads).hidden)
    return run.lower(params).compile().as_text()

  # Its feed-forward part is of one token a row.
  assert f'f32[8,1,{model.config.mlp_dim}]' in operations(np.zeros((8, 1), int))
  assert f'f32[8,1,{model.config.mlp_dim}]' not in operations(None)
