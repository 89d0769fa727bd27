"""Rewards along a response and what is still to come (gamma = 1).

An episode is one response: a state is the prompt and the tokens so far, an
action is the next token, and it ends at the last real token (RLAIF vs. RLHF,
v2 appendix F).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlaif_jax.core import masking


def rewards_to_go(
  rewards: Float[Array, 'B R'], mask: Bool[Array, 'B R']
) -> Float[Array, 'B R']:
  """Z_t = sum of the rewards from token t on; 0 at padding, float32."""
  rewards = jnp.where(mask, rewards, 0.0).astype(jnp.float32)
  to_go = jax.lax.cumsum(rewards, axis=1, reverse=True)
  return jnp.where(mask, to_go, 0.0)


def place_at_last(
  scores: Float[Array, ' B'], mask: Bool[Array, 'B R']
) -> Float[Array, 'B R']:
  """Each row's score at its last real token, 0 elsewhere.

  An empty row has nowhere to put its score and is all 0.
  """
  index = jnp.arange(mask.shape[1])[None]
  at_last = (index == masking.last_real(mask)[:, None]) & mask
  return jnp.where(at_last, scores[:, None], 0.0).astype(jnp.float32)
