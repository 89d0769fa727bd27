"""Length and nothing else: the control that shows what longer texts are worth.

Much of what RLHF gains can be had by a reward that knows only how long a
response is (Singhal et al. 2023, arXiv 2310.03716): r = 1 - |length / L - 1|,
which rises up to the target L. A policy trained on it is what others are to be
compared with.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rlaif_jax.core.types import Rollout
from rlaif_jax.data.datasets import Example


@dataclasses.dataclass(frozen=True)
class Config:
  """Options: `target`, L above, in tokens of the policy with the end token."""

  target: int = 128

  def __post_init__(self):
    """Raises ValueError for a target that is no length."""
    if not self.target >= 1:
      raise ValueError(f'length: target={self.target} must be at least 1')


@dataclasses.dataclass(frozen=True)
class Length:
  """The reward with its target."""

  config: Config

  def score(self, rollout: Rollout, examples: Sequence[Example]) -> jax.Array:
    """1 - |length / L - 1| of each response [B]."""
    del examples
    return by_length(rollout.response_mask, self.config.target)


def make(config, *, policy_tokenizer, mesh, rules) -> Length:
  """The reward; it needs no model."""
  del policy_tokenizer, mesh, rules
  return Length(Config(**config.options))


@jax.jit
def by_length(mask: jax.Array, target: float) -> jax.Array:
  """1 - |n / target - 1| of the n real tokens of each row of [B, R]."""
  lengths = mask.sum(-1, dtype=jnp.float32)
  return 1.0 - jnp.abs(lengths / target - 1.0)
