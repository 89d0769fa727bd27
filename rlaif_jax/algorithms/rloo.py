"""RLOO: REINFORCE whose baseline is the other samples of the same prompt.

Ahmadian et al. 2024 (arXiv 2402.14740); Kool et al. 2019. Each prompt has G =
`group_size` responses, and a whole response is one action:

  R_i = r_i - beta sum_t (log p - log q)(A_t)
  A_i = R_i - 1/(G-1) sum_{j != i} R_j
  L = mean_i max(-A_i ratio_i, -A_i clip(ratio_i)),
  ratio_i = exp(sum_t log p - log p_old)

At the first update of a batch the ratio is 1, and the gradient is that of
-A_i sum_t log p: plain REINFORCE. There is no value model. Unlike in GRPO the
baseline leaves the row itself out, so the gradient is unbiased, and nothing is
divided by a deviation.
"""

import dataclasses

import chex
import jax
from jaxtyping import Array, Float

from rlaif_jax.algorithms import _common
from rlaif_jax.core import clipping, kl, returns, types

NEEDS_VALUE = False
ON_POLICY = False

_NORMALIZE = 'sequence_mean'


@dataclasses.dataclass(frozen=True)
class Config:
  """Options of the algorithm.

  Attributes:
    beta: weight of KL in the reward; the score has weight 1.
    group_size: G, responses of each prompt, at least 2.
    clip_low: the ratio of a whole response gives no gradient further below 1
      than this.
    clip_high: nor further above.
    inner_epochs: passes over a batch of samples; the paper's is 1.
    num_minibatches: parts of the batch, with one update each.
  """

  beta: float = 0.05
  group_size: int = 4
  clip_low: float = 0.2
  clip_high: float = 0.2
  inner_epochs: int = 1
  num_minibatches: int = 1

  def __post_init__(self):
    """Raises ValueError, with what is allowed, on a value that is not."""
    _common.check('rloo', self, least={'group_size': 2})


def targets(
  rollout: types.Rollout,
  *,
  scores: Float[Array, ' B'],
  ref_logprobs: Float[Array, 'B R'],
  values: Float[Array, 'B R'],
  config: Config,
) -> types.Targets:
  """R_i as returns and A_i as advantages, the same at all tokens of a row.

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
  sequence_kl = kl.sequence_kl(rollout.logprobs, ref_logprobs, mask)
  rewards = _common.real_scores(rollout, scores) - config.beta * sequence_kl
  advantages = returns.leave_one_out(rewards, config.group_size)
  result = types.Targets(
    advantages=_common.spread(advantages, mask),
    returns=_common.spread(rewards, mask),
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
  """L, the scalar to differentiate, and metrics.

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
    level='sequence_sum',
    normalize=_NORMALIZE,  # the terms of a row's tokens are the same
  )
  metrics['loss/policy_avg'] = jax.lax.stop_gradient(policy)
  metrics |= _common.loss_metrics(mask, _NORMALIZE, entropy)
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
