"""Which keys a query may look at, as masks, and picking slots of a row."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from rlaif_jax.core import masking, types


@flax.struct.dataclass
class Sight:
  """Which keys a query may look at."""

  allowed: Bool[Array, '#B #T S']
  distance: Int[Array, 'B T S'] | None  # real tokens from key to query

  def within(self, window: Int[Array, '']) -> Bool[Array, '#B #T S']:
    """Those not further than a layer's window; 0 sees all."""
    if self.distance is None:
      return self.allowed
    return self.allowed & ((window == 0) | (self.distance < window))


def slots(
  mask: Bool[Array, 'B T'], cache: types.Cache | None
) -> tuple[Bool[Array, 'B S'], Int[Array, ''], Int[Array, 'B T']]:
  """Valid key slots, slot of the first token, and rank of each token.

  The rank is the number of real tokens before it in its row, cached ones
  included; it serves as position and for window distances.
  """
  rank = masking.positions(mask)
  if cache is None:
    return mask, jnp.zeros((), jnp.int32), rank
  seen = jnp.sum(cache.mask, axis=1, dtype=jnp.int32)
  valid = jax.lax.dynamic_update_slice(
    cache.mask, mask, (jnp.zeros((), jnp.int32), cache.index)
  )
  # Not seen + rank: a row whose tokens are all padding so far stays at 0.
  count = jnp.cumsum(mask, axis=1, dtype=jnp.int32) + seen[:, None]
  return valid, cache.index, jnp.maximum(count - 1, 0)


def of_own(
  rank: Int[Array, 'B T'],
  valid: Bool[Array, 'B S'],
  index: Int[Array, ''],
  ends: Int[Array, 'B T'] | None,
  windowed: bool,
) -> tuple[Sight, Int[Array, 'B T']]:
  """What tokens see of their own row, and the rank of each.

  Distances count real tokens, so padding between them does not matter.
  """
  slots = jnp.arange(rank.shape[1])
  allowed = masking.attention_mask(
    index + slots, jnp.arange(valid.shape[1]), valid
  )
  key_rank = masking.positions(valid)
  if ends is not None:
    allowed &= slots[None, :, None] < ends[:, None, :]
    count = jnp.sum(allowed, axis=2, dtype=jnp.int32)
    rank = key_rank = jnp.maximum(count - 1, 0)
  distance = rank[:, :, None] - key_rank[:, None, :] if windowed else None
  return Sight(allowed, distance), rank


def of_prefix(
  rank: Int[Array, 'B T'], mask: Bool[Array, '1 P'], windowed: bool
) -> Sight:
  """What tokens see of the prefix; their rank counts it too."""
  distance = rank[:, :, None] - masking.positions(mask)[:, None, :]
  return Sight(mask[:, None], distance if windowed else None)


def of_some(seen: Any, slots: Int[Array, 'B I'] | None) -> Any:
  """What the queries at some slots may look at: [#B, #T, S] -> [B, I, S].

  None are all slots, of which a kernel's rule may stand in for the mask.
  """
  if slots is None or seen.shape[1] == 1:
    return seen
  return take(jnp.broadcast_to(seen, (len(slots), *seen.shape[1:])), slots)


def take(x: Array, slots: Int[Array, 'B I'] | None) -> Array:
  """Some slots of each row of x [B, T, ...], in their order: [B, I, ...].

  None are all slots.
  """
  if slots is None:
    return x
  slots = slots.reshape(slots.shape + (1,) * (x.ndim - 2))
  return jnp.take_along_axis(x, slots, axis=1)
