"""Attention to keys that all rows share, and to each row's own, in one softmax.

The shared keys and values are held once, not once per row, and are read by one
matrix product per head for the queries of all rows. The two parts are joined
by the log of their sums, as FlashAttention joins blocks (arXiv 2205.14135).
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlaif_jax.models import products

# Finite, so that a part in which a query may look at nothing weighs 0.
_MASKED = -1e30


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
  key, value, allowed = shared
  parts = [
    _part(query, *own, scale, softcap, spec, 'bkgts'),
    _part(
      query,
      jnp.squeeze(key, axis),
      jnp.squeeze(value, axis),
      allowed,
      scale,
      softcap,
      shared_spec,
      # Heads first: the scores lie as the product gives them.
      'kbgts',
    ),
  ]
  top = jnp.maximum(parts[0][1], parts[1][1])
  weights = [jnp.exp(part[1] - top) for part in parts]
  out = sum(w * part[0] for w, part in zip(weights, parts, strict=True))
  total = sum(w * part[2] for w, part in zip(weights, parts, strict=True))
  return (out / total).astype(query.dtype)


def _part(query, key, value, allowed, scale, softcap, order, lie):
  """Of some keys: (weighted sum of values, highest score, sum of weights).

  Float32 [B, K, G, T, h or 1], weights being exp(score - highest).
  """
  scores = jnp.einsum(
    f'bkgth,{order}->{lie}', query, key, preferred_element_type=jnp.float32
  )
  scores = products.capped(scores * scale, softcap)
  seen = allowed[None, :, None] if lie[0] == 'k' else allowed[:, None, None]
  scores = jnp.where(seen, scores, _MASKED)
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
