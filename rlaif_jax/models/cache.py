"""The key/value cache: its layout, and reading and writing one layer of it.

A layout is a permutation of 'bskh' (rows, slots, key/value heads, head size).
XLA for TPU wants rows and head size innermost for a one-token write, XLA for
GPU the slots; the wrong one copies the whole cache on entering the decode loop.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlaif_jax import sharding
from rlaif_jax.core import types
from rlaif_jax.models.config import ModelConfig

PLAIN = 'bskh'  # keys and values as the projections give them
_AXES = {'b': 'batch', 's': 'length', 'k': 'kv_heads', 'h': 'head_dim'}


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


def layout(config: ModelConfig) -> str:
  """Axis order of this model's cache, after the leading L."""
  if config.cache_layout is not None:
    return config.cache_layout
  return 'skbh' if platform() == 'tpu' else 'bksh'


def init(
  config: ModelConfig, batch: int, slots: int, dtype=None, rules=None
) -> types.Cache:
  """An empty cache for `batch` rows of up to `slots` tokens."""
  order = layout(config)
  sizes = dict(b=batch, s=slots, k=config.num_kv_heads, h=config.head_dim)
  shape = (config.num_layers, *(sizes[c] for c in order))
  dtype = jnp.dtype(dtype or config.dtype)
  return types.Cache(
    keys=constrain(jnp.zeros(shape, dtype), order, rules),
    values=constrain(jnp.zeros(shape, dtype), order, rules),
    mask=jnp.zeros((batch, slots), bool),
    index=jnp.zeros((), jnp.int32),
  )


def constrain(buffer: Array, order: str, rules=None) -> Array:
  """Lays a stacked buffer [L, ...] out by the sharding rules."""
  axes = ('layers', *(_AXES[c] for c in order))
  return sharding.constrain(buffer, *axes, rules=rules)


def write(
  buffer: Float[Array, 'L ...'],
  new: Float[Array, 'B T K h'],
  layer: Int[Array, ''],
  index: Int[Array, ''],
  order: str,
) -> Float[Array, 'L ...']:
  """`buffer` with the slots from `index` on of one layer replaced by `new`."""
  new = jnp.transpose(new, [PLAIN.index(c) for c in order])
  zero = jnp.zeros((), jnp.int32)
  start = (layer, *(index if c == 's' else zero for c in order))
  return jax.lax.dynamic_update_slice(
    buffer, new[None].astype(buffer.dtype), start
  )


def read(buffer: Float[Array, 'L ...'], layer: Int[Array, '']) -> Array:
  """One layer of the buffer, in the cache's own axis order."""
  return jax.lax.dynamic_index_in_dim(buffer, layer, 0, keepdims=False)
