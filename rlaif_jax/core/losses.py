"""Losses on arrays: next token, soft preference, policy gradient, value.

Each is a float32 scalar. Batches where nothing is real give 0.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from rlaif_jax.core import masking

NORMALIZERS = ('sequence_sum', 'token_mean')


def cross_entropy(
  logprobs: Float[Array, 'B T'], mask: Bool[Array, 'B T']
) -> Float[Array, '']:
  """Mean negative log-probability of the tokens to learn, nats."""
  return -masking.masked_mean(logprobs, mask)


def soft_preference(
  scores_1: Float[Array, ' B'],
  scores_2: Float[Array, ' B'],
  p_first: Float[Array, ' B'],
  weight: Float[Array, ' B'] | None = None,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """Cross-entropy of a softmax over two scores against a soft label.

  -p log s(d) - (1 - p) log s(-d) with d = scores_1 - scores_2, whose gradient
  in d is s(d) - p (RLAIF vs. RLHF, section 2.2.1). A hard label is p = 0 or 1.

  Args:
    scores_1: score of the first text of each pair.
    scores_2: score of the second text.
    p_first: probability that the first is the better one, in [0, 1].
    weight: of each pair in the mean; 0 for a row that only fills the batch.
      None weighs all alike.

  Returns:
    The weighted mean loss, and metrics over the pairs that have a preferred
    side (p_first is not 0.5): `rewards/accuracies` (it scores strictly
    higher), `rewards/margins`, `rewards/chosen`, `rewards/rejected`.
  """
  scores_1, scores_2, p_first = (
    jnp.asarray(x, jnp.float32) for x in (scores_1, scores_2, p_first)
  )
  if weight is None:
    weight = jnp.ones_like(p_first)
  difference = scores_1 - scores_2
  losses = optax.losses.sigmoid_binary_cross_entropy(difference, p_first)
  decided = weight * (p_first != 0.5)
  first = p_first > 0.5
  chosen = jnp.where(first, scores_1, scores_2)
  rejected = jnp.where(first, scores_2, scores_1)
  metrics = {
    'rewards/accuracies': _weighted_mean(chosen > rejected, decided),
    'rewards/margins': _weighted_mean(chosen - rejected, decided),
    'rewards/chosen': _weighted_mean(chosen, decided),
    'rewards/rejected': _weighted_mean(rejected, decided),
  }
  return _weighted_mean(losses, weight), jax.lax.stop_gradient(metrics)


def policy_gradient(
  logprobs: Float[Array, 'B R'],
  advantages: Float[Array, 'B R'],
  mask: Bool[Array, 'B R'],
  normalize: str = 'sequence_sum',
) -> Float[Array, '']:
  """REINFORCE: -sum_t log p(A_t | X_t) * stopgrad(advantage_t), reduced.

  RLAIF vs. RLHF, v2 appendix F, where the sum runs over a response's tokens.
  See `reduce_tokens` for `normalize`.
  """
  advantages = jax.lax.stop_gradient(advantages)
  return -reduce_tokens(logprobs * advantages, mask, normalize)


def value_loss(
  values: Float[Array, 'B R'],
  returns: Float[Array, 'B R'],
  mask: Bool[Array, 'B R'],
  normalize: str = 'sequence_sum',
) -> Float[Array, '']:
  """Squared error sum_t (stopgrad(Z_t) - V(X_t))^2, reduced, with no 1/2.

  RLAIF vs. RLHF, v2 appendix F. See `reduce_tokens` for `normalize`.
  """
  error = jax.lax.stop_gradient(returns) - values
  return reduce_tokens(jnp.square(error), mask, normalize)


def reduce_tokens(
  x: Float[Array, 'B T'], mask: Bool[Array, 'B T'], normalize: str
) -> Float[Array, '']:
  """Per-token terms to one number.

  Args:
    x: per-token terms.
    mask: True where a term counts.
    normalize: 'sequence_sum', the mean over all B rows of the sum over a row's
      tokens (the paper's form; equal microbatches average to it exactly), or
      'token_mean', the mean over all tokens of the batch (long responses
      count for more, and the scale does not grow with length).

  Raises:
    ValueError: on an unknown `normalize`.
  """
  if normalize == 'sequence_sum':
    return jnp.mean(masking.masked_sum(x, mask, axis=-1))
  if normalize == 'token_mean':
    return masking.masked_mean(x, mask)
  raise ValueError(
    f'Unknown normalize {normalize!r}; use one of {", ".join(NORMALIZERS)}.'
  )


def _weighted_mean(x: Array, weight: Float[Array, ' B']) -> Float[Array, '']:
  """Mean of `x` under weights; 0 where all weights are."""
  total = jnp.sum(weight)
  return jnp.sum(x * weight) / jnp.where(total > 0, total, 1.0)
