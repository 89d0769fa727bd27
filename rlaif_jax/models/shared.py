"""Attention to keys that all rows share, and to each row's own, in one softmax.

The shared keys and values are held once, not once per row, and are read by one
matrix product per head for the queries of all rows. The two parts are joined
by the log of their sums, as FlashAttention joins blocks (arXiv 2205.14135).
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlaif_jax import sharding
from rlaif_jax.models import cache, products

# Bytes of scores that a device holds at once: on CPU what its caches hold.
_SCORES = {'cpu': 2**22}
_SCORES_ELSEWHERE = 2**28


def attention(
  query: Float[Array, 'B K G T h'],
  own: tuple[Array, Array, Bool[Array, 'B T S']],
  shared: tuple[Array, Array, Bool[Array, 'B T P']],
  scale: Float[Array, ''],
  softcap: float | None,
  orders: tuple[str, str],
) -> Float[Array, 'B K G T h']:
  """As `products.attention`, over the keys of `own` and `shared` together.

  Args:
    query: rows and heads first.
    own: keys and values of each row, and which of them a query may look at.
    shared: the same of one row for all; its mask may have 1 for B or T.
    scale: of the scores.
    softcap: bounds the scores, see `products.capped`.
    orders: axes of the keys and values of each, as permutations of 'bksh'.
  """
  spec, shared_spec = orders[0], orders[1].replace('b', '')
  axis = orders[1].index('b')
  shared_key, shared_value, shared_allowed = shared
  shared_key, shared_value = (
    jnp.squeeze(x, axis) for x in (shared_key, shared_value)
  )

  def some_rows(query, key, value, allowed, shared_allowed):
    one = _own(query, key, value, allowed, scale, softcap, spec)
    # Heads first, so that the scores lie as the product gives them.
    two = _part(
      query,
      shared_key,
      shared_value,
      shared_allowed,
      scale,
      softcap,
      shared_spec,
      'kbgts',
    )
    return _joined(one, two).astype(query.dtype)

  shared_allowed = jnp.broadcast_to(
    shared_allowed, (len(query), *shared_allowed.shape[1:])
  )
  seen = own[2].shape[-1] + shared_allowed.shape[-1]
  return _by_rows(
    some_rows,
    (query, *own, shared_allowed),
    (0, spec.index('b'), spec.index('b'), 0, 0),
    4 * math.prod(query.shape[1:4]) * seen,
  )


def _by_rows(function, arrays, axes, size):
  """Applies a function to as many rows at once as there is room for.

  Rows are split over the mesh; each step takes as many of every part.

  Args:
    function: of arrays with rows along `axes`; the result's come first.
    arrays: what it takes.
    axes: where the rows are in each.
    size: bytes that it needs for a row.
  """
  rows = arrays[0].shape[axes[0]]
  parts = math.gcd(rows, sharding.row_parts())
  room = _SCORES.get(cache.platform(), _SCORES_ELSEWHERE)
  counts = [n for n in range(1, rows // parts + 1) if rows % (n * parts) == 0]
  steps = rows // parts // max(n for n in counts if n == 1 or n * size <= room)
  if steps == 1:
    return function(*arrays)

  def split(x, axis):
    shape = (*x.shape[:axis], rows // steps, steps, *x.shape[axis + 1 :])
    return jnp.moveaxis(x.reshape(shape), axis + 1, 0)

  parted = [split(x, axis) for x, axis in zip(arrays, axes, strict=True)]
  out = jax.lax.map(lambda xs: function(*xs), parted)
  return jnp.moveaxis(out, 0, 1).reshape(rows, *out.shape[2:])


def _joined(one, two):
  """Softmax average over both parts."""
  top = jnp.maximum(one[1], two[1])
  weights = [jnp.exp(part[1] - top) for part in (one, two)]
  out, total = (weights[0] * one[i] + weights[1] * two[i] for i in (0, 2))
  return out / total


def _own(query, key, value, allowed, scale, softcap, order):
  """`_part` of each row's own keys, less the scores that come too late."""
  axis = order.index('s')
  parts = [
    _part(
      query[:, :, :, start:end],
      products.first(key, seen, axis),
      products.first(value, seen, axis),
      allowed[:, start:end, :seen],
      scale,
      softcap,
      order,
      'bkgts',
    )
    for start, end, seen in products.causal_blocks(
      query.shape[3], key.shape[axis]
    )
  ]
  return products.in_a_row(parts, 3)


def _part(query, key, value, allowed, scale, softcap, order, lie):
  """Of some keys: (weighted sum of values, highest score, sum of weights).

  Float32 [B, K, G, T, h or 1], weights being exp(score - highest).
  """
  scores = products.scores(query, key, scale, softcap, order, lie)
  seen = allowed[None, :, None] if lie[0] == 'k' else allowed[:, None, None]
  scores = jnp.where(seen, scores, products.MASKED)
  top = scores.max(-1, keepdims=True)
  weights = jnp.exp(scores - top)
  total = weights.sum(-1, keepdims=True)
  out = jnp.einsum(
    f'{lie},{order}->{lie[:-1]}h',
    weights.astype(query.dtype),
    value,
    preferred_element_type=jnp.float32,
  )
  parts = (out, top, total)
  return tuple(x.swapaxes(0, 1) for x in parts) if lie[0] == 'k' else parts
