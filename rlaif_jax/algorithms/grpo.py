"""GRPO: advantages from a group's own scores, KL in the loss.

Shao et al. 2024 (DeepSeekMath, arXiv 2402.03300, section 4.1). Each prompt has
G = `group_size` responses, and a response's score is compared with those of
its group; there is no value model:

  A_i = (r_i - mean(r)) / (std(r) + 1e-4)      the same at all tokens of row i
  L = mean_i 1/|o_i| sum_t [ max(-A_i ratio_t, -A_i clip(ratio_t)) + beta k3_t ]

with k3 the estimate of KL to the reference (core/kl.py), differentiated. The
paper writes it so; note that the mean gradient of k3 is that of the KL the
other way round. What has been proposed since is a matter of options:

  Dr. GRPO  (arXiv 2503.20783)  no std, and 1/R in place of 1/|o_i|
  DAPO      (arXiv 2503.14476)  clip_high above clip_low, a mean over tokens
  GSPO      (arXiv 2507.18071)  the ratio of a whole response, to the 1/|o_i|

all three without KL: `VARIANTS` has their settings.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlaif_jax.algorithms import _common
from rlaif_jax.core import clipping, kl, losses, returns, types

NEEDS_VALUE = False
ON_POLICY = False

# Name -> options over Config's defaults, as the papers have them. The dynamic
# sampling of DAPO is the stage's, for any algorithm: stages/_rounds.py.
VARIANTS = {
  'grpo': {},
  'dr_grpo': dict(scale=False, normalize='constant', beta=0.0),
  'dapo': dict(clip_high=0.28, normalize='token_mean', beta=0.0),
  'gspo': dict(ratio='sequence', clip_low=3e-4, clip_high=4e-4, beta=0.0),
}
_LEVELS = {'token': 'token', 'sequence': 'sequence_mean'}


@dataclasses.dataclass(frozen=True)
class Config:
  """Options of the algorithm.

  Attributes:
    beta: weight of KL in the loss; 0 leaves it out.
    group_size: G, responses of each prompt, at least 2; the paper has 64.
    scale: divide advantages by the standard deviation of the group's scores.
    ratio: 'token', or 'sequence' for the geometric mean over a response.
    clip_low: the ratio gives no gradient further below 1 than this.
    clip_high: nor further above.
    normalize: how token terms become one number, see losses.reduce_tokens.
    inner_epochs: passes over a batch of samples.
    num_minibatches: parts of the batch, with one update each.
  """

  beta: float = 0.04
  group_size: int = 4
  scale: bool = True
  ratio: str = 'token'
  clip_low: float = 0.2
  clip_high: float = 0.2
  normalize: str = 'sequence_mean'
  inner_epochs: int = 1
  num_minibatches: int = 1

  def __post_init__(self):
    """Raises ValueError, with what is allowed, on a value that is not."""
    _common.check(
      'grpo',
      self,
      choices={'ratio': tuple(_LEVELS), 'normalize': losses.NORMALIZERS},
      least={'group_size': 2},
    )


def targets(
  rollout: types.Rollout,
  *,
  scores: Float[Array, ' B'],
  ref_logprobs: Float[Array, 'B R'],
  values: Float[Array, 'B R'],
  config: Config,
) -> types.Targets:
  """A_i as advantages and r_i as returns, the same at all tokens of a row.

  Args:
    rollout: responses, groups beside each other.
    scores: what each whole response is worth.
    ref_logprobs: not used, KL is in the loss.
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
  advantages = returns.group_centre(
    scores, config.group_size, scale=config.scale
  )
  result = types.Targets(
    advantages=_common.spread(advantages, mask),
    returns=_common.spread(scores.astype(jnp.float32), mask),
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
    ref_logprobs: the reference's; needed unless beta is 0.
    scores: not used.
    entropy: of the policy at each token; only adds a metric.

  Raises:
    ValueError: there are no `ref_logprobs`, but beta is not 0.
  """
  del values, scores
  mask = rollout.response_mask
  total, metrics = clipping.clipped_policy_gradient(
    logprobs,
    rollout.logprobs,
    targets.advantages,
    mask,
    clip_low=config.clip_low,
    clip_high=config.clip_high,
    level=_LEVELS[config.ratio],
    normalize=config.normalize,
  )
  parts = {'loss/policy_avg': total}
  if config.beta:
    if ref_logprobs is None:
      raise ValueError('grpo: beta is not 0, so the loss needs ref_logprobs.')
    token_kl = kl.token_kl(
      logprobs, jax.lax.stop_gradient(ref_logprobs), mask, 'k3'
    )
    parts['loss/kl_avg'] = losses.reduce_tokens(
      token_kl, mask, config.normalize
    )
    total += config.beta * parts['loss/kl_avg']
  metrics |= jax.lax.stop_gradient(parts)
  metrics |= _common.loss_metrics(mask, config.normalize, entropy)
  return total, metrics


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
