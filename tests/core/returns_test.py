"""core/returns.py against loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import returns

_MASK = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)


def test_rewards_to_go_by_hand():
  rewards = jnp.array([[1.0, 2.0, 4.0, 99.0]])
  mask = jnp.array([[True, True, True, False]])
  got = returns.rewards_to_go(rewards, mask)
  np.testing.assert_allclose(got, [[7.0, 6.0, 4.0, 0.0]])


def test_rewards_to_go_equals_loops():
  rewards = np.random.default_rng(0).normal(size=_MASK.shape)
  rewards = np.where(_MASK, rewards, np.nan).astype(np.float32)
  expected = np.zeros_like(rewards)
  for row, last in enumerate(_MASK.sum(1)):
    for t in range(last):
      expected[row, t] = sum(rewards[row, s] for s in range(t, last))
  args = jnp.asarray(rewards), jnp.asarray(_MASK)
  np.testing.assert_allclose(returns.rewards_to_go(*args), expected, atol=1e-6)
  jitted = jax.jit(returns.rewards_to_go)(*args)
  np.testing.assert_allclose(jitted, expected, atol=1e-6)


def test_place_at_last():
  scores = jnp.array([1.0, 2.0, 3.0, 4.0])
  got = returns.place_at_last(scores, jnp.asarray(_MASK))
  expected = [[0, 0, 1, 0], [2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 4]]
  np.testing.assert_array_equal(got, expected)


# -- advantages ---------------------------------------------------------------


def _gae_twin(rewards, values, gamma, lam):
  """Sums over the definition, not the recursion."""
  out = np.zeros(rewards.shape)
  for row, last in enumerate(_MASK.sum(1)):
    v = [*values[row, :last], 0.0]
    d = [rewards[row, t] + gamma * v[t + 1] - v[t] for t in range(last)]
    for t in range(last):
      out[row, t] = sum((gamma * lam) ** (s - t) * d[s] for s in range(t, last))
  return out


@pytest.mark.parametrize(
  ('gamma', 'lam'), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.97, 0.0)]
)
def test_gae_equals_loops(gamma, lam):
  """What padding holds, NaN included, changes nothing."""
  rewards, values = np.random.default_rng(0).normal(size=(2, *_MASK.shape))
  expected = _gae_twin(rewards, values, gamma, lam)
  args = [
    jnp.asarray(np.where(_MASK, x, np.nan), jnp.float32)
    for x in (rewards, values)
  ]
  fn = functools.partial(returns.gae, gamma=gamma, lam=lam)
  for run in (fn, jax.jit(fn)):
    got = run(*args, jnp.asarray(_MASK))
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_gae_by_hand():
  """gamma = lam = 1/2, values 1: d = (1 + .5 - 1, 2 - 1), A = (.5 + .25, 1)."""
  mask = jnp.array([[True, True, False]])
  got = returns.gae(
    jnp.array([[1.0, 2.0, 9.0]]), jnp.ones((1, 3)), mask, gamma=0.5, lam=0.5
  )
  np.testing.assert_allclose(got, [[0.75, 1.0, 0.0]])


def test_gae_of_lambda_one_is_rewards_to_go_less_values():
  rewards, values = map(
    jnp.asarray, np.random.default_rng(1).normal(size=(2, *_MASK.shape))
  )
  mask = jnp.asarray(_MASK)
  expected = jnp.where(mask, returns.rewards_to_go(rewards, mask) - values, 0)
  got = returns.gae(rewards, values, mask, lam=1.0)
  np.testing.assert_allclose(got, expected, atol=1e-5)


_GROUPS = np.array([1.0, 2.0, 6.0, -3.0, -3.0, -3.0])


def test_leave_one_out():
  got = returns.leave_one_out(jnp.asarray(_GROUPS), 3)
  np.testing.assert_allclose(got, [-3.0, -1.5, 4.5, 0, 0, 0], atol=1e-6)
  jitted = jax.jit(returns.leave_one_out, static_argnums=1)(_GROUPS, 3)
  np.testing.assert_allclose(jitted, got, atol=1e-6)
  pairs = returns.leave_one_out(jnp.array([1.0, 3.0]), 2)
  np.testing.assert_allclose(pairs, [-2.0, 2.0])


def test_group_centre():
  """Deviation of (1, 2, 6): squares 4, 1, 9 over n - 1 = 2, so sqrt 7."""
  scores = jnp.asarray(_GROUPS)
  got = returns.group_centre(scores, 3)
  np.testing.assert_allclose(got, [-2.0, -1.0, 3.0, 0, 0, 0], atol=1e-6)
  scaled = returns.group_centre(scores, 3, scale=True)
  expected = np.array([-2.0, -1.0, 3.0, 0, 0, 0]) / (np.sqrt(7) + 1e-4)
  np.testing.assert_allclose(scaled, expected, rtol=1e-5)
  alone = returns.group_centre(scores, 1)
  np.testing.assert_array_equal(alone, 0.0)
  assert float(returns.all_equal_groups(scores, 3)) == 0.5


def test_identical_scores_give_zero_and_no_nan():
  """Also where their mean is not exact in float32."""
  scores = jnp.full(14, 0.1)
  for got in (
    returns.leave_one_out(scores, 7),
    returns.group_centre(scores, 7, scale=True),
  ):
    np.testing.assert_allclose(got, 0.0, atol=1e-3)
  assert float(returns.all_equal_groups(scores, 7)) == 1.0


def test_groups_that_cannot_be():
  scores = jnp.zeros(6)
  with pytest.raises(ValueError, match='6 rows .* groups of 4'):
    returns.leave_one_out(scores, 4)
  with pytest.raises(ValueError, match='group_size=1; .* at least 2'):
    returns.leave_one_out(scores, 1)
  with pytest.raises(ValueError, match='group_size=1; .* at least 2'):
    returns.group_centre(scores, 1, scale=True)
