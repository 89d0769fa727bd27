"""Several reward models as one: their mean, their worst, or less their doubt.

Coste et al. 2023 (arXiv 2310.02743): a policy that found what one model is
wrong about has not found it in all. Each model's scores are centred and scaled
by its own statistics first, so that they are in the same units.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlaif_jax.core.types import Rollout
from rlaif_jax.data.datasets import Example
from rlaif_jax.rewards import reward_model

COMBINATIONS = ('mean', 'min', 'std', 'variance')


@dataclasses.dataclass(frozen=True)
class Config:
  """Options of the ensemble.

  Attributes:
    others: paths of further reward models, beside the block's `path`.
    combine: 'mean'; 'min', the worst case (WCO); 'variance', the mean less
      `penalty` times the variance over models (UWO); 'std', the same with the
      standard deviation, which is in the units of the scores.
    penalty: weight of the models' disagreement.
  """

  others: tuple[str, ...] = ()
  combine: str = 'mean'
  penalty: float = 0.1

  def __post_init__(self):
    """Raises ValueError, with what is allowed, on a value that is not."""
    if self.combine not in COMBINATIONS:
      raise ValueError(
        f'ensemble: combine={self.combine!r} is not one of '
        f'{", ".join(COMBINATIONS)}'
      )
    if isinstance(self.others, str) or not all(self.others):
      raise ValueError(
        f'ensemble: others={self.others!r} should be a tuple of paths'
      )
    object.__setattr__(self, 'others', tuple(self.others))
    if not self.penalty >= 0:
      raise ValueError(f'ensemble: penalty={self.penalty} is below 0')


@dataclasses.dataclass(frozen=True)
class Ensemble:
  """Reward models of any size and kind of tokens."""

  models: Sequence[reward_model.RewardModel]
  config: Config

  def score(self, rollout: Rollout, examples: Sequence[Example]) -> jax.Array:
    """Combined scores [B]."""
    scores = [model.score(rollout, examples) for model in self.models]
    return combine(tuple(scores), self.config)


def make(config, *, policy_tokenizer, mesh, rules) -> Ensemble:
  """Loads the reward models at `config.path` and `config.options.others`."""
  options = Config(**config.options)
  models = reward_model.load_all(
    config,
    options.others,
    policy_tokenizer=policy_tokenizer,
    mesh=mesh,
    rules=rules,
  )
  return Ensemble(models, options)


@functools.partial(jax.jit, static_argnums=1)
def combine(
  scores: Sequence[Float[Array, ' B']], config: Config
) -> Float[Array, ' B']:
  """One score of each response, from those of M models.

  Mean over models less `penalty` times their variance, (1/M) sum (r_i - mean)^2
  (Coste et al., equation 4), or the root of it.
  """
  every = jnp.stack(scores).astype(jnp.float32)
  if config.combine == 'min':
    return every.min(0)
  mean = every.mean(0)
  if config.combine == 'variance':
    mean -= config.penalty * every.var(0)
  elif config.combine == 'std':
    mean -= config.penalty * every.std(0)
  return mean
