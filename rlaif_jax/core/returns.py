"""Rewards along a response, what is still to come, and baselines.

An episode is one response: a state is the prompt and the tokens so far, an
action is the next token, and it ends at the last real token (RLAIF vs. RLHF,
v2 appendix F).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlaif_jax.core import masking


def rewards_to_go(
  rewards: Float[Array, 'B R'], mask: Bool[Array, 'B R']
) -> Float[Array, 'B R']:
  """Z_t = sum of the rewards from token t on; 0 at padding, float32."""
  rewards = jnp.where(mask, rewards, 0.0).astype(jnp.float32)
  to_go = jax.lax.cumsum(rewards, axis=1, reverse=True)
  return jnp.where(mask, to_go, 0.0)


def place_at_last(
  scores: Float[Array, ' B'], mask: Bool[Array, 'B R']
) -> Float[Array, 'B R']:
  """Each row's score at its last real token, 0 elsewhere.

  An empty row has nowhere to put its score and is all 0.
  """
  index = jnp.arange(mask.shape[1])[None]
  at_last = (index == masking.last_real(mask)[:, None]) & mask
  return jnp.where(at_last, scores[:, None], 0.0).astype(jnp.float32)


def gae(
  rewards: Float[Array, 'B R'],
  values: Float[Array, 'B R'],
  mask: Bool[Array, 'B R'],
  *,
  gamma: float = 1.0,
  lam: float = 0.95,
) -> Float[Array, 'B R']:
  """Generalised advantage estimates A_t; 0 at padding, float32.

  A_t = sum_{s >= t} (gamma lam)^{s - t} d_s with the temporal difference
  d_t = r_t + gamma V_{t+1} - V_t and V = 0 after the last real token (Schulman
  et al. 2015, arXiv 1506.02438, equation 16). lam = 1 gives the discounted
  rewards to go less V_t, lam = 0 gives d_t.

  Args:
    rewards: r_t of each token; what padding holds is ignored.
    values: V of the state before each token; likewise.
    mask: True at real tokens, which come first in a row.
    gamma: discount of a step.
    lam: lambda, which trades variance (1) for bias (0).
  """
  rewards = jnp.where(mask, rewards, 0.0).astype(jnp.float32)
  values = jnp.where(mask, values, 0.0).astype(jnp.float32)
  following = jnp.pad(values[:, 1:], ((0, 0), (0, 1)))
  differences = rewards + gamma * following - values

  def body(later, difference):
    advantage = difference + gamma * lam * later
    return advantage, advantage

  zeros = jnp.zeros(rewards.shape[:1], jnp.float32)
  _, advantages = jax.lax.scan(body, zeros, differences.T, reverse=True)
  return jnp.where(mask, advantages.T, 0.0)


def leave_one_out(
  scores: Float[Array, ' B'], group_size: int
) -> Float[Array, ' B']:
  """Each score less the mean of the others of its group.

  Kool et al. 2019; Ahmadian et al. 2024 (RLOO, arXiv 2402.14740). A group is
  `group_size` rows beside each other.

  Raises:
    ValueError: groups of one row, or that do not divide the batch.
  """
  groups = _groups(scores, group_size, least=2)
  others = jnp.sum(groups, axis=1, keepdims=True) - groups
  return (groups - others / (group_size - 1)).reshape(-1)


def group_centre(
  scores: Float[Array, ' B'],
  group_size: int,
  *,
  scale: bool = False,
  epsilon: float = 1e-4,
) -> Float[Array, ' B']:
  """Each score less its group's mean, over the group's deviation if `scale`.

  GRPO (DeepSeekMath, arXiv 2402.03300, section 4.1.2). The deviation is that
  of a sample (n - 1), as in the field's implementations; `epsilon` is added to
  it, so equal scores give 0.

  Args:
    scores: rows of a group beside each other.
    group_size: rows of a group; with `scale`, 2 at least.
    scale: divide by the standard deviation, too.
    epsilon: added to the deviation.

  Raises:
    ValueError: groups too small, or that do not divide the batch.
  """
  groups = _groups(scores, group_size, least=2 if scale else 1)
  centred = groups - jnp.mean(groups, axis=1, keepdims=True)
  if scale:
    centred /= jnp.std(groups, axis=1, keepdims=True, ddof=1) + epsilon
  return centred.reshape(-1)


def all_equal_groups(
  scores: Float[Array, ' B'], group_size: int
) -> Float[Array, '']:
  """Share of the groups whose scores are all the same: they teach nothing."""
  return 1.0 - jnp.mean(unequal_groups(scores, group_size))


def unequal_groups(
  scores: Float[Array, ' B'], group_size: int
) -> Bool[Array, ' M']:
  """Whether the scores of each of the M groups are not all the same."""
  groups = _groups(scores, group_size, least=1)
  return jnp.any(groups != groups[:, :1], axis=1)


def _groups(
  scores: Float[Array, ' B'], size: int, least: int
) -> Float[Array, 'B/G G']:
  """Rows as groups, float32."""
  if size < least:
    raise ValueError(f'group_size={size}; it must be at least {least}')
  if scores.shape[0] % size:
    raise ValueError(
      f'{scores.shape[0]} rows cannot be cut into groups of {size}; make the '
      'batch a multiple of group_size'
    )
  return scores.astype(jnp.float32).reshape(-1, size)
