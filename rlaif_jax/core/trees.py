"""Two texts that begin alike as one row: what they share is read once."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class PairTree(NamedTuple):
  """Rows of two texts each: what they share, the first's own, the second's."""

  tokens: Int[Array, 'B W']
  ends: Int[Array, 'B W']  # as LanguageModel.apply takes them
  slots_1: Int[Array, 'B T']  # where in the row each token of text 1 is
  slots_2: Int[Array, 'B T']  # and of text 2; of padding, anywhere


def join_pairs(
  tokens_1: Int[Array, 'B T'],
  mask_1: Bool[Array, 'B T'],
  tokens_2: Int[Array, 'B T'],
  mask_2: Bool[Array, 'B T'],
  width: int,
) -> PairTree:
  """Rows of a prompt and both its responses.

  A response's tokens see the prompt and their own text alone, at the positions
  they have in it, so every model that takes `ends` gives them the same hidden
  states as in two rows, for the tokens of one prompt less.

  Args:
    tokens_1: [B, T] prompts and first responses, right-padded.
    mask_1: [B, T] True where a token is real.
    tokens_2: [B, T] the same prompts and second responses.
    mask_2: [B, T].
    width: W; at least the tokens of a prompt and both its responses.
  """
  last = tokens_1.shape[1] - 1
  length_1, length_2 = (
    jnp.sum(mask, 1, keepdims=True, dtype=jnp.int32)
    for mask in (mask_1, mask_2)
  )
  alike = jnp.cumprod((tokens_1 == tokens_2) & mask_1 & mask_2, axis=1)
  # The last token of a text is its own, since it stands for the whole of it.
  shared = jnp.minimum(
    jnp.sum(alike, 1, keepdims=True, dtype=jnp.int32),
    jnp.minimum(length_1, length_2) - 1,
  )
  shared = jnp.maximum(shared, 0)
  total = length_1 + length_2 - shared
  place = jnp.arange(width, dtype=jnp.int32)[None]
  is_first = place < length_1
  second = jnp.clip(shared + place - length_1, 0, last)
  tokens = jnp.where(
    is_first,
    jnp.take_along_axis(tokens_1, jnp.minimum(place, last), axis=1),
    jnp.take_along_axis(tokens_2, second, axis=1),
  )
  ends = jnp.where(is_first & (place >= shared), length_1, total)
  ends = jnp.where(place < total, ends, 0)
  at = jnp.arange(last + 1, dtype=jnp.int32)[None]
  slots_2 = jnp.where(at < shared, at, length_1 + at - shared)
  return PairTree(
    tokens,
    ends,
    jnp.broadcast_to(jnp.minimum(at, width - 1), tokens_1.shape),
    jnp.minimum(slots_2, width - 1),
  )
