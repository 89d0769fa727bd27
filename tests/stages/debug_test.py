"""Every check of debug mode fails on what it is about, and on nothing else."""

import dataclasses

import jax.numpy as jnp
import pytest
from jax.experimental import checkify

from rlaif_jax.core.types import Rollout
from rlaif_jax.stages import _debug

EOS = 2


def good():
  return Rollout(
    prompt_tokens=jnp.array([[0, 5, 6], [7, 8, 9]]),
    prompt_mask=jnp.array([[False, True, True], [True, True, True]]),
    response_tokens=jnp.array([[4, EOS, 0], [4, 5, 6]]),
    response_mask=jnp.array([[True, True, False], [True, True, True]]),
    logprobs=jnp.array([[-1.0, -0.5, 0.0], [-2.0, -1.0, -0.1]]),
  )


def check(rollout, scores=(0.5, -1.0)):
  _debug.check_rollout(
    rollout, jnp.array(scores), vocab_size=10, eos_ids=(EOS,)
  )


def test_a_good_batch_passes():
  check(good())


@pytest.mark.parametrize(
  'field, place, value, says',
  [
    ('prompt_mask', (1, 2), False, '1 rollouts are not padded on the left'),
    ('prompt_mask', (0, slice(None)), False, '1 rollouts have no token'),
    ('prompt_tokens', (0, 1), 10, '1 rollouts leave the vocabulary'),
    ('response_tokens', (slice(None), 0), -1, '2 rollouts leave the vocab'),
    ('response_mask', (1, 0), False, '1 rollouts go on after padding'),
    ('response_tokens', (1, 1), EOS, '1 rollouts go on after their end'),
    ('logprobs', (0, 1), jnp.nan, '1 rollouts have log-probs not finite'),
    ('logprobs', (0, 1), 0.1, '1 rollouts have log-probs above 0'),
    ('logprobs', (0, 2), -0.1, '1 rollouts have log-probs of padding'),
  ],
)
def test_what_is_wrong_is_said(field, place, value, says):
  rollout = good()
  broken = getattr(rollout, field).at[place].set(value)
  with pytest.raises(checkify.JaxRuntimeError, match=says):
    check(dataclasses.replace(rollout, **{field: broken}))


def test_scores():
  with pytest.raises(checkify.JaxRuntimeError, match='scores not finite'):
    check(good(), scores=(jnp.inf, 0.0))
