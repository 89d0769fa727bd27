"""Steps with weights and caches apart, against the scanned layers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import models
from rlaif_jax.models import products, sight, steps

close = dict(rtol=2e-5, atol=2e-5)


def decode(model, params, tokens, mask, count, *, fresh, apart):
  """Logits of the last prompt token and of `count` more, chosen beforehand."""
  rows, length = tokens.shape
  out = model.apply(
    params,
    tokens,
    mask=mask,
    cache=model.init_cache(rows, length + count),
    reads=np.full((rows, 1), length - 1),
    fresh=fresh,
  )
  logits, cache = [out.logits], out.cache
  if apart:
    cache = model.step_cache(cache)
    params, model = model.step_params(params, rows), model.for_steps(rows)
    assert model.config.tile and isinstance(cache.keys, tuple)
  rng = np.random.default_rng(0)
  real = np.ones((rows, 1), bool)
  for _ in range(count):
    token = rng.integers(1, 60, (rows, 1))
    out = model.apply(params, token, mask=real, cache=cache, logits=False)
    cache = out.cache
    logits.append(model.unembed(params, out.hidden))
  return jnp.concatenate(logits, axis=1), cache.mask, cache.index


run = jax.jit(decode, static_argnames=('model', 'count', 'fresh', 'apart'))


@pytest.mark.parametrize(
  'name', ['gemma2', 'gpt2_by_layer', 'olmo2_biases', 'opt_350m', 'phi']
)
def test_logits(load_checkpoint, name, monkeypatch):
  """Windows, biases, tied and untied tables; tiles that do not come out."""
  monkeypatch.setattr(steps, '_TILE', 24)
  lm = load_checkpoint(name)
  model, params = lm.language_model
  tokens, mask = lm.padded('left')
  plain = run(model, params, tokens, mask, 4, fresh=False, apart=False)
  found = run(model, params, tokens, mask, 4, fresh=True, apart=True)
  chex.assert_trees_all_close(found, plain, **close)


@pytest.mark.parametrize('name', ['gemma2', 'gpt_neo'])
def test_a_wide_table_is_read_as_it_lies(load_checkpoint, name, monkeypatch):
  model, params = load_checkpoint(name).language_model
  assert 'unembedding' in model.step_params(params, 2)
  monkeypatch.setattr(steps, '_NARROW', 0)
  assert 'unembedding' not in model.step_params(params, 2)
  hidden = jax.random.normal(jax.random.key(0), (2, 1, model.config.width))
  found = model.for_steps(2).unembed(model.step_params(params, 2), hidden)
  plain = model.unembed(params, hidden)
  chex.assert_trees_all_close(found, plain, **close)


@pytest.mark.parametrize(
  'options', [{'int8': True}, {'cache_dtype': 'int8'}, {'lora': models.Lora(3)}]
)
def test_other_kernels_and_caches(load_checkpoint, options):
  lm = load_checkpoint('gpt_neo')
  model = models.with_options(lm.language_model[0], **options)
  params = jax.jit(model.init)(jax.random.key(0))
  # As initialised, adapters add nothing.
  params = jax.tree_util.tree_map_with_path(
    lambda path, x: x + 0.1 if path[-1].key == 'lora_b' else x, params
  )
  tokens, mask = lm.padded('left')
  plain, found = (
    run(model, params, tokens, mask, 3, fresh=True, apart=apart)
    for apart in (False, True)
  )
  chex.assert_trees_all_close(found, plain, **close)


@pytest.mark.parametrize('tile', [1, 7, 8, 64])
@pytest.mark.parametrize(
  ('inputs', 'outputs'), [((6,), (4, 5)), ((4, 5), (6,))]
)
def test_a_product_with_tiles(inputs, outputs, tile):
  keys = jax.random.split(jax.random.key(0))
  x = jax.random.normal(keys[0], (3, 2, *inputs))
  kernel = jax.random.normal(keys[1], (*inputs, *outputs))
  tiles = steps.tiled(kernel, len(inputs), tile)
  assert tiles.shape == steps.shape(kernel.shape, len(inputs), tile)
  found = steps.contract(x, tiles, len(inputs), outputs)
  plain = products.contract(x, kernel, len(inputs))
  np.testing.assert_allclose(found, plain, **close)


def test_where_they_stay_together(load_checkpoint, monkeypatch):
  """On other chips, and in bfloat16; the table is then cast once."""
  model, params = load_checkpoint('gpt_neo').language_model
  half = models.with_options(model, dtype='bfloat16')
  cast = half.step_params(params, 2)
  assert half.for_steps(2) == half
  assert cast['embed']['tokens'].dtype == jnp.bfloat16
  assert cast['final_norm']['scale'].dtype == jnp.float32
  monkeypatch.setattr(steps.cache_lib, 'platform', lambda: 'tpu')
  cache = model.init_cache(2, 4)
  assert model.step_cache(cache) is cache
  assert model.for_steps(2) == model
  chex.assert_trees_all_equal(model.step_params(params, 2), params)


def test_a_fresh_cache_is_the_same_for_windows_too(load_checkpoint):
  lm = load_checkpoint('gemma3_text')
  model, params = lm.language_model
  tokens, mask = lm.padded('left')
  cache = model.init_cache(3, 40)
  one, two = (
    model.apply(params, tokens, mask=mask, cache=cache, fresh=fresh)
    for fresh in (False, True)
  )
  real = np.nonzero(mask)
  chex.assert_trees_all_close(two.logits[real], one.logits[real], **close)
  ends = sight.take(one.logits, np.full((3, 1), 23))
  assert np.abs(ends).max() > 0.1
  np.testing.assert_array_equal(two.cache.mask, one.cache.mask)
