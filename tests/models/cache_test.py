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
