"""What `--config.debug` checks of every batch of rollouts, on the device.

NaNs are looked for in every operation besides (`jax_debug_nans`), so a run in
debug mode is slow: it waits for the device at every step.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import checkify
from jaxtyping import Array, Float

from rlaif_jax.core.types import Rollout


def check_rollout(
  rollout: Rollout,
  scores: Float[Array, ' B'],
  *,
  vocab_size: int,
  eos_ids: tuple[int, ...],
) -> None:
  """Waits for a batch and checks what all later steps take for granted.

  Raises:
    jax.experimental.checkify.JaxRuntimeError: says what does not hold, with
      the number of rows.
  """
  error, _ = _checked(vocab_size, eos_ids)(rollout, scores)
  error.throw()


@functools.cache
def _checked(vocab_size: int, eos_ids: tuple[int, ...]):
  return jax.jit(
    checkify.checkify(functools.partial(_checks, vocab_size, eos_ids))
  )


def _checks(vocab_size, eos_ids, rollout: Rollout, scores) -> None:
  prompt, real = rollout.prompt_mask, rollout.response_mask
  tokens = jnp.concatenate([rollout.prompt_tokens, rollout.response_tokens], 1)
  is_end = jnp.isin(rollout.response_tokens, jnp.array(eos_ids, jnp.int32))
  for bad, what in (
    ((prompt[:, :-1] & ~prompt[:, 1:]).any(1), 'are not padded on the left'),
    (~prompt.any(1), 'have no token'),
    (((tokens < 0) | (tokens >= vocab_size)).any(1), 'leave the vocabulary'),
    ((~real[:, :-1] & real[:, 1:]).any(1), 'go on after padding'),
    ((is_end[:, :-1] & real[:, 1:]).any(1), 'go on after their end'),
    (~jnp.isfinite(rollout.logprobs).all(1), 'have log-probs not finite'),
    ((rollout.logprobs > 1e-4).any(1), 'have log-probs above 0'),
    (((rollout.logprobs != 0) & ~real).any(1), 'have log-probs of padding'),
    (~jnp.isfinite(scores), 'have scores not finite'),
  ):
    # A message is a format string of what is given with it.
    count = jnp.sum(bad)
    checkify.check(count == 0, '{count} rollouts ' + what, count=count)
