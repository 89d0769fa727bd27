"""Online DPO: a preference loss on pairs that the policy has just sampled.

Guo et al. 2024 (OAIF, arXiv 2402.04792), section 3. Each prompt has two
responses, and their scores say which one is better: the labeler's verdict on
the pair (rewards/pairwise.py), or any other reward. With p_i the probability
that row i is better than j, the other one, and d = sum_t (log p - log q):

  L = mean_i -p_i log s(b (d_i - d_j)) - (1 - p_i) log s(-b (d_i - d_j))

which is DPO's loss, or IPO's (core/preference.py), of each pair taken from both
sides. d_j is the one as sampled, and each row's gradient counts twice; at the
one update of a batch that is the gradient of the pairs' mean loss, and the rows
of a pair may be in different microbatches.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlaif_jax.algorithms import _common
from rlaif_jax.core import masking, preference, types

NEEDS_VALUE = False
ON_POLICY = False

LABELS = ('hard', 'probability', 'bradley_terry')
_LOSSES = {'dpo': (preference.dpo, 'beta'), 'ipo': (preference.ipo, 'tau')}


@dataclasses.dataclass(frozen=True)
class Config:
  """Options of the algorithm.

  Attributes:
    beta: b of 'dpo', tau of 'ipo'; the paper's are 0.1 and 1.0.
    loss: 'dpo' or 'ipo'.
    label: what scores mean. 'hard': the higher one is better, as the paper has
      it, and equal ones are a tie. 'probability': p_i = (1 + r_i - r_j) / 2,
      which is p_i itself where scores are p and 1 - p (leave reward_scaling at
      'none'). 'bradley_terry': p_i = s(r_i - r_j), for a reward model.
    group_size: responses of each prompt, which is 2.
  """

  beta: float = 0.1
  loss: str = 'dpo'
  label: str = 'hard'
  group_size: int = 2

  def __post_init__(self):
    """Raises ValueError, with what is allowed, on a value that is not."""
    _common.check(
      'online_dpo',
      self,
      choices={
        'loss': tuple(_LOSSES),
        'label': LABELS,
        'group_size': (2,),
      },
    )


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=(
    'advantages',
    'returns',
    'p_better',
    'other',
    'ref_other',
    'weight',
  ),
  meta_fields=(),
)
@dataclasses.dataclass(frozen=True)
class PairTargets(types.Targets):
  """What a row has to know of its pair; advantages are 2 p_i - 1."""

  p_better: jax.Array  # [B] float32; p_i
  other: jax.Array  # [B] float32; log-probability of the other response
  ref_other: jax.Array  # [B] float32; the same under the reference
  weight: jax.Array  # [B] float32; 0 where one of the two is empty


def targets(
  rollout: types.Rollout,
  *,
  scores: Float[Array, ' B'],
  ref_logprobs: Float[Array, 'B R'],
  values: Float[Array, 'B R'],
  config: Config,
) -> PairTargets:
  """Who is better in each pair, and the log-probabilities of the other one.

  Args:
    rollout: responses, the two of a prompt beside each other, and their
      log-probabilities as sampled.
    scores: what each response is worth, see `Config.label`.
    ref_logprobs: the reference's log-probabilities, at the same temperature.
    values: not used.
    config: options.

  Returns:
    Float32, detached; scores as returns.

  Raises:
    ValueError: an odd number of rows.
  """
  mask = rollout.response_mask
  chex.assert_equal_shape([rollout.logprobs, ref_logprobs, values, mask])
  if mask.shape[0] % 2:
    raise ValueError(
      f'online_dpo: {mask.shape[0]} rows are no pairs; make the batch even'
    )
  scores = _common.real_scores(rollout, scores).astype(jnp.float32)
  p_better = probability(scores - _swapped(scores), config.label)
  real = jnp.any(mask, axis=-1)
  logps = masking.masked_sum(rollout.logprobs, mask, axis=-1)
  ref_logps = masking.masked_sum(ref_logprobs, mask, axis=-1)
  result = PairTargets(
    advantages=_common.spread(2 * p_better - 1, mask),
    returns=_common.spread(scores, mask),
    p_better=p_better,
    other=_swapped(logps),
    ref_other=_swapped(ref_logps),
    weight=(real & _swapped(real)).astype(jnp.float32),
  )
  return jax.lax.stop_gradient(result)


def probability(lead: Float[Array, ' B'], label: str) -> Float[Array, ' B']:
  """p_i of the lead r_i - r_j of each row; see `Config.label`."""
  if label == 'hard':
    return 0.5 + 0.5 * jnp.sign(lead)
  if label == 'probability':
    return jnp.clip(0.5 + 0.5 * lead, 0.0, 1.0)
  return jax.nn.sigmoid(lead)


def loss(
  logprobs: Float[Array, 'B R'],
  values: Float[Array, 'B R'],
  targets: PairTargets,
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
    rollout: what was sampled.
    config: options.
    ref_logprobs: the reference's; needed.
    scores: not used.
    entropy: of the policy at each token; only adds a metric.

  Returns:
    The loss, and metrics that core/preference.py describes.

  Raises:
    ValueError: there are no `ref_logprobs`.
  """
  del values, scores
  if ref_logprobs is None:
    raise ValueError('online_dpo: the loss needs ref_logprobs.')
  mask = rollout.response_mask
  function, option = _LOSSES[config.loss]
  value, metrics = function(
    masking.masked_sum(logprobs, mask, axis=-1),
    targets.other,
    masking.masked_sum(ref_logprobs, mask, axis=-1),
    targets.ref_other,
    targets.p_better,
    targets.weight,
    **{option: config.beta},
  )
  metrics['loss/policy_avg'] = jax.lax.stop_gradient(value)
  metrics |= _common.entropy_metric(mask, entropy)
  metrics['weight'] = jnp.sum(targets.weight)
  return 2 * value - jax.lax.stop_gradient(value), metrics


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
  return {}, metrics | _common.group_metrics(scores, 2)


def _swapped(rows: Array) -> Array:
  """Each row of a pair in the place of the other one, [B, ...]."""
  return rows.reshape(-1, 2, *rows.shape[1:])[:, ::-1].reshape(rows.shape)
