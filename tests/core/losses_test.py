"""core/losses.py: values by hand, gradients by their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import losses

_MASK = jnp.array([[1, 1, 0], [1, 0, 0]], bool)
_EMPTY = jnp.zeros((2, 3), bool)


def test_cross_entropy():
  logprobs = jnp.array([[-1.0, -2.0, -9.0], [-3.0, -9.0, -jnp.inf]])
  assert float(losses.cross_entropy(logprobs, _MASK)) == pytest.approx(2.0)
  assert float(losses.cross_entropy(logprobs, _EMPTY)) == 0.0


def test_soft_preference_by_hand():
  scores_1, scores_2 = jnp.array([2.0, 0.0, 1.0]), jnp.array([0.0, 1.0, 3.0])
  p_first = jnp.array([0.8, 0.0, 0.5])
  d = np.array([2.0, -1.0, -2.0])
  rows = np.array(p_first) * np.log1p(np.exp(-d))
  rows += (1 - np.array(p_first)) * np.log1p(np.exp(d))
  loss, metrics = losses.soft_preference(scores_1, scores_2, p_first)
  np.testing.assert_allclose(loss, rows.mean(), rtol=1e-6)
  # The third pair has no preferred side.
  assert float(metrics['rewards/accuracies']) == 1.0
  assert float(metrics['rewards/margins']) == pytest.approx(1.5)
  assert float(metrics['rewards/chosen']) == pytest.approx(1.5)
  assert float(metrics['rewards/rejected']) == pytest.approx(0.0)
  weighted, _ = losses.soft_preference(
    scores_1, scores_2, p_first, jnp.array([1.0, 0.0, 3.0])
  )
  np.testing.assert_allclose(weighted, (rows[0] + 3 * rows[2]) / 4, rtol=1e-6)


def test_an_equal_score_is_not_accurate():
  zeros = jnp.zeros(2)
  _, metrics = losses.soft_preference(zeros, zeros, jnp.array([0.9, 0.1]))
  assert float(metrics['rewards/accuracies']) == 0.0


def test_soft_preference_of_nothing_is_zero():
  zeros = jnp.zeros(2)
  args = jnp.ones(2), zeros, jnp.array([0.9, 0.1]), zeros
  loss, metrics = losses.soft_preference(*args)
  assert float(loss) == 0.0
  assert all(float(value) == 0.0 for value in metrics.values())
  grad = jax.grad(lambda s: losses.soft_preference(s, *args[1:])[0])(args[0])
  np.testing.assert_array_equal(grad, 0.0)


def test_swapping_the_pair_mirrors_soft_preference():
  rng = np.random.default_rng(0)
  scores_1, scores_2 = jnp.asarray(rng.normal(size=(2, 6)), jnp.float32)
  p_first = jnp.array([0.1, 0.5, 0.9, 0.0, 1.0, 0.7])
  weight = jnp.array([1.0, 1.0, 2.0, 1.0, 0.0, 1.0])
  one = losses.soft_preference(scores_1, scores_2, p_first, weight)
  two = losses.soft_preference(scores_2, scores_1, 1 - p_first, weight)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, two
  )


@pytest.mark.parametrize('d', [-30.0, -1.0, 0.0, 2.0, 30.0])
@pytest.mark.parametrize('p', [0.0, 0.3, 1.0])
def test_gradient_of_soft_preference_is_sigmoid_minus_p(d, p):
  def loss(score):
    return losses.soft_preference(score, jnp.zeros(1), jnp.array([p]))[0]

  grad = jax.grad(loss)(jnp.array([d]))
  np.testing.assert_allclose(grad, [1 / (1 + np.exp(-d)) - p], atol=1e-6)


def test_soft_preference_is_float32_and_finite_for_large_bfloat16_scores():
  loss, _ = losses.soft_preference(
    jnp.full(1, 1e4, jnp.bfloat16), jnp.zeros(1, jnp.bfloat16), jnp.zeros(1)
  )
  assert loss.dtype == jnp.float32
  np.testing.assert_allclose(loss, 1e4, rtol=1e-2)


@pytest.mark.parametrize(
  'normalize, expected', [('sequence_sum', 2.5), ('token_mean', 5 / 3)]
)
def test_policy_gradient_by_hand(normalize, expected):
  logprobs = jnp.array([[-1.0, -2.0, -9.0], [-3.0, -9.0, -9.0]])
  advantages = jnp.array([[1.0, 2.0, 7.0], [0.0, 7.0, 7.0]])
  loss = losses.policy_gradient(logprobs, advantages, _MASK, normalize)
  assert float(loss) == pytest.approx(expected)
  grads = jax.grad(losses.policy_gradient, argnums=(0, 1))(
    logprobs, advantages, _MASK, normalize
  )
  rows = 2 if normalize == 'sequence_sum' else 3
  want = np.where(_MASK, -np.array(advantages) / rows, 0.0)
  np.testing.assert_allclose(grads[0], want, rtol=1e-6)
  np.testing.assert_array_equal(grads[1], 0.0)


@pytest.mark.parametrize(
  'normalize, expected', [('sequence_sum', 7.0), ('token_mean', 14 / 3)]
)
def test_value_loss_by_hand(normalize, expected):
  values = jnp.array([[0.0, 1.0, 5.0], [4.0, 5.0, 5.0]])
  returns = jnp.array([[1.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
  loss = losses.value_loss(values, returns, _MASK, normalize)
  assert float(loss) == pytest.approx(expected)
  grads = jax.grad(losses.value_loss, argnums=(0, 1))(
    values, returns, _MASK, normalize
  )
  rows = 2 if normalize == 'sequence_sum' else 3
  want = np.where(_MASK, 2 * np.array(values - returns) / rows, 0.0)
  np.testing.assert_allclose(grads[0], want, rtol=1e-6)
  np.testing.assert_array_equal(grads[1], 0.0)


@pytest.mark.parametrize('normalize', losses.NORMALIZERS)
def test_an_empty_batch_gives_zero(normalize):
  ones = jnp.ones((2, 3))
  assert float(losses.policy_gradient(ones, ones, _EMPTY, normalize)) == 0.0
  assert float(losses.value_loss(ones, 2 * ones, _EMPTY, normalize)) == 0.0


def test_unknown_normalize_lists_the_choices():
  ones = jnp.ones((2, 3))
  with pytest.raises(ValueError, match='one of sequence_sum, token_mean'):
    losses.policy_gradient(ones, ones, _MASK, 'tokens')
