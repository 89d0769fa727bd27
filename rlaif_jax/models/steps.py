"""Weights and cache as decoding wants them, one token of a row at a time.

Such a step reads every weight and the whole cache and computes little, so it
takes as long as reading them. On one CPU device, where the scanned layers copy
what they read first, layers are written out, each with its own part of the
cache, and kernels lie in tiles of outputs [t, D, n], which memory hands out in
the order they are read: a third less time, and with many rows as much. A table
of tokens that is unembedding too becomes such a kernel where it is narrow; else
it is read as it lies, nearly as fast and without a second one in memory.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlaif_jax import offload
from rlaif_jax.core import types
from rlaif_jax.models import cache as cache_lib
from rlaif_jax.models.config import ModelConfig

# Parameters that a model casts to the type of its activations.
_WEIGHTS = frozenset({'kernel', 'tokens', 'positions', 'lora_a', 'lora_b'})
# Outputs in a tile; with more rows than `_FEW` products are worth more of them.
_TILE, _WIDE_TILE, _FEW = 64, 256, 32
_NARROW = 512  # width below which a tied table becomes a kernel


def cache(config: ModelConfig, stacked: types.Cache) -> types.Cache:
  """A cache for steps: a buffer of its own for each layer, or as it is."""
  if not _written_out(config):
    return stacked

  keys, values = (
    tuple(_layer(buffer, i) for i in range(config.num_layers))
    for buffer in (stacked.keys, stacked.values)
  )
  return dataclasses.replace(stacked, keys=keys, values=values)


def config(plain: ModelConfig, rows: int) -> ModelConfig:
  """The config of a model that takes one token of each of `rows` rows."""
  if plain.tile or not _written_out(plain):
    return plain
  tile = _TILE if rows <= _FEW else _WIDE_TILE
  tied = plain.tie_embeddings and plain.hidden_width >= _NARROW
  return dataclasses.replace(plain, tile=tile, tie_embeddings=tied)


def params(
  plain: ModelConfig, stacked: types.Params, rows: int
) -> types.Params:
  """The parameters of that model.

  On the device, and weights of the type in which they are multiplied: moved and
  cast once, not in every step. Otherwise as they are, or written out and tiled.
  """
  if plain.tile:
    return stacked

  def cast(path, x):
    x = offload.on_device(x)
    used = path[-1].key in _WEIGHTS and jnp.issubdtype(x.dtype, jnp.floating)
    return x.astype(plain.dtype) if used and x.dtype != plain.dtype else x

  stacked = jax.tree_util.tree_map_with_path(cast, stacked)
  found = config(plain, rows)
  if found.tile is None:
    return stacked
  apart = {name: x for name, x in stacked.items() if name != 'layers'}
  for i in range(plain.num_layers):
    apart[f'layers_{i}'] = _layer(stacked['layers'], i)
  if plain.tie_embeddings and not found.tie_embeddings:
    kernel = {'kernel': stacked['embed']['tokens'].T}
    apart['unembedding'] = kernel | stacked.get('unembedding', {})

  def lay(path, x):
    if path[-1].key != 'kernel' or not jnp.issubdtype(x.dtype, jnp.floating):
      return x
    # Attention's output alone contracts two axes, heads and their size.
    return tiled(x, 2 if path[-2].key == 'out' else 1, found.tile)

  return jax.tree_util.tree_map_with_path(lay, apart)


def tiled(
  kernel: Float[Array, '...'], inputs: int, tile: int
) -> Float[Array, 't D n']:
  """A kernel [*inputs, *outputs] in tiles, of zeros where outputs run out."""
  count, width, tile = shape(kernel.shape, inputs, tile)
  kernel = kernel.reshape(width, -1)
  kernel = jnp.pad(kernel, ((0, 0), (0, count * tile - kernel.shape[1])))
  return kernel.reshape(width, count, tile).swapaxes(0, 1)


def shape(
  kernel: tuple[int, ...], inputs: int, tile: int
) -> tuple[int, int, int]:
  """(tiles, inputs, outputs in each) of a kernel of that shape."""
  width, outputs = math.prod(kernel[:inputs]), math.prod(kernel[inputs:])
  tile = min(tile, outputs)
  return -(-outputs // tile), width, tile


def contract(
  x: Float[Array, '...'],
  kernel: Float[Array, 't D n'],
  inputs: int,
  outputs: tuple[int, ...],
  out_dtype: str | None = None,
) -> Float[Array, '...']:
  """As `products.contract`, with a kernel in tiles."""
  rows = x.shape[: x.ndim - inputs]
  flat = x.reshape(-1, kernel.shape[1])
  # A gather, so that XLA does not compute x itself once for every tile.
  flat = flat.at[jnp.arange(flat.shape[0])].get(mode='promise_in_bounds')
  flat = jnp.broadcast_to(flat, (kernel.shape[0], *flat.shape))
  y = jnp.einsum('tmd,tdn->tmn', flat, kernel, preferred_element_type=out_dtype)
  y = y.swapaxes(0, 1).reshape(flat.shape[1], -1)[:, : math.prod(outputs)]
  return y.reshape(*rows, *outputs)


def unembed(
  hidden: Float[Array, '... D'], table: Float[Array, 'V D']
) -> Float[Array, '... V']:
  """Float32 logits of few hidden states."""
  logits = jax.lax.dot_general(
    table,
    hidden.reshape(-1, hidden.shape[-1]),
    (((1,), (1,)), ((), ())),
    preferred_element_type=jnp.float32,
  )
  # Or XLA swaps the operands, and the table is read across its rows.
  logits = jax.lax.optimization_barrier(logits).T
  return logits.reshape(*hidden.shape[:-1], table.shape[0])


def _layer(stacked, number: int):
  """One layer of a tree [L, ...]."""
  return jax.tree.map(lambda x: x[number], stacked)


def _written_out(config: ModelConfig) -> bool:
  """Whether layers are: in float32 on one CPU device."""
  return cache_lib.on_one_cpu() and config.dtype == 'float32'
