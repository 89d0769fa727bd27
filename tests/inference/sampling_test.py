"""Choosing tokens, against hand-computed distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.inference import sampling
from rlaif_jax.inference.sampling import SamplingConfig

LOGITS = jnp.log(jnp.array([[0.5, 0.25, 0.15, 0.1]]))
MANY = 4000


def draw(config, logits=LOGITS, count=MANY, seed=0):
  keys = jax.random.split(jax.random.key(seed), count)
  tokens, logprobs = sampling.sample(
    jnp.broadcast_to(logits, (count, logits.shape[1])), keys, config
  )
  return np.asarray(tokens), np.asarray(logprobs)


def frequencies(tokens):
  return np.bincount(tokens, minlength=4) / len(tokens)


@pytest.mark.parametrize(
  ('config', 'expected'),
  [
    (SamplingConfig(), [0.5, 0.25, 0.15, 0.1]),
    (
      SamplingConfig(temperature=0.5),
      np.square([0.5, 0.25, 0.15, 0.1]) / 0.345,
    ),
    (SamplingConfig(top_k=2), [2 / 3, 1 / 3, 0, 0]),
    (SamplingConfig(top_k=1), [1, 0, 0, 0]),
    (SamplingConfig(top_k=99), [0.5, 0.25, 0.15, 0.1]),
    # The fewest tokens whose probability reaches 0.6 are the first two.
    (SamplingConfig(top_p=0.6), [2 / 3, 1 / 3, 0, 0]),
    (SamplingConfig(top_p=0.5), [1, 0, 0, 0]),
    (SamplingConfig(top_p=1e-6), [1, 0, 0, 0]),
    # Of the best three, 5/9 + 2.5/9 is over 0.8 of what is left.
    (SamplingConfig(top_k=3, top_p=0.8), [2 / 3, 1 / 3, 0, 0]),
  ],
)
def test_distribution_and_logprobs(config, expected):
  tokens, logprobs = draw(config)
  np.testing.assert_allclose(frequencies(tokens), expected, atol=0.03)
  np.testing.assert_allclose(
    np.exp(logprobs), np.asarray(expected)[tokens], rtol=1e-5
  )


def test_greedy_takes_the_best_and_reports_plain_logprobs():
  tokens, logprobs = draw(SamplingConfig(greedy=True, temperature=0.0), count=3)
  np.testing.assert_array_equal(tokens, 0)
  np.testing.assert_allclose(np.exp(logprobs), 0.5, rtol=1e-6)


def test_distribution_over_blocks():
  """More words than are drawn from at once, some of them impossible."""
  logits = 2 * np.random.default_rng(0).normal(size=300)
  logits[[0, 127, 128, 200, 299]] = -np.inf
  probs = np.exp(logits) / np.exp(logits).sum()
  count = 60_000
  tokens, logprobs = draw(
    SamplingConfig(), jnp.asarray(logits[None], jnp.float32), count
  )
  np.testing.assert_allclose(np.exp(logprobs), probs[tokens], rtol=1e-5)
  likely = probs * count >= 5
  seen = np.bincount(tokens, minlength=300)[likely]
  expected = probs[likely] * count
  statistic = np.sum((seen - expected) ** 2 / expected)
  # Chi-squared: its mean is the number of words, its variance twice that.
  freedom = likely.sum()
  assert abs(statistic - freedom) < 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize(
  ('weights', 'share', 'expected'),
  [
    ([0, 1, 0, 1, 0], 0.0, 1),
    ([0, 1, 0, 1, 0], 0.4999, 1),
    ([0, 1, 0, 1, 0], 0.5, 3),
    ([0, 1, 0, 1, 0], 1 - 2**-24, 3),
    # 0.1 + 0.2 + 0.7 is not 1 in floating point.
    ([0.1, 0.2, 0.7, 0.0], 1.0, 2),
    ([1e-30, 0, 3e-30], 0.3, 2),
  ],
)
def test_where_a_share_is_reached(weights, share, expected):
  found = sampling._reached(
    jnp.array([weights], jnp.float32), jnp.array([share], jnp.float32)
  )
  np.testing.assert_array_equal(found, [expected])


def test_ties_at_the_border_are_kept():
  kept = sampling.keep_likeliest(jnp.array([[1.0, 1.0, 0.0]]), top_k=1)
  np.testing.assert_array_equal(np.isfinite(kept[0]), [True, True, False])


def test_a_row_depends_on_its_own_key_only():
  keys = jax.random.split(jax.random.key(3), 4)
  logits = jnp.tile(LOGITS, (4, 1))
  tokens, _ = sampling.sample(logits, keys, SamplingConfig())
  back, _ = sampling.sample(logits[::-1], keys[::-1], SamplingConfig())
  np.testing.assert_array_equal(tokens, back[::-1])


def test_jit_changes_nothing():
  config = SamplingConfig(top_k=3, top_p=0.9)
  keys = jax.random.split(jax.random.key(0), 8)
  logits = jax.random.normal(jax.random.key(1), (8, 50))
  plain = sampling.sample(logits, keys, config)
  jitted = jax.jit(sampling.sample, static_argnums=2)(logits, keys, config)
  np.testing.assert_array_equal(plain[0], jitted[0])
  np.testing.assert_allclose(plain[1], jitted[1], atol=1e-6)


def test_bfloat16_logits_are_normalised_in_float32():
  _, logprobs = draw(SamplingConfig(), LOGITS.astype(jnp.bfloat16), count=8)
  assert logprobs.dtype == np.float32


@pytest.mark.parametrize(
  'wrong', [{'temperature': 0.0}, {'top_k': -1}, {'top_p': 0.0}, {'top_p': 2}]
)
def test_values_out_of_range(wrong):
  with pytest.raises(ValueError, match='sampling'):
    SamplingConfig(**wrong)
