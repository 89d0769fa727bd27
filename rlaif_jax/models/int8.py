"""Kernels of projections in eight bits, where they are frozen.

A kernel W [L, *inputs, *outputs] is held as int8 Q of that shape and float32
`kernel_scale` S [L, *outputs], W ~ Q * S: each output's largest weight is 127
or -127, so every weight is off by at most S / 2. The layer multiplies by Q and
then by S, so W never exists. All else is bfloat16.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding
from jaxtyping import Array, Float, Int8

from rlaif_jax import offload
from rlaif_jax.models import weights

SCALE = 'kernel_scale'


def read(
  reader: Any,
  places: Mapping[str, Any],
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  where: Mapping[str, Sharding],
) -> dict[str, jax.Array]:
  """`weights.read` of a model with `int8`; scales come with their kernels.

  One parameter at a time is held as the file has it, by its devices.
  """
  leaves = {}
  for path, place in places.items():
    scale = f'{path.rpartition("/")[0]}/{SCALE}'
    packed = path.endswith('/kernel') and scale in shapes
    dtype = None if packed else 'bfloat16'
    here = {path: offload.in_device_memory(where[path])}
    new = weights.read(reader, {path: place}, shapes, here, dtype)
    if packed:
      here[scale] = offload.in_device_memory(where[scale])
      split = (here[path], here[scale])
      pack_here = jax.jit(pack, static_argnums=1, out_shardings=split)
      outputs = len(shapes[scale].shape) - 1
      both = jax.block_until_ready(pack_here(new[path], outputs))
      new = dict(zip((path, scale), both, strict=True))
    leaves |= {name: weights.settled(x, where[name]) for name, x in new.items()}
  return leaves


def pack(
  kernel: Float[Array, 'L ...'], outputs: int
) -> tuple[Int8[Array, 'L ...'], Float[Array, 'L ...']]:
  """(Q, S) of a kernel whose last `outputs` axes are the outputs."""
  inputs = tuple(range(1, kernel.ndim - outputs))
  wide = kernel.astype(jnp.float32)
  largest = jnp.max(jnp.abs(wide), axis=inputs, keepdims=True)
  scale = jnp.where(largest > 0, largest, 1.0) / 127
  return (
    jnp.round(wide / scale).astype(jnp.int8),
    jnp.squeeze(scale, inputs),
  )


def unpack(
  kernel: Int8[Array, 'L ...'], scale: Float[Array, 'L ...']
) -> Float[Array, 'L ...']:
  """Q * S, float32."""
  inputs = tuple(range(1, 1 + kernel.ndim - scale.ndim))
  return kernel.astype(jnp.float32) * jnp.expand_dims(scale, inputs)
