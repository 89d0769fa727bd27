"""The key/value cache: its layout, and reading and writing one layer of it.

A layout is a permutation of 'bskh' (rows, slots, key/value heads, head size).
XLA for TPU wants rows and head size innermost for a one-token write, XLA for
GPU the slots; the wrong one copies the whole cache on entering the decode loop.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlaif_jax import sharding
from rlaif_jax.core import types
from rlaif_jax.models.config import ModelConfig

PLAIN = 'bskh'  # keys and values as the projections give them
_AXES = {'b': 'batch', 's': 'length', 'k': 'kv_heads', 'h': 'head_dim'}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8:
  """A buffer of int8, each head of each token with a scale of its own."""

  values: jax.Array  # [L, ...] int8
  scale: jax.Array  # [L, ...] float32, head size 1; over 127 the unit


def platform() -> str:
  """Platform of the mesh set with `jax.set_mesh`, else of the default device.

  The mesh is asked first because a program may be compiled for another
  platform than the one it is traced on.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  if device is not None:
    return device.platform
  default = jax.config.jax_default_device
  if default is None:
    return jax.default_backend()
  return default if isinstance(default, str) else default.platform


def on_one_cpu() -> bool:
  """Whether programs are for a single device, and that is a CPU."""
  return sharding.on_one_device() and platform() == 'cpu'


def layout(config: ModelConfig) -> str:
  """Axis order of this model's cache, after the leading L."""
  if config.cache_layout is not None:
    return config.cache_layout
  return 'skbh' if platform() == 'tpu' else 'bksh'


def init(
  config: ModelConfig, batch: int, slots: int, dtype=None, rules=None
) -> types.Cache:
  """An empty cache for `batch` rows of up to `slots` tokens.

  `dtype` is by default the config's `cache_dtype`, else that of activations.
  """
  order = layout(config)
  dtype = jnp.dtype(dtype or config.cache_dtype or config.dtype)

  def zeros(dtype, head_dim: int = config.head_dim) -> Array:
    sizes = dict(b=batch, s=slots, k=config.num_kv_heads, h=head_dim)
    shape = (config.num_layers, *(sizes[c] for c in order))
    return constrain(jnp.zeros(shape, dtype), order, rules)

  def buffer():
    if dtype != jnp.int8:
      return zeros(dtype)
    return Int8(zeros(jnp.int8), zeros(jnp.float32, 1))

  return types.Cache(
    keys=buffer(),
    values=buffer(),
    mask=jnp.zeros((batch, slots), bool),
    index=jnp.zeros((), jnp.int32),
  )


def constrain(buffer: Array | Int8, order: str, rules=None) -> Array | Int8:
  """Lays a buffer, stacked [L, ...] or of one layer, out by the rules."""
  axes = ('layers', *(_AXES[c] for c in order))
  return jax.tree.map(
    lambda x: sharding.constrain(x, *axes[-x.ndim :], rules=rules), buffer
  )


def write(
  buffer: Float[Array, '...'] | Int8,
  new: Float[Array, 'B T K h'],
  layer: Int[Array, ''],
  index: Int[Array, ''],
  order: str,
) -> Float[Array, '...'] | Int8:
  """`buffer` with the slots from `index` on of one layer replaced by `new`.

  A buffer of one layer alone, without L, is that of the layer that asks.
  """
  if isinstance(buffer, Int8):
    wide = new.astype(jnp.float32)
    scale = jnp.max(jnp.abs(wide), axis=-1, keepdims=True) / 127
    values = jnp.round(wide / jnp.maximum(scale, 1e-30))
    return Int8(
      write(buffer.values, values, layer, index, order),
      write(buffer.scale, scale, layer, index, order),
    )
  new = jnp.transpose(new, [PLAIN.index(c) for c in order])
  zero = jnp.zeros((), jnp.int32)
  start = tuple(index if c == 's' else zero for c in order)
  if buffer.ndim > len(order):
    new, start = new[None], (layer, *start)
  return jax.lax.dynamic_update_slice(buffer, new.astype(buffer.dtype), start)


def read(
  buffer: Float[Array, '...'] | Int8, layer: Int[Array, ''], dtype=None
) -> Array:
  """One layer of the buffer, in the cache's own axis order.

  `dtype` is what it is turned into; None leaves it, float32 if it was int8.
  """
  if isinstance(buffer, Int8):
    dtype = dtype or jnp.float32
    scale = read(buffer.scale, layer).astype(dtype)
    return read(buffer.values, layer, dtype) * scale
  found = buffer
  if buffer.ndim > len(PLAIN):
    found = jax.lax.dynamic_index_in_dim(buffer, layer, 0, keepdims=False)
  return found if dtype is None else found.astype(dtype)


def take(
  config: ModelConfig, cache: types.Cache, rows: Int[Array, ' N'], rules=None
) -> types.Cache:
  """The cache of some of its rows."""
  return _of_rows(
    config, cache, lambda x, axis: jnp.take(x, rows, axis=axis), rules
  )


def repeat(
  config: ModelConfig, cache: types.Cache, count: int, rules=None
) -> types.Cache:
  """A cache that has every row `count` times, beside each other."""
  return _of_rows(
    config, cache, lambda x, axis: jnp.repeat(x, count, axis=axis), rules
  )


def _of_rows(config: ModelConfig, cache: types.Cache, function, rules):
  """`function(x, axis of the rows)` of all that has rows."""
  order = layout(config)
  axis = order.index('b') - len(order)
  keys, values = (
    constrain(jax.tree.map(lambda x: function(x, axis), buffer), order, rules)
    for buffer in (cache.keys, cache.values)
  )
  return types.Cache(keys, values, function(cache.mask, 0), cache.index)
