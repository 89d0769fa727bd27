"""core/logprobs.py against a plain full log_softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import logprobs

_VOCAB = 11


def _inputs(length, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 3)
  hidden = jax.random.normal(keys[0], (2, length, 5), dtype)
  kernel = jax.random.normal(keys[1], (5, _VOCAB), dtype)
  targets = jax.random.randint(keys[2], (2, length), 0, _VOCAB)
  return hidden, kernel, targets


def _full(hidden, kernel, targets, temperature):
  """The twin that holds all logits."""
  log_p = jax.nn.log_softmax((hidden @ kernel) / temperature)
  chosen = jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0]
  return chosen, -jnp.sum(jnp.exp(log_p) * log_p, -1)


def _chunked(hidden, kernel, targets, temperature, chunk_size):
  stats = logprobs.token_stats(
    hidden,
    targets,
    lambda h: h @ kernel,
    temperature=temperature,
    chunk_size=chunk_size,
    entropy=True,
  )
  return stats.logprobs, stats.entropy


@pytest.mark.parametrize(
  'length, chunk_size', [(1, 1), (7, 1), (7, 3), (8, 4), (7, 7), (7, 128)]
)
@pytest.mark.parametrize('use_jit', [False, True])
def test_values_and_gradients_equal_a_full_log_softmax(
  length, chunk_size, use_jit
):
  hidden, kernel, targets = _inputs(length)

  def scalar(function):
    def total(hidden, kernel):
      chosen, entropy = function(hidden, kernel)
      return jnp.sum(jnp.sin(chosen)) + jnp.sum(jnp.cos(entropy))

    grad = jax.value_and_grad(total, argnums=(0, 1))
    return jax.jit(grad) if use_jit else grad

  value, grads = scalar(lambda h, k: _chunked(h, k, targets, 0.7, chunk_size))(
    hidden, kernel
  )
  expected, expected_grads = scalar(lambda h, k: _full(h, k, targets, 0.7))(
    hidden, kernel
  )
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  for got, want in zip(grads, expected_grads, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_no_array_as_large_as_all_logits_even_in_the_backward_pass():
  hidden, kernel, targets = _inputs(64)

  def total(kernel):
    return jnp.sum(_chunked(hidden, kernel, targets, 1.0, 4)[0])

  text = jax.jit(jax.grad(total)).lower(kernel).as_text()
  assert f'2x4x{_VOCAB}x' in text
  assert f'2x64x{_VOCAB}x' not in text
  assert f'16x2x4x{_VOCAB}x' not in text  # nor as saved residuals of the scan


def test_a_length_of_zero_gives_nothing():
  hidden, kernel, targets = _inputs(3)
  stats = logprobs.token_stats(
    hidden[:, :0], targets[:, :0], lambda h: h @ kernel
  )
  assert stats.logprobs.shape == (2, 0)
  assert stats.entropy is None


def test_bfloat16_hidden_gives_float32():
  hidden, kernel, targets = _inputs(5, jnp.bfloat16)
  chosen, entropy = _chunked(hidden, kernel, targets, 1.0, 2)
  assert chosen.dtype == entropy.dtype == jnp.float32
  logits = (hidden @ kernel).astype(jnp.float32)
  expected = jax.nn.log_softmax(logits)
  expected = jnp.take_along_axis(expected, targets[..., None], -1)[..., 0]
  np.testing.assert_allclose(chosen, expected, rtol=1e-3)


def test_a_banned_token_gives_no_nan():
  hidden, kernel, _ = _inputs(4)
  bias = jnp.zeros((1, 1, _VOCAB)).at[..., 3].set(-jnp.inf)

  def total(kernel):
    stats = logprobs.token_stats(
      hidden,
      jnp.zeros((2, 4), jnp.int32),
      lambda h: h @ kernel + bias,
      entropy=True,
    )
    return jnp.sum(stats.entropy) + jnp.sum(stats.logprobs)

  value, grad = jax.value_and_grad(total)(kernel)
  assert np.isfinite(value)
  assert np.isfinite(grad).all()


def test_uniform_logits_by_hand():
  stats = logprobs.token_stats(
    jnp.ones((1, 3, 2)),
    jnp.array([[0, 1, 3]]),
    lambda h: jnp.zeros((*h.shape[:-1], 4)),
    entropy=True,
  )
  np.testing.assert_allclose(stats.logprobs, np.full((1, 3), -np.log(4)), 1e-6)
  np.testing.assert_allclose(stats.entropy, np.full((1, 3), np.log(4)), 1e-6)


def test_next_token_stats_shifts_and_clears_padding():
  hidden, kernel, tokens = _inputs(5)
  mask = jnp.array([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
  stats = logprobs.next_token_stats(
    hidden, tokens, mask, lambda h: h @ kernel, chunk_size=2, entropy=True
  )
  chosen, entropy = _full(hidden[:, :-1], kernel, tokens[:, 1:], 1.0)
  real = np.array([[0, 0, 1, 1], [1, 1, 0, 0]], bool)
  expected = np.where(real, chosen, 0.0)
  np.testing.assert_allclose(stats.logprobs, expected, rtol=1e-4, atol=1e-6)
  expected = np.where(real, entropy, 0.0)
  np.testing.assert_allclose(stats.entropy, expected, rtol=1e-4, atol=1e-6)


def test_bad_options_say_what_to_do():
  hidden, kernel, targets = _inputs(2)
  with pytest.raises(ValueError, match='chunk_size must be at least 1'):
    _chunked(hidden, kernel, targets, 1.0, 0)
  with pytest.raises(ValueError, match='temperature must be above 0'):
    _chunked(hidden, kernel, targets, 0.0, 1)


def test_label_distribution_renormalises_over_the_labels():
  joint = jnp.log(jnp.array([[0.1, 0.3], [0.02, 0.02]]))
  got = logprobs.label_distribution(joint)
  np.testing.assert_allclose(got, [[0.25, 0.75], [0.5, 0.5]], rtol=1e-6)


@pytest.mark.parametrize('chunk_size', [3, 128])
def test_smoothing_by_hand(chunk_size):
  hidden, kernel, targets = _inputs(7)
  stats = logprobs.token_stats(
    hidden, targets, lambda h: h @ kernel, chunk_size=chunk_size, smoothing=0.2
  )
  log_p = jax.nn.log_softmax(hidden @ kernel)
  chosen, _ = _full(hidden, kernel, targets, 1.0)
  expected = 0.8 * chosen + 0.2 * log_p.mean(-1)
  np.testing.assert_allclose(stats.logprobs, expected, rtol=1e-5)
