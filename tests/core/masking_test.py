"""core/masking.py: reductions, positions and attention masks by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import masking

_X = jnp.array([[1.0, 2.0, 4.0], [jnp.nan, 8.0, jnp.inf]])
_MASK = jnp.array([[True, True, False], [False, True, False]])
_EMPTY = jnp.zeros((2, 3), bool)


def test_sum_and_mean():
  np.testing.assert_allclose(masking.masked_sum(_X, _MASK), 11.0)
  np.testing.assert_allclose(masking.masked_sum(_X, _MASK, axis=1), [3, 8])
  np.testing.assert_allclose(masking.masked_mean(_X, _MASK), 11 / 3)
  np.testing.assert_allclose(masking.masked_mean(_X, _MASK, axis=1), [1.5, 8])
  np.testing.assert_allclose(masking.masked_mean(_X, _MASK, axis=0), [1, 5, 0])


def test_var_and_whiten():
  real = np.array([1.0, 2.0, 8.0])
  np.testing.assert_allclose(masking.masked_var(_X, _MASK), real.var(), 1e-6)
  white = masking.masked_whiten(_X, _MASK)
  expected = (real - real.mean()) / real.std()
  np.testing.assert_allclose(white[_MASK], expected, rtol=1e-5)
  np.testing.assert_array_equal(white[~_MASK], 0.0)
  scaled = masking.masked_whiten(_X, _MASK, shift_mean=False)
  np.testing.assert_allclose(scaled[_MASK], real / real.std(), rtol=1e-5)


@pytest.mark.parametrize(
  'function',
  [
    masking.masked_sum,
    masking.masked_mean,
    masking.masked_var,
    masking.masked_whiten,
  ],
)
def test_empty_mask_gives_zero_and_no_nan_gradient(function):
  np.testing.assert_array_equal(function(_X, _EMPTY), 0.0)
  grad = jax.grad(lambda x: jnp.sum(function(x, _EMPTY)))(_X)
  np.testing.assert_array_equal(grad, 0.0)


def test_bfloat16_is_summed_in_float32():
  x = jnp.ones((1, 1000), jnp.bfloat16)
  total = masking.masked_sum(x, jnp.ones_like(x, bool))
  assert total.dtype == jnp.float32
  assert float(total) == 1000.0


def test_positions():
  mask = jnp.array([[0, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]], bool)
  expected = [[0, 0, 0, 1], [0, 1, 2, 2], [0, 0, 0, 0]]
  np.testing.assert_array_equal(masking.positions(mask), expected)


def test_last_real():
  mask = jnp.array([[0, 0, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
  np.testing.assert_array_equal(masking.last_real(mask), [2, 1, 0, 0])


def test_response_mask_ends_with_the_first_of_any_eos():
  tokens = jnp.array([[5, 9, 5, 9], [5, 8, 9, 5], [5, 5, 5, 5], [9, 5, 5, 5]])
  mask = masking.response_mask(tokens, (9, 8))
  expected = [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
  np.testing.assert_array_equal(mask, np.array(expected, bool))
  assert bool(jnp.all(masking.response_mask(tokens, ())))


def _attention_twin(query, key, valid, window):
  """Loops; `query` is [B, T]."""
  out = np.zeros((valid.shape[0], query.shape[1], len(key)), bool)
  for b, t, s in np.ndindex(out.shape):
    seen = key[s] <= query[b, t] and valid[b, s]
    near = not window or query[b, t] - key[s] < window
    out[b, t, s] = seen and near
  return out


@pytest.mark.parametrize('window', [None, 0, 1, 2, 9])
def test_attention_mask_of_a_full_forward_pass(window):
  valid = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]], bool)
  index = np.arange(5)
  expected = _attention_twin(np.stack([index] * 2), index, valid, window)
  args = jnp.asarray(index), jnp.asarray(index), jnp.asarray(valid), window
  np.testing.assert_array_equal(masking.attention_mask(*args), expected)
  if window is not None:
    jitted = jax.jit(masking.attention_mask)
    np.testing.assert_array_equal(jitted(*args), expected)


@pytest.mark.parametrize('window', [0, 3])
def test_attention_mask_of_cached_decode(window):
  valid = np.array([[0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]], bool)
  query = np.array([[3], [4]])
  expected = _attention_twin(query, np.arange(6), valid, window)
  got = masking.attention_mask(
    jnp.asarray(query), jnp.arange(6), jnp.asarray(valid), window
  )
  assert got.shape == (2, 1, 6)
  np.testing.assert_array_equal(got, expected)


def test_decode_mask_is_the_row_of_the_full_mask():
  valid = jnp.array([[False, True, True, True]])
  index = jnp.arange(4)
  full = masking.attention_mask(index, index, valid, 2)
  one = masking.attention_mask(jnp.array([2]), index, valid, 2)
  np.testing.assert_array_equal(one[:, 0], full[:, 2])


def test_has_end():
  tokens = jnp.array([[5, 2, 0], [5, 6, 7], [3, 0, 0], [5, 2, 2], [0, 0, 0]])
  mask = jnp.array(
    [[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 0, 0], [0, 0, 0]], bool
  )
  got = masking.has_end(tokens, mask, (2, 3))
  np.testing.assert_array_equal(got, [True, False, True, False, False])
  assert not masking.has_end(tokens, mask, ()).any()
