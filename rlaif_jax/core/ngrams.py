"""How much of a response repeats itself, without leaving the device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def repeated_share(
  tokens: Int[Array, 'B R'], mask: Bool[Array, 'B R'], size: int = 3
) -> Float[Array, ' B']:
  """Share of a response's n-grams that it had before; 0 without any n-gram.

  A response of real tokens a b c a b c has the trigrams abc bca cab abc: 1/4.

  Args:
    tokens: [B, R] responses, real tokens from the left.
    mask: [B, R] True where a token is real.
    size: n, from 1.

  Returns:
    [B] float32 in [0, 1).
  """
  count = tokens.shape[1] - size + 1
  if count < 1:
    return jnp.zeros(tokens.shape[0])
  real = mask[:, size - 1 :]
  grams = [tokens[:, i : i + count] for i in range(size)]
  # Sorted, equal n-grams are neighbours: n log n, where pairs would be n^2.
  fake, *grams = jax.lax.sort([~real, *grams], num_keys=size + 1)
  same = ~fake[:, 1:]
  for gram in grams:
    same &= gram[:, 1:] == gram[:, :-1]
  return jnp.sum(same, -1) / jnp.maximum(jnp.sum(real, -1), 1)
