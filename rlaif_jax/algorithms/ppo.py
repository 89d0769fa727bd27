"""PPO for language models: clipped ratio, learned value, KL in the reward.

Schulman et al. 2017 (arXiv 1707.06347) as Ziegler et al. 2019 (arXiv
1909.08593), Stiennon et al. 2020 (arXiv 2009.01325) and Huang et al. 2024
(arXiv 2403.17031, "N+") use it. With r the score of a response, p the policy
and q the reference:

  1. Token rewards are -beta (log p - log q)(A_t), and r more at the last real
     token. `whiten_rewards` divides them by their deviation over the batch.
  2. Advantages are GAE(gamma, lambda) of these and of the values as the
     responses were sampled; returns are advantages plus those values; then
     advantages are whitened over the batch.
  3. `inner_epochs` times over, shuffled, each of `num_minibatches` parts gives
     an update of max(-A ratio, -A clip(ratio)) + value_coef * 0.5 max((V -
     Z)^2, (V_clipped - Z)^2), means over tokens.

With `kl_target` the weight of KL is not `beta` but follows a controller that
starts there (core/kl.adapt_coefficient); it is part of every checkpoint. The
objective is r - beta KL, where reinforce.py has (1 - beta) r - beta KL.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlaif_jax.algorithms import _common
from rlaif_jax.core import clipping, kl, losses, masking, returns, types

NEEDS_VALUE = True
ON_POLICY = False

State = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Config:
  """Options of the algorithm; defaults are N+'s for TL;DR.

  Attributes:
    beta: weight of KL, or where it starts.
    kl_target: KL of a whole response, nats, that the controller aims at; 0
      keeps beta as it is.
    kl_horizon: episodes in which the controller may change it by a fifth.
    gamma: discount of a token.
    gae_lambda: lambda of GAE.
    clip_low: the ratio gives no gradient further below 1 than this.
    clip_high: nor further above.
    value_clip: nor does a value that moved further than this.
    value_coef: weight of the value loss.
    whiten_advantages: to mean 0 and variance 1 over the batch's tokens.
    whiten_rewards: token rewards to variance 1; their mean stays.
    normalize: how token terms become one number, see losses.reduce_tokens.
    inner_epochs: passes over a batch of samples.
    num_minibatches: parts of the batch, with one update each.
  """

  beta: float = 0.05
  kl_target: float = 0.0
  kl_horizon: float = 10_000.0
  gamma: float = 1.0
  gae_lambda: float = 0.95
  clip_low: float = 0.2
  clip_high: float = 0.2
  value_clip: float = 0.2
  value_coef: float = 0.1
  whiten_advantages: bool = True
  whiten_rewards: bool = False
  normalize: str = 'token_mean'
  inner_epochs: int = 4
  num_minibatches: int = 1

  def __post_init__(self):
    """Raises ValueError, with what is allowed, on a value that is not."""
    _common.check(
      'ppo',
      self,
      choices={'normalize': losses.NORMALIZERS},
      least={'kl_target': 0, 'kl_horizon': 1, 'value_clip': 0},
    )
    for name in ('gamma', 'gae_lambda'):
      if not 0.0 <= getattr(self, name) <= 1.0:
        raise ValueError(f'ppo: {name}={getattr(self, name)} is outside [0, 1]')


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets(types.Targets):
  """With the values that `returns` were made of, for their clipping."""

  values: Float[Array, 'B R']


def init_state(config: Config) -> State:
  """The controller's weight of KL, a scalar."""
  return {'kl_coef': jnp.float32(config.beta)}


def targets(
  rollout: types.Rollout,
  *,
  scores: Float[Array, ' B'],
  ref_logprobs: Float[Array, 'B R'],
  values: Float[Array, 'B R'],
  config: Config,
  state: State | None = None,
) -> Targets:
  """Steps 1 and 2.

  Args:
    rollout: prompts, responses and their log-probabilities as sampled.
    scores: what each whole response is worth.
    ref_logprobs: the reference's log-probabilities, at the same temperature.
    values: V of the state before each response token, before any update.
    config: options.
    state: from `init_state` or `observe`; None is the former.

  Returns:
    Advantages, returns and values, float32, detached, 0 at padding.
  """
  mask = rollout.response_mask
  chex.assert_equal_shape([rollout.logprobs, ref_logprobs, values, mask])
  beta = (state or init_state(config))['kl_coef']
  rewards = _common.token_rewards(rollout, scores, ref_logprobs, beta)
  if config.whiten_rewards:
    rewards = masking.masked_whiten(rewards, mask, shift_mean=False)
  values = jnp.where(mask, values, 0.0)
  advantages = returns.gae(
    rewards, values, mask, gamma=config.gamma, lam=config.gae_lambda
  )
  to_go = advantages + values
  if config.whiten_advantages:
    advantages = masking.masked_whiten(advantages, mask)
  return jax.lax.stop_gradient(Targets(advantages, to_go, values))


def loss(
  logprobs: Float[Array, 'B R'],
  values: Float[Array, 'B R'],
  targets: Targets,
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
    rollout: what was sampled; its log-probabilities are the old ones.
    config: options.
    ref_logprobs: not used, KL is in the reward.
    scores: not used.
    entropy: of the policy at each token; only adds a metric.
  """
  del ref_logprobs, scores
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
  value, value_metrics = clipping.clipped_value_loss(
    values,
    targets.values,
    targets.returns,
    mask,
    clip=config.value_clip,
    normalize=config.normalize,
  )
  parts = {'loss/policy_avg': policy, 'loss/value_avg': value}
  metrics |= value_metrics | jax.lax.stop_gradient(parts)
  metrics |= _common.loss_metrics(mask, config.normalize, entropy)
  return policy + config.value_coef * value, metrics


def observe(
  rollout: types.Rollout,
  *,
  scores: Float[Array, ' B'],
  ref_logprobs: Float[Array, 'B R'],
  config: Config,
  state: State | None = None,
) -> tuple[State, dict[str, Float[Array, '']]]:
  """The next state of the KL controller, and objective metrics.

  The metrics are at the weight of KL that this batch is learned with, which
  is `objective/kl_coef`.
  """
  beta = (state or init_state(config))['kl_coef']
  metrics = _common.objective_metrics(rollout, scores, ref_logprobs, beta)
  metrics['objective/kl_coef'] = beta
  if config.kl_target:
    beta = kl.adapt_coefficient(
      beta,
      metrics['objective/kl'],
      scores.shape[0],
      target=config.kl_target,
      horizon=config.kl_horizon,
    )
  return {'kl_coef': beta}, metrics
