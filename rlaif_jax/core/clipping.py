"""PPO's losses: what bounds how far one batch of samples may move a model."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlaif_jax.core import losses, masking

RATIO_LEVELS = ('token', 'sequence_sum', 'sequence_mean')
# |log ratio| above this is cut: no sane update gets there, and exp would
# overflow to an infinity that 0 advantages turn into NaN.
_LARGEST_LOG_RATIO = 20.0


def clipped_policy_gradient(
  logprobs: Float[Array, 'B R'],
  old_logprobs: Float[Array, 'B R'],
  advantages: Float[Array, 'B R'],
  mask: Bool[Array, 'B R'],
  *,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  level: str = 'token',
  normalize: str = 'token_mean',
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """PPO's surrogate: max(-A r, -A clip(r, 1 - low, 1 + high)), reduced.

  Schulman et al. 2017 (arXiv 1707.06347, equation 7), with bounds of their
  own on each side (DAPO, arXiv 2503.14476, equation 10).

  Args:
    logprobs: of the tokens now.
    old_logprobs: of the tokens when they were sampled; detached.
    advantages: A; detached.
    mask: True at real tokens.
    clip_low: how far below 1 the ratio still gives a gradient.
    clip_high: how far above.
    level: what the ratio r is of. 'token'; 'sequence_sum', the whole response
      (RLOO); 'sequence_mean', the geometric mean of its tokens' ratios (GSPO,
      arXiv 2507.18071, equation 7). The last two are the same at every token,
      so with `normalize='sequence_mean'` a row counts once.
    normalize: see `losses.reduce_tokens`.

  Returns:
    The loss, and means over real tokens: `policy/approxkl_avg` (half the
    squared log-ratio), `policy/clipfrac_avg`, `val/ratio`.
  """
  advantages = jax.lax.stop_gradient(advantages)
  log_ratio = _log_ratio(logprobs, old_logprobs, mask, level)
  ratio = jnp.exp(log_ratio)
  clipped = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
  terms, bound = -advantages * ratio, -advantages * clipped
  metrics = {
    'policy/approxkl_avg': 0.5
    * masking.masked_mean(jnp.square(log_ratio), mask),
    'policy/clipfrac_avg': masking.masked_mean(bound > terms, mask),
    'val/ratio': masking.masked_mean(ratio, mask),
  }
  loss = losses.reduce_tokens(jnp.maximum(terms, bound), mask, normalize)
  return loss, jax.lax.stop_gradient(metrics)


def clipped_value_loss(
  values: Float[Array, 'B R'],
  old_values: Float[Array, 'B R'],
  returns: Float[Array, 'B R'],
  mask: Bool[Array, 'B R'],
  *,
  clip: float = 0.2,
  normalize: str = 'token_mean',
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """0.5 max((V - Z)^2, (clip(V, V_old +- clip) - Z)^2), reduced.

  As in lm-human-preferences. Where V has moved further than `clip` towards Z,
  the second term is the larger one and gives no gradient.

  Args:
    values: V now.
    old_values: V when the returns were made; detached.
    returns: Z; detached.
    mask: True at real tokens.
    clip: how far V may move before it stops to learn from these returns.
    normalize: see `losses.reduce_tokens`.

  Returns:
    The loss, and `val/clipfrac_avg`, the share of tokens where it is clipped.
  """
  # Padding is cleared first: a NaN there would have a NaN gradient.
  values, old_values, returns = (
    jnp.where(mask, x, 0.0) for x in (values, old_values, returns)
  )
  old_values, returns = jax.lax.stop_gradient((old_values, returns))
  near = jnp.clip(values, old_values - clip, old_values + clip)
  terms, bound = jnp.square(values - returns), jnp.square(near - returns)
  metrics = {'val/clipfrac_avg': masking.masked_mean(bound > terms, mask)}
  loss = 0.5 * losses.reduce_tokens(jnp.maximum(terms, bound), mask, normalize)
  return loss, jax.lax.stop_gradient(metrics)


def _log_ratio(
  logprobs: Array, old_logprobs: Array, mask: Array, level: str
) -> Float[Array, 'B R']:
  """log of the ratio that each token is weighed by, 0 at padding."""
  old_logprobs = jax.lax.stop_gradient(old_logprobs)
  # Padding is cleared first: what it holds could overflow to NaN gradients.
  log_ratio = jnp.where(mask, logprobs, 0.0) - jnp.where(
    mask, old_logprobs, 0.0
  )
  if level not in RATIO_LEVELS:
    raise ValueError(
      f'Unknown level {level!r}; use one of {", ".join(RATIO_LEVELS)}.'
    )
  if level != 'token':
    reduce = {
      'sequence_sum': masking.masked_sum,
      'sequence_mean': masking.masked_mean,
    }[level]
    log_ratio = jnp.where(mask, reduce(log_ratio, mask, -1)[:, None], 0.0)
  return jnp.clip(log_ratio, -_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO)
