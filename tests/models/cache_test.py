import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import models, sharding
from rlaif_jax.models import cache as cache_lib

CONFIG = dict(
  model_type='llama',
  vocab_size=8,
  hidden_size=8,
  intermediate_size=8,
  num_hidden_layers=3,
  num_attention_heads=2,
)


def test_an_empty_cache():
  cache = models.build(CONFIG).init_cache(4, 5, dtype='bfloat16')
  assert cache.keys.shape == (3, 4, 2, 5, 4)
  assert cache.keys.dtype == cache.values.dtype == jnp.bfloat16
  assert cache.mask.shape == (4, 5)
  assert not cache.mask.any()
  assert cache.index == 0


def test_platform_is_that_of_the_mesh(monkeypatch):
  assert cache_lib.platform() == 'cpu'
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert cache_lib.platform() == 'tpu'
  with jax.set_mesh(sharding.make_mesh()):
    assert cache_lib.platform() == 'cpu'
    traced = []
    jax.jit(lambda: traced.append(cache_lib.platform()))()
    assert traced == ['cpu']


def test_platform_is_that_of_the_default_device(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  with jax.default_device(jax.devices('cpu')[0]):
    assert cache_lib.platform() == 'cpu'
  with jax.default_device('cpu'):
    assert cache_lib.platform() == 'cpu'


def test_layout_follows_the_platform(monkeypatch):
  config = models.build(CONFIG).config
  assert cache_lib.layout(config) == 'bksh'
  monkeypatch.setattr(cache_lib, 'platform', lambda: 'tpu')
  assert cache_lib.layout(config) == 'skbh'
  given = models.build(CONFIG, cache_layout='sbkh').config
  assert cache_lib.layout(given) == 'sbkh'


@pytest.mark.parametrize('order', ['bskh', 'bksh', 'skbh', 'sbkh'])
def test_write_and_read_one_layer(order):
  rng = np.random.default_rng(0)
  new = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)  # B T K h
  sizes = dict(b=2, s=7, k=4, h=5)
  buffer = jnp.zeros((3, *(sizes[c] for c in order)))
  buffer = cache_lib.write(
    buffer, jnp.asarray(new), jnp.int32(1), jnp.int32(2), order
  )
  assert not np.any(cache_lib.read(buffer, 0))
  assert not np.any(cache_lib.read(buffer, 2))
  found = np.einsum(f'{order}->bskh', cache_lib.read(buffer, 1))
  expected = np.zeros((2, 7, 4, 5), np.float32)
  expected[:, 2:5] = new
  np.testing.assert_array_equal(found, expected)


def test_decoding_does_not_copy_the_cache():
  # A copy of it in every step, or on entering the loop, would double its cost.
  model = models.build({**CONFIG, 'hidden_size': 64, 'head_dim': 32})
  params = model.abstract_params()
  cache = jax.eval_shape(lambda: model.init_cache(8, 512))

  def decode(params, tokens, cache):
    def body(carry):
      out = model.apply(params, carry[0], cache=carry[1])
      return jnp.argmax(out.logits, -1).astype(jnp.int32), out.cache

    return jax.lax.while_loop(
      lambda carry: carry[1].index < 100, body, (tokens, cache)
    )

  tokens = jax.ShapeDtypeStruct((8, 1), jnp.int32)
  memory = (
    jax.jit(decode, donate_argnums=2)
    .lower(params, tokens, cache)
    .compile()
    .memory_analysis()
  )
  size = 2 * cache.keys.size * 4
  assert memory.alias_size_in_bytes >= size
  # One layer's keys and values of three, and no more.
  assert memory.temp_size_in_bytes < 0.5 * size


@pytest.mark.parametrize('order', ['bskh', 'bksh', 'skbh'])
def test_int8_holds_what_was_written_to_half_a_unit(order):
  config = models.build(CONFIG, cache_layout=order, cache_dtype='int8').config
  cache = cache_lib.init(config, 4, 5)
  new = np.random.default_rng(0).normal(size=(4, 2, 2, 4)).astype(np.float32)
  new[0, 0] = 0.0
  buffer = cache_lib.write(cache.keys, new, jnp.int32(1), jnp.int32(2), order)
  found = np.einsum(f'{order}->bskh', cache_lib.read(buffer, 1))
  unit = np.abs(new).max(-1, keepdims=True) / 127
  assert (np.abs(found[:, 2:4] - new) <= 0.501 * unit).all()
  assert not found[:, [0, 1, 4]].any()
  assert not np.any(cache_lib.read(buffer, 0))
  assert cache_lib.read(buffer, 1, jnp.bfloat16).dtype == jnp.bfloat16
  size = sum(x.nbytes for x in jax.tree.leaves(cache.keys))
  assert size == cache.keys.values.size * (1 + 4 / 4)  # heads of size 4


def test_cache_dtype_must_be_a_type_of_numbers():
  with pytest.raises(ValueError, match='int16'):
    models.build(CONFIG, cache_dtype='int16')


@pytest.mark.parametrize('dtype', [None, 'int8'])
@pytest.mark.parametrize('order', ['bksh', 'skbh'])
def test_take_is_the_cache_of_those_rows(order, dtype):
  config = models.build(CONFIG, cache_layout=order, cache_dtype=dtype).config
  empty = cache_lib.init(config, 4, 5)
  new = np.random.default_rng(0).normal(size=(4, 5, 2, 4)).astype(np.float32)
  zero = jnp.int32(0)
  cache = dataclasses.replace(
    empty,
    keys=cache_lib.write(empty.keys, new, zero, zero, order),
    values=cache_lib.write(empty.values, 2 * new, zero, zero, order),
    mask=jnp.asarray(np.arange(20).reshape(4, 5) % 3 == 0),
  )
  rows = np.array([3, 1])
  part = cache_lib.take(config, cache, rows)
  for whole, some in ((cache.keys, part.keys), (cache.values, part.values)):
    whole, some = (
      np.einsum(f'{order}->bskh', cache_lib.read(x, 0)) for x in (whole, some)
    )
    np.testing.assert_array_equal(some, whole[rows])
    assert np.any(some)
  np.testing.assert_array_equal(part.mask, cache.mask[rows])
