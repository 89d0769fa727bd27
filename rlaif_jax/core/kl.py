"""Estimators of KL(policy || reference) from the policy's own samples.

Schulman's k1, k2, k3 on the log-probabilities of sampled tokens, in nats per
token. With x = logp - ref_logp:

  k1 = x                   unbiased, may be negative, noisy
  k2 = x^2 / 2             biased, never negative, low variance
  k3 = exp(-x) - 1 + x     unbiased, never negative

As a number to report or to put (detached) in a reward, k1 is the unbiased
choice. As a loss to differentiate, what counts is the gradient's mean, and it
is another matter: k1 gives 0 (E grad log p = 0), k2 gives the gradient of
KL(policy || reference), k3 gives that of KL(reference || policy).
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlaif_jax.core import masking

ESTIMATORS = ('k1', 'k2', 'k3')


def k1(
  logprobs: Float[Array, '*shape'], ref_logprobs: Float[Array, '*shape']
) -> Float[Array, '*shape']:
  """log p - log q of each token."""
  return logprobs - ref_logprobs


def k2(
  logprobs: Float[Array, '*shape'], ref_logprobs: Float[Array, '*shape']
) -> Float[Array, '*shape']:
  """(log p - log q)^2 / 2 of each token."""
  return 0.5 * jnp.square(logprobs - ref_logprobs)


def k3(
  logprobs: Float[Array, '*shape'], ref_logprobs: Float[Array, '*shape']
) -> Float[Array, '*shape']:
  """q/p - 1 - log(q/p) of each token."""
  log_ratio = ref_logprobs - logprobs
  return jnp.expm1(log_ratio) - log_ratio


def token_kl(
  logprobs: Float[Array, 'B T'],
  ref_logprobs: Float[Array, 'B T'],
  mask: Bool[Array, 'B T'],
  estimator: str = 'k1',
) -> Float[Array, 'B T']:
  """The named estimate at each real token, 0 at padding.

  Raises:
    ValueError: on an unknown estimator.
  """
  if estimator not in ESTIMATORS:
    raise ValueError(
      f'Unknown KL estimator {estimator!r}; use one of {", ".join(ESTIMATORS)}.'
    )
  # Padding is cleared first: exp of what it holds could overflow, and an
  # overflow makes NaN gradients even where its value is masked later.
  logprobs = jnp.where(mask, logprobs, 0.0)
  ref_logprobs = jnp.where(mask, ref_logprobs, 0.0)
  function = {'k1': k1, 'k2': k2, 'k3': k3}[estimator]
  return function(logprobs, ref_logprobs)


def sequence_kl(
  logprobs: Float[Array, 'B T'],
  ref_logprobs: Float[Array, 'B T'],
  mask: Bool[Array, 'B T'],
  estimator: str = 'k1',
) -> Float[Array, ' B']:
  """The named estimate summed over the real tokens of each row, nats."""
  kl = token_kl(logprobs, ref_logprobs, mask, estimator)
  return masking.masked_sum(kl, mask, axis=-1)


def adapt_coefficient(
  coefficient: Float[Array, ''],
  kl: Float[Array, ''],
  episodes: int,
  *,
  target: float,
  horizon: float = 10_000,
) -> Float[Array, '']:
  """Moves a KL coefficient so that KL comes to its target.

  coefficient * (1 + clip(kl / target - 1, -0.2, 0.2) * episodes / horizon):
  Ziegler et al. 2019 (arXiv 1909.08593, section 2.2), as their code has it.

  Args:
    coefficient: weight of KL up to now.
    kl: of whole responses to the reference, nats, mean over `episodes`.
    episodes: responses since the last call.
    target: KL to come to, nats, above 0.
    horizon: episodes in which it may change by a fifth.
  """
  error = jnp.clip(kl / target - 1.0, -0.2, 0.2)
  return coefficient * (1.0 + error * episodes / horizon)
