"""Masks, and reductions that look at real tokens only.

Every reduction is done in float32 and gives 0 (never NaN) for an empty mask;
what padding holds, NaN included, reaches neither the value nor the gradient.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Axis = int | tuple[int, ...] | None


def masked_sum(
  x: Float[Array, '*shape'], mask: Bool[Array, '*shape'], axis: Axis = None
) -> Float[Array, '...']:
  """Sum of `x` where `mask`, float32. `x` and `mask` have one shape."""
  return jnp.sum(jnp.where(mask, x, 0), axis=axis, dtype=jnp.float32)


def masked_mean(
  x: Float[Array, '*shape'], mask: Bool[Array, '*shape'], axis: Axis = None
) -> Float[Array, '...']:
  """Mean of `x` where `mask`, float32; 0 where nothing is real."""
  count = jnp.sum(mask, axis=axis, dtype=jnp.float32)
  return masked_sum(x, mask, axis) / jnp.maximum(count, 1.0)


def masked_var(
  x: Float[Array, '*shape'], mask: Bool[Array, '*shape']
) -> Float[Array, '']:
  """Population variance of `x` where `mask`, over all axes."""
  centred = x.astype(jnp.float32) - masked_mean(x, mask)
  return masked_mean(jnp.square(jnp.where(mask, centred, 0.0)), mask)


def masked_whiten(
  x: Float[Array, '*shape'],
  mask: Bool[Array, '*shape'],
  *,
  shift_mean: bool = True,
  epsilon: float = 1e-8,
) -> Float[Array, '*shape']:
  """`x` scaled to unit variance over the mask, float32; 0 at padding.

  Args:
    x: values, any shape.
    mask: True where `x` counts, same shape.
    shift_mean: also move the mean to 0; False only scales.
    epsilon: added to the variance, so that constant values give no NaN.
  """
  scale = (masked_var(x, mask) + epsilon) ** -0.5
  shift = masked_mean(x, mask) if shift_mean else 0.0
  return jnp.where(mask, (x.astype(jnp.float32) - shift) * scale, 0.0)


def positions(mask: Bool[Array, 'B T']) -> Int[Array, 'B T']:
  """Position of each token among the real ones of its row, from 0.

  Padding on the left gets 0; padding after a token gets that token's position.
  """
  return jnp.maximum(jnp.cumsum(mask, axis=-1, dtype=jnp.int32) - 1, 0)


def last_real(mask: Bool[Array, 'B T']) -> Int[Array, ' B']:
  """Index of the last real token of each row; 0 for an empty row."""
  index = jnp.arange(mask.shape[-1], dtype=jnp.int32)[None]
  return jnp.max(jnp.where(mask, index, 0), axis=-1, initial=0)


def response_mask(
  tokens: Int[Array, 'B R'], eos_ids: Sequence[int]
) -> Bool[Array, 'B R']:
  """True up to and including the first EOS; all True where there is none."""
  is_eos = jnp.zeros(tokens.shape, bool)
  for eos_id in eos_ids:
    is_eos |= tokens == eos_id
  seen = jnp.cumsum(is_eos, axis=-1, dtype=jnp.int32) - is_eos
  return seen == 0


def has_end(
  tokens: Int[Array, 'B R'], mask: Bool[Array, 'B R'], eos_ids: Sequence[int]
) -> Bool[Array, ' B']:
  """Whether one of a row's real tokens ends it; an empty row has no end."""
  is_eos = jnp.zeros(tokens.shape, bool)
  for eos_id in eos_ids:
    is_eos |= tokens == eos_id
  return jnp.any(is_eos & mask, axis=-1)


def attention_mask(
  query_index: Int[Array, ' T'] | Int[Array, 'B T'],
  key_index: Int[Array, ' S'],
  key_valid: Bool[Array, 'B S'],
  window: int | Int[Array, ''] | None = None,
) -> Bool[Array, 'B T S']:
  """Which key each query may look at: causal, real, and inside the window.

  It serves a full forward pass (queries and keys are 0..T-1) and cached decode
  (queries are the slots being written, keys are all slots) alike. A query that
  stands on left padding may see no key at all, so fill scores with a large
  negative number, not with -inf.

  Args:
    query_index: slot of each query, shared by all rows or one per row.
    key_index: slot of each key.
    key_valid: True where the slot holds a real token.
    window: a query sees this many slots, its own included (key > query -
      window, counted in slots); 0 or None sees all. May be traced, so that
      layers of different windows share one scanned body.

  Returns:
    True where the query may attend to the key.
  """
  query = jnp.atleast_2d(query_index)[:, :, None]
  key = key_index[None, None, :]
  allowed = (key <= query) & key_valid[:, None, :]
  if window is None:
    return allowed
  window = jnp.asarray(window)
  return allowed & ((window == 0) | (key > query - window))
