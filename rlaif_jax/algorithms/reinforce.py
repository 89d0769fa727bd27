"""REINFORCE with a learned value baseline and KL to the SFT model.

Lee et al., RLAIF vs. RLHF (arXiv 2309.00267), v2 appendices A.3 and F. With b =
`beta`, r = the score of a whole response, p = the policy, q = the SFT model:

  J = E_{y ~ p} [ (1 - b) r(y|x) - b KL(p(.|x) || q(.|x)) ]            (A.3)

What happens in a step:

  1. The stage samples responses y ~ p, scores them, and takes log q of every
     token and V(X_t) of every state (X_t = prompt and tokens before t).
  2. `targets` sets the token rewards r_t, the returns Z_t = sum_{s >= t} r_s
     (gamma = 1) and the advantages A_t = Z_t - V(X_t), all detached.   (App. F)
  3. `loss` is L_PG = -sum_t log p(A_t|X_t) stopgrad(Z_t - V(X_t)), plus
     `value_coef` times L_V = sum_t (Z_t - V(X_t))^2: sums over tokens, no 1/2,
     no clipping, no importance ratio, one update for each sample.      (App. F)

The paper folds KL into the policy gradient and does not say where. So here
`kl_placement` says it:

  'token'     r_t = -b kl_t at every real token, and (1 - b) r more at the last
              one. Z_t holds only the KL that token t can still change. Default.
  'sequence'  r_T = (1 - b) r - b sum_t kl_t at the last token and 0 before, so
              Z_t = R_T for all t: the literal reading of appendix F. The same
              expected gradient as 'token' with k1, with more noise.
  'loss'      r_T = (1 - b) r, and b sum_t kl_t joins the loss and is
              differentiated. With k2 its gradient is that of the KL of each
              token's distribution from q's; that an early token changes which
              states come later is not counted. k3 instead pulls with the
              gradient of KL(q || p). k1 is refused: its gradient is
              E grad log p = 0, so it would be noise and no constraint.

`kl_t` is `kl_estimator` on the sampled token (core/kl.py): on log p as sampled,
detached, in a reward; on the current log p in a loss.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlaif_jax.core import kl, losses, masking, returns, types

NEEDS_VALUE = True
ON_POLICY = True

_CHOICES = {
  'kl_placement': ('token', 'sequence', 'loss'),
  'kl_estimator': kl.ESTIMATORS,
  'normalize': losses.NORMALIZERS,
}


@dataclasses.dataclass(frozen=True)
class Config:
  """Options of the algorithm.

  Attributes:
    beta: b above, in [0, 1]; the score is weighed by 1 - beta.
    kl_placement: where KL goes, see the module's docstring.
    kl_estimator: 'k1', 'k2' or 'k3'; 'loss' needs 'k2' or 'k3'.
    normalize: how token terms become one number, see losses.reduce_tokens;
      'sequence_sum' is the paper's.
    value_coef: weight of the value loss.
    whiten_advantages: scale advantages to mean 0 and variance 1 over the batch.
  """

  beta: float = 0.05
  kl_placement: str = 'token'
  kl_estimator: str = 'k1'
  normalize: str = 'sequence_sum'
  value_coef: float = 1.0
  whiten_advantages: bool = False

  def __post_init__(self):
    """Raises ValueError, with what is allowed, on a value that is not."""
    for name, allowed in _CHOICES.items():
      value = getattr(self, name)
      if value not in allowed:
        raise ValueError(
          f'reinforce: {name}={value!r} is not one of {", ".join(allowed)}.'
        )
    if not 0.0 <= self.beta <= 1.0:
      raise ValueError(
        f'reinforce: beta={self.beta} is outside [0, 1]; the objective is '
        '(1 - beta) * score - beta * KL.'
      )
    if self.kl_placement == 'loss' and self.kl_estimator == 'k1':
      raise ValueError(
        "reinforce: kl_placement='loss' needs kl_estimator 'k2' or 'k3'; the "
        'gradient of k1 as a loss is 0 on average and constrains nothing.'
      )


def targets(
  rollout: types.Rollout,
  *,
  scores: Float[Array, ' B'],
  ref_logprobs: Float[Array, 'B R'],
  values: Float[Array, 'B R'],
  config: Config,
) -> types.Targets:
  """Step 2: returns and advantages of sampled responses.

  Args:
    rollout: prompts, responses and the policy's log-probabilities of them.
    scores: what each whole response is worth.
    ref_logprobs: the SFT model's log-probabilities, at the same temperature.
    values: V of the state before each response token.
    config: options.

  Returns:
    Advantages and returns, float32, detached, 0 at padding.
  """
  mask = rollout.response_mask
  chex.assert_equal_shape([rollout.logprobs, ref_logprobs, values, mask])
  rewards = _token_rewards(rollout, scores, ref_logprobs, config)
  to_go = returns.rewards_to_go(rewards, mask)
  advantages = jnp.where(mask, to_go - values, 0.0)
  if config.whiten_advantages:
    advantages = masking.masked_whiten(advantages, mask)
  result = types.Targets(advantages=advantages, returns=to_go)
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
  """Step 3: the scalar to differentiate, and metrics.

  Args:
    logprobs: the policy's log-probabilities of the response now.
    values: V of the state before each response token now.
    targets: from `targets`.
    rollout: what was sampled.
    config: options.
    ref_logprobs: the SFT model's; needed if KL is in the loss, else it only
      adds KL metrics.
    scores: of whole responses; only adds metrics.
    entropy: of the policy at each token; only adds a metric.

  Raises:
    ValueError: if KL is in the loss and there are no `ref_logprobs`.
  """
  mask = rollout.response_mask
  policy = losses.policy_gradient(
    logprobs, targets.advantages, mask, config.normalize
  )
  value = losses.value_loss(values, targets.returns, mask, config.normalize)
  metrics = {'loss/policy_avg': policy, 'loss/value_avg': value}
  total = policy + config.value_coef * value
  if config.kl_placement == 'loss':
    if ref_logprobs is None:
      raise ValueError("reinforce: kl_placement='loss' needs ref_logprobs.")
    metrics['loss/kl_avg'] = _kl_loss(logprobs, ref_logprobs, mask, config)
    total += config.beta * metrics['loss/kl_avg']
  metrics |= _objective_metrics(rollout, scores, ref_logprobs, config)
  if entropy is not None:
    metrics['objective/entropy'] = masking.masked_mean(entropy, mask)
  return total, jax.lax.stop_gradient(metrics)


def _token_rewards(
  rollout: types.Rollout, scores: Array, ref_logprobs: Array, config: Config
) -> Float[Array, 'B R']:
  """r_t of every token, by `config.kl_placement`."""
  mask = rollout.response_mask
  score_rewards = returns.place_at_last((1.0 - config.beta) * scores, mask)
  if config.kl_placement == 'loss':
    return score_rewards
  token_kl = kl.token_kl(
    rollout.logprobs, ref_logprobs, mask, config.kl_estimator
  )
  if config.kl_placement == 'sequence':
    total = masking.masked_sum(token_kl, mask, axis=-1)
    token_kl = returns.place_at_last(total, mask)
  return score_rewards - config.beta * token_kl


def _kl_loss(
  logprobs: Array, ref_logprobs: Array, mask: Array, config: Config
) -> Float[Array, '']:
  """KL to differentiate, reduced as the policy loss is."""
  ref_logprobs = jax.lax.stop_gradient(ref_logprobs)
  token_kl = kl.token_kl(logprobs, ref_logprobs, mask, config.kl_estimator)
  return losses.reduce_tokens(token_kl, mask, config.normalize)


def _objective_metrics(
  rollout: types.Rollout,
  scores: Array | None,
  ref_logprobs: Array | None,
  config: Config,
) -> dict[str, Float[Array, '']]:
  """J and its parts: means over all rows, of what the inputs allow.

  KL here is k1 whatever the options, so that runs compare.
  """
  mask = rollout.response_mask
  metrics = {}
  if scores is not None:
    scores = jnp.where(jnp.any(mask, axis=-1), scores, 0.0)
    metrics['objective/scores'] = jnp.mean(scores)
  if ref_logprobs is not None:
    sums = {
      name: kl.sequence_kl(rollout.logprobs, ref_logprobs, mask, name)
      for name in ('k1', 'k3')
    }
    metrics['objective/kl'] = jnp.mean(sums['k1'])
    metrics['objective/kl_k3'] = jnp.mean(sums['k3'])
    metrics['objective/non_score_reward'] = (
      -config.beta * metrics['objective/kl']
    )
  if scores is not None and ref_logprobs is not None:
    metrics['objective/rlhf_reward'] = (1.0 - config.beta) * metrics[
      'objective/scores'
    ] + metrics['objective/non_score_reward']
  return metrics
