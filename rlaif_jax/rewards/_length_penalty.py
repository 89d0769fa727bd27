"""Something off the score for every token of a response, whatever scores it."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rlaif_jax.core.types import Rollout
from rlaif_jax.data.datasets import Example
from rlaif_jax.rewards import Reward


@dataclasses.dataclass(frozen=True)
class LengthPenalty:
  """A reward less `per_token` for each token beyond the first `free` ones.

  With `free` = L - C and `per_token` = 1 / C, where L is the longest response,
  it is DAPO's overlong punishment (arXiv 2503.14476, equation 13).
  """

  reward: Reward
  per_token: float
  free: int = 0

  def score(self, rollout: Rollout, examples: Sequence[Example]) -> jax.Array:
    """Scores [B] of the reward, less the penalty."""
    return penalised(
      self.reward.score(rollout, examples),
      rollout.response_mask,
      self.per_token,
      self.free,
    )


@jax.jit
def penalised(
  scores: jax.Array, mask: jax.Array, per_token: float, free: int
) -> jax.Array:
  """scores [B] - per_token * max(n - free, 0), n the real tokens of [B, R]."""
  over = jnp.maximum(mask.sum(-1, dtype=jnp.int32) - free, 0)
  return scores - per_token * over.astype(jnp.float32)
