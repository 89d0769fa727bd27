"""core/returns.py against loops."""

import jax
import jax.numpy as jnp
import numpy as np

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
