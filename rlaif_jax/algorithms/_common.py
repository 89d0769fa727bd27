"""What algorithms that learn several times from a batch share."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlaif_jax.core import kl, losses, masking, returns, types

Metrics = dict[str, Float[Array, '']]

_LEAST = {
  **dict.fromkeys(('inner_epochs', 'num_minibatches', 'group_size'), 1),
  **dict.fromkeys(('beta', 'clip_low', 'clip_high', 'value_coef'), 0),
}


def check(
  name: str,
  config: Any,
  *,
  choices: Mapping[str, Sequence[str]] | None = None,
  least: Mapping[str, float] | None = None,
) -> None:
  """Raises ValueError, with what is allowed, on an option that is not.

  Args:
    name: of the algorithm, for messages.
    config: its Config.
    choices: option -> the values it may have.
    least: option -> the least value, over those that hold for all algorithms.
  """
  for option, allowed in (choices or {}).items():
    value = getattr(config, option)
    if value not in allowed:
      raise ValueError(
        f'{name}: {option}={value!r} is not one of '
        f'{", ".join(map(str, allowed))}.'
      )
  for option, low in {**_LEAST, **(least or {})}.items():
    value = getattr(config, option, low)
    if not low <= value < math.inf:
      raise ValueError(
        f'{name}: {option}={value} must be a number of at least {low}.'
      )
  if getattr(config, 'clip_low', 0) > 1:
    raise ValueError(
      f'{name}: clip_low={config.clip_low} is above 1; ratios are clipped to '
      '[1 - clip_low, 1 + clip_high].'
    )


def token_rewards(
  rollout: types.Rollout,
  scores: Float[Array, ' B'],
  ref_logprobs: Float[Array, 'B R'],
  beta: float | Float[Array, ''],
) -> Float[Array, 'B R']:
  """-beta (log p - log q) at each token, and the score more at the last."""
  mask = rollout.response_mask
  token_kl = kl.token_kl(rollout.logprobs, ref_logprobs, mask)
  return returns.place_at_last(scores, mask) - beta * token_kl


def spread(
  rows: Float[Array, ' B'], mask: Bool[Array, 'B R']
) -> Float[Array, 'B R']:
  """One number of each row at all its real tokens, 0 at padding."""
  return jnp.where(mask, rows[:, None], 0.0)


def real_scores(
  rollout: types.Rollout, scores: Float[Array, ' B']
) -> Float[Array, ' B']:
  """Scores, 0 for rows that only fill the batch."""
  return jnp.where(jnp.any(rollout.response_mask, axis=-1), scores, 0.0)


def objective_metrics(
  rollout: types.Rollout,
  scores: Float[Array, ' B'],
  ref_logprobs: Float[Array, 'B R'],
  beta: float | Float[Array, ''],
) -> Metrics:
  """score - beta KL and its parts, means over rows; KL is k1, and k3 beside.

  `objective/rlhf_reward` weighs the score by 1, as this family does, where
  reinforce.py weighs it by 1 - beta: compare scores and KL across the two.
  """
  mask = rollout.response_mask
  sums = {
    name: jnp.mean(kl.sequence_kl(rollout.logprobs, ref_logprobs, mask, name))
    for name in ('k1', 'k3')
  }
  score, penalty = jnp.mean(real_scores(rollout, scores)), -beta * sums['k1']
  return {
    'objective/scores': score,
    'objective/kl': sums['k1'],
    'objective/kl_k3': sums['k3'],
    'objective/non_score_reward': penalty,
    'objective/rlhf_reward': score + penalty,
  }


def group_metrics(scores: Float[Array, ' B'], group_size: int) -> Metrics:
  """`frac_reward_zero_std`: share of groups that teach nothing."""
  if group_size == 1:
    return {}
  return {'frac_reward_zero_std': returns.all_equal_groups(scores, group_size)}


def loss_metrics(
  mask: Bool[Array, 'B R'],
  normalize: str,
  entropy: Float[Array, 'B R'] | None,
) -> Metrics:
  """Entropy, if there is one, and the weight of the loss's mean."""
  weight = losses.reduction_weight(mask, normalize)
  return {'weight': weight, **entropy_metric(mask, entropy)}


def entropy_metric(
  mask: Bool[Array, 'B R'], entropy: Float[Array, 'B R'] | None
) -> Metrics:
  """Mean entropy of the real tokens; {} if it is not known."""
  if entropy is None:
    return {}
  mean = masking.masked_mean(entropy, mask)
  return {'objective/entropy': jax.lax.stop_gradient(mean)}
