"""Two reward models, helpfulness and safety, of which the gate takes one.

Llama 2 (arXiv 2307.09288, section 3.2.4), p a prompt and g a response:

  R_c = R_s(g|p)   if p is marked as one for safety, or R_s(g|p) < 0.15
        R_h(g|p)   otherwise
  R   = WHITEN(LOGIT(R_c))

with R_s and R_h in [0, 1]: LOGIT(R_c) is the score as a model gives it, and it
is whitened over the batch, so that KL weighs the same whatever its scale.
Models learned from pairs have no zero of their own: a score here is less the
mean that the reward stage left beside the model, and not divided by its
deviation, so that its sigmoid is a probability of being preferred to an average
response.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rlaif_jax.core import masking
from rlaif_jax.core.types import Rollout
from rlaif_jax.data.datasets import Example
from rlaif_jax.rewards import reward_model


@dataclasses.dataclass(frozen=True)
class Config:
  """Options of the gate.

  Attributes:
    safety: path of the safety model; the block's `path` is the helpfulness
      model.
    threshold: a safety score, in [0, 1], below which safety counts.
    tag: the entry of an example's `meta` that marks a prompt for safety.
    tag_value: what it says there; '' = anything true.
    whiten: scores to mean 0 and variance 1 over the batch.
  """

  safety: str = ''
  threshold: float = 0.15
  tag: str = 'safety'
  tag_value: str = ''
  whiten: bool = True

  def __post_init__(self):
    """Raises ValueError for a threshold that is no probability."""
    if not 0 <= self.threshold <= 1:
      raise ValueError(f'gated: threshold={self.threshold} is outside [0, 1]')


@dataclasses.dataclass(frozen=True)
class Gated:
  """Both reward models with their gate."""

  helpful: reward_model.RewardModel
  safety: reward_model.RewardModel
  config: Config

  def score(self, rollout: Rollout, examples: Sequence[Example]) -> jax.Array:
    """Gated scores [B], whitened if they are to be."""
    helpful, safety = (
      model.score(rollout, examples) * model.std
      for model in (self.helpful, self.safety)
    )
    return gate(helpful, safety, tagged(examples, self.config), self.config)


def make(config, *, policy_tokenizer, mesh, rules) -> Gated:
  """Loads the models at `config.path` and `config.options.safety`."""
  options = Config(**config.options)
  models = reward_model.load_all(
    config,
    [options.safety],
    policy_tokenizer=policy_tokenizer,
    mesh=mesh,
    rules=rules,
  )
  return Gated(*models, options)


def tagged(examples: Sequence[Example], config: Config) -> np.ndarray:
  """Whether each prompt is marked for safety, bool [B]."""
  values = [e.meta.get(config.tag) for e in examples]
  if config.tag_value:
    return np.array([str(v) == config.tag_value for v in values])
  return np.array([bool(v) for v in values])


@functools.partial(jax.jit, static_argnums=3)
def gate(
  helpful: Float[Array, ' B'],
  safety: Float[Array, ' B'],
  tagged: Bool[Array, ' B'],
  config: Config,
) -> Float[Array, ' B']:
  """The module's R from both models' logits."""
  unsafe = jax.nn.sigmoid(safety) < config.threshold
  scores = jnp.where(tagged | unsafe, safety, helpful)
  if config.whiten:
    scores = masking.masked_whiten(scores, jnp.ones_like(tagged))
  return scores
