"""Losses on arrays: next token, rankings by score, policy gradient, value.

Each is a float32 scalar. Batches where nothing is real give 0. Preference
losses on log-probabilities (DPO and its kin) are in preference.py, those of PPO
in clipping.py.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax.core import masking

NORMALIZERS = ('sequence_sum', 'token_mean', 'sequence_mean', 'constant')


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
  metrics = pair_metrics(scores_1, scores_2, p_first, weight)
  return weighted_mean(losses, weight), metrics


def margin_preference(
  scores_1: Float[Array, ' B'],
  scores_2: Float[Array, ' B'],
  p_first: Float[Array, ' B'],
  margin: Float[Array, ' B'] | float,
  weight: Float[Array, ' B'] | None = None,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """Cross-entropy that asks the better text to win by a margin.

  -log s(r_chosen - r_rejected - m) for a hard label (Llama 2, arXiv
  2307.09288, equation 2; m >= 0 grows with how clear the preference was). A
  soft label weighs both ways: -p log s(d - m) - (1 - p) log s(-d - m). With
  m = 0 it is `soft_preference`.

  Args:
    scores_1: score of the first text of each pair.
    scores_2: score of the second text.
    p_first: probability that the first is the better one, in [0, 1].
    margin: m of each pair, or of all.
    weight: as in `soft_preference`.

  Returns:
    The weighted mean loss, and the metrics of `soft_preference`.
  """
  scores_1, scores_2, p_first, margin = (
    jnp.asarray(x, jnp.float32) for x in (scores_1, scores_2, p_first, margin)
  )
  if weight is None:
    weight = jnp.ones_like(p_first)
  losses = two_sided(scores_1 - scores_2, p_first, margin)
  metrics = pair_metrics(scores_1, scores_2, p_first, weight)
  return weighted_mean(losses, weight), metrics


def ranking_preference(
  scores: Float[Array, 'B K'],
  ranks: Int[Array, 'B K'] | Float[Array, 'B K'],
  mask: Bool[Array, 'B K'],
  weight: Float[Array, ' B'] | None = None,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """-1/C(K,2) sum over pairs of log s(r_better - r_worse), a prompt's mean.

  InstructGPT (arXiv 2203.02155, equation 1): all pairs of one prompt's K
  responses are one element of the batch, as shuffled pairs overfit within an
  epoch. Tied pairs are left out of the sum and of the count.

  Args:
    scores: of the responses of each prompt.
    ranks: of the responses, the smaller the better; equal ones are a tie.
    mask: True where there is a response, so prompts may have fewer than K.
    weight: of each prompt in the mean; None weighs all alike. A prompt without
      a pair to learn from does not count.

  Returns:
    The weighted mean loss, and metrics as in `soft_preference`, each a
    weighted mean over prompts of the mean over their pairs.
  """
  scores = jnp.where(mask, scores, 0.0).astype(jnp.float32)
  if weight is None:
    weight = jnp.ones(scores.shape[:1], jnp.float32)
  # Entry [b, i, j] is the pair of better i and worse j.
  pairs = (ranks[:, :, None] < ranks[:, None, :]) & (
    mask[:, :, None] & mask[:, None, :]
  )
  better = jnp.broadcast_to(scores[:, :, None], pairs.shape)
  worse = jnp.broadcast_to(scores[:, None, :], pairs.shape)
  weight = weight * jnp.any(pairs, axis=(1, 2))

  def mean(x: Array) -> Float[Array, '']:
    return weighted_mean(masking.masked_mean(x, pairs, axis=(1, 2)), weight)

  metrics = {
    'rewards/accuracies': mean(better > worse),
    'rewards/margins': mean(better - worse),
    'rewards/chosen': mean(better),
    'rewards/rejected': mean(worse),
  }
  loss = mean(-jax.nn.log_sigmoid(better - worse))
  return loss, jax.lax.stop_gradient(metrics)


def two_sided(
  difference: Float[Array, ' B'],
  p_first: Float[Array, ' B'],
  margin: Float[Array, ' B'] | Float[Array, ''] | float = 0.0,
) -> Float[Array, ' B']:
  """-p log s(d - m) - (1 - p) log s(-d - m) of each pair."""
  first = jax.nn.log_sigmoid(difference - margin)
  second = jax.nn.log_sigmoid(-difference - margin)
  return -(p_first * first + (1.0 - p_first) * second)


def pair_metrics(
  rewards_1: Float[Array, ' B'],
  rewards_2: Float[Array, ' B'],
  p_first: Float[Array, ' B'],
  weight: Float[Array, ' B'],
) -> dict[str, Float[Array, '']]:
  """`rewards/*` over the pairs with a preferred side, without a gradient."""
  decided = weight * (p_first != 0.5)
  chosen, rejected = by_preference(rewards_1, rewards_2, p_first)
  metrics = {
    'rewards/accuracies': weighted_mean(chosen > rejected, decided),
    'rewards/margins': weighted_mean(chosen - rejected, decided),
    'rewards/chosen': weighted_mean(chosen, decided),
    'rewards/rejected': weighted_mean(rejected, decided),
  }
  return jax.lax.stop_gradient(metrics)


def by_preference(
  first: Float[Array, ' B'],
  second: Float[Array, ' B'],
  p_first: Float[Array, ' B'],
) -> tuple[Float[Array, ' B'], Float[Array, ' B']]:
  """(of the preferred text, of the other one); a tie prefers the second."""
  is_first = p_first > 0.5
  return (
    jnp.where(is_first, first, second),
    jnp.where(is_first, second, first),
  )


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
  # Padding is cleared first: a NaN there would have a NaN gradient.
  error = jnp.where(mask, jax.lax.stop_gradient(returns) - values, 0.0)
  return reduce_tokens(jnp.square(error), mask, normalize)


def reduce_tokens(
  x: Float[Array, 'B T'], mask: Bool[Array, 'B T'], normalize: str
) -> Float[Array, '']:
  """Per-token terms to one number.

  Args:
    x: per-token terms.
    mask: True where a term counts.
    normalize: 'sequence_sum', the mean over all B rows of the sum over a row's
      tokens (the paper's form; equal microbatches average to it exactly);
      'token_mean', the mean over all tokens of the batch (long responses
      count for more, and the scale does not grow with length; PPO, DAPO);
      'sequence_mean', the mean over all B rows of a row's mean (rows count
      alike, tokens of long ones for less; GRPO); or 'constant', the sum over
      B T, whatever is real (Dr. GRPO, arXiv 2503.20783).

  Raises:
    ValueError: on an unknown `normalize`.
  """
  if normalize == 'sequence_sum':
    return jnp.mean(masking.masked_sum(x, mask, axis=-1))
  if normalize == 'token_mean':
    return masking.masked_mean(x, mask)
  if normalize == 'sequence_mean':
    return jnp.mean(masking.masked_mean(x, mask, axis=-1))
  if normalize == 'constant':
    return masking.masked_sum(x, mask) / max(mask.size, 1)
  raise ValueError(
    f'Unknown normalize {normalize!r}; use one of {", ".join(NORMALIZERS)}.'
  )


def reduction_weight(
  mask: Bool[Array, 'B T'], normalize: str
) -> Float[Array, '']:
  """How much `reduce_tokens` took the mean over.

  Means of parts of a batch, averaged by it, are the mean of the whole: the
  `weight` of training/step.py's gradient accumulation.
  """
  if normalize == 'token_mean':
    return jnp.sum(mask, dtype=jnp.float32)
  return jnp.float32(mask.shape[0])


def weighted_mean(x: Array, weight: Float[Array, ' B']) -> Float[Array, '']:
  """Mean of `x` [B] under weights; 0 where all weights are."""
  total = jnp.sum(weight)
  return jnp.sum(x * weight) / jnp.where(total > 0, total, 1.0)
