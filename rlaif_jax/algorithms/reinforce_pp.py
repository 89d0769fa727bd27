"""REINFORCE++: PPO's means without a value model.

Hu 2025 (arXiv 2501.03262). Token rewards are those of PPO, -beta (log p -
log q)(A_t) and the score more at the last real token. The advantage of a token
is what is still to come, Z_t = sum_{s >= t} r_s (gamma = 1), whitened over all
tokens of the batch, and not of a group: a group's own deviation would weigh
easy and hard prompts up. The loss is PPO's clipped one, a mean over tokens.

With `group_size` above 1 the mean score of the prompt's group is taken off each
score first (the paper's REINFORCE++-baseline, there with KL in the loss).
"""

import dataclasses

import chex
import jax
from jaxtyping import Array, Float

from rlaif_jax.algorithms import _common
from rlaif_jax.core import clipping, losses, masking, returns, types

NEEDS_VALUE = False
ON_POLICY = False


@dataclasses.dataclass(frozen=True)
class Config:
  """Options of the algorithm.

  Attributes:
    beta: weight of KL in the reward; the score has weight 1.
    group_size: responses of each prompt; 1 is without a baseline.
    clip_low: the ratio gives no gradient further below 1 than this.
    clip_high: nor further above.
    normalize: how token terms become one number, see losses.reduce_tokens.
    inner_epochs: passes over a batch of samples.
    num_minibatches: parts of the batch, with one update each.
  """

  beta: float = 0.01
  group_size: int = 1
  clip_low: float = 0.2
  clip_high: float = 0.2
  normalize: str = 'token_mean'
  inner_epochs: int = 1
  num_minibatches: int = 1

  def __post_init__(self):
    """Raises ValueError, with what is allowed, on a value that is not."""
    _common.check(
      'reinforce_pp', self, choices={'normalize': losses.NORMALIZERS}
    )


def targets(
  rollout: types.Rollout,
  *,
  scores: Float[Array, ' B'],
  ref_logprobs: Float[Array, 'B R'],
  values: Float[Array, 'B R'],
  config: Config,
) -> types.Targets:
  """Z_t as returns, and whitened as advantages.

  Args:
    rollout: responses, groups beside each other, and their log-probabilities
      as sampled.
    scores: what each whole response is worth.
    ref_logprobs: the reference's log-probabilities, at the same temperature.
    values: not used.
    config: options.

  Returns:
    Float32, detached, 0 at padding.

  Raises:
    ValueError: groups do not divide the batch.
  """
  mask = rollout.response_mask
  chex.assert_equal_shape([rollout.logprobs, ref_logprobs, values, mask])
  scores = _common.real_scores(rollout, scores)
  if config.group_size > 1:
    scores = returns.group_centre(scores, config.group_size)
  rewards = _common.token_rewards(rollout, scores, ref_logprobs, config.beta)
  to_go = returns.rewards_to_go(rewards, mask)
  result = types.Targets(
    advantages=masking.masked_whiten(to_go, mask), returns=to_go
  )
  return jax.lax.stop_gradient(result)


def loss(
  logprobs: Float[Array, 'B R'],
  values: Float[Array, 'B R'],
  targets: types.Targets,
  rollout: types.Rollout,
  config: Config,
  *,
  ref_logprobs: Float[Array, 'B R'] | None = None,
  scores: Float[Array, ' B'] | None = None,
  entropy: Float[Array, 'B R'] | None = None,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """The scalar to differentiate, and metrics.

  Args:
    logprobs: the policy's log-probabilities of the response now.
    values: not used.
    targets: from `targets`.
    rollout: what was sampled; its log-probabilities are the old ones.
    config: options.
    ref_logprobs: not used, KL is in the reward.
    scores: not used.
    entropy: of the policy at each token; only adds a metric.
  """
  del values, ref_logprobs, scores
  mask = rollout.response_mask
  policy, metrics = clipping.clipped_policy_gradient(
    logprobs,
    rollout.logprobs,
    targets.advantages,
    mask,
    clip_low=config.clip_low,
    clip_high=config.clip_high,
    normalize=config.normalize,
  )
  metrics['loss/policy_avg'] = jax.lax.stop_gradient(policy)
  metrics |= _common.loss_metrics(mask, config.normalize, entropy)
  return policy, metrics


def observe(
  rollout: types.Rollout,
  *,
  scores: Float[Array, ' B'],
  ref_logprobs: Float[Array, 'B R'],
  config: Config,
) -> tuple[dict[str, Array], dict[str, Float[Array, '']]]:
  """({}, objective metrics)."""
  metrics = _common.objective_metrics(
    rollout, scores, ref_logprobs, config.beta
  )
  return {}, metrics | _common.group_metrics(scores, config.group_size)
