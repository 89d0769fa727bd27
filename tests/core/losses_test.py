"""core/losses.py: values by hand, gradients by their formulas."""

import functools

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


@pytest.mark.parametrize(
  ('normalize', 'expected', 'weight'),
  [
    # Terms 1, 2 and 3 in rows of three places.
    ('sequence_sum', 6 / 2, 2),
    ('token_mean', 6 / 3, 3),
    ('sequence_mean', (1.5 + 3) / 2, 2),
    ('constant', 6 / 6, 2),
  ],
)
def test_reduce_tokens_by_hand(normalize, expected, weight):
  x = jnp.array([[1.0, 2.0, jnp.nan], [3.0, 9.0, 9.0]])
  assert float(losses.reduce_tokens(x, _MASK, normalize)) == pytest.approx(
    expected
  )
  assert float(losses.reduction_weight(_MASK, normalize)) == weight
  empty = losses.reduce_tokens(x, _EMPTY, normalize)
  assert float(empty) == 0.0


@pytest.mark.parametrize('normalize', losses.NORMALIZERS)
def test_parts_averaged_by_their_weight_are_the_whole(normalize):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
  mask = jnp.asarray(np.arange(4)[None] < rng.integers(0, 5, (6, 1)))
  parts = [
    (
      losses.reduce_tokens(x[i::3], mask[i::3], normalize),
      losses.reduction_weight(mask[i::3], normalize),
    )
    for i in range(3)
  ]
  mean = sum(v * w for v, w in parts) / sum(w for _, w in parts)
  whole = losses.reduce_tokens(x, mask, normalize)
  np.testing.assert_allclose(mean, whole, rtol=1e-5)


# -- rewards by pairs with a margin, and by rankings --------------------------


def _nll(x):
  return np.log1p(np.exp(-x))


def test_margin_by_hand(slope):
  """Llama 2's -log s(d - m), for either side; soft labels weigh both."""
  first, second = np.array([2.0, 0.0, 1.0, 0.3]), np.array([0.0, 1.0, 3.0, 0.3])
  p = np.array([1.0, 0.0, 0.8, 0.5])
  margin = np.array([3.0, 2 / 3, 1 / 3, 0.0])
  weight = np.array([1.0, 1.0, 2.0, 1.0])

  def twin(scores):
    rows = [
      p[i] * _nll(scores[i] - second[i] - margin[i])
      + (1 - p[i]) * _nll(second[i] - scores[i] - margin[i])
      for i in range(4)
    ]
    return np.dot(weight, rows) / weight.sum()

  def loss(scores):
    return losses.margin_preference(
      scores, *map(jnp.asarray, (second, p, margin, weight))
    )

  (value, metrics), grad = jax.value_and_grad(loss, has_aux=True)(
    jnp.asarray(first)
  )
  np.testing.assert_allclose(value, twin(first), rtol=1e-5)
  np.testing.assert_allclose(grad, slope(twin, first), atol=1e-5)
  np.testing.assert_allclose(jax.jit(loss)(first)[0], value, rtol=1e-6)
  # Rows one and two are right; row three, of weight 2, is not.
  assert float(metrics['rewards/accuracies']) == pytest.approx(0.5)
  assert float(metrics['rewards/margins']) == pytest.approx((2 + 1 - 4) / 4)
  # Significantly better, d = 2: -log s(2 - 3).
  one, _ = losses.margin_preference(
    jnp.array([2.0]), jnp.zeros(1), jnp.ones(1), 3.0
  )
  np.testing.assert_allclose(one, np.log(1 + np.e), rtol=1e-6)


def test_no_margin_is_soft_preference():
  rng = np.random.default_rng(1)
  first, second = jnp.asarray(rng.normal(size=(2, 6)), jnp.float32)
  p = jnp.array([0.1, 0.5, 0.9, 0.0, 1.0, 0.7])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
    losses.margin_preference(first, second, p, 0.0),
    losses.soft_preference(first, second, p),
  )


_SCORES = np.array([[1.0, -0.5, 2.0, 0.3], [0.2, 0.1, 9, 9], [5.0, 9, 9, 9]])
_RANKS = np.array([[2, 3, 1, 2], [1, 0, 0, 0], [0, 0, 0, 0]])
_THERE = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], bool)


def _ranking_twin(scores, weight):
  total, count = 0.0, 0.0
  for b in range(len(scores)):
    pairs = [
      _nll(scores[b, i] - scores[b, j])
      for i in range(4)
      for j in range(4)
      if _THERE[b, i] and _THERE[b, j] and _RANKS[b, i] < _RANKS[b, j]
    ]
    if pairs:
      total += weight[b] * sum(pairs) / len(pairs)
      count += weight[b]
  return total / count


@pytest.mark.parametrize('weight', [None, [1.0, 3.0, 5.0]])
def test_ranking_equals_loops(weight, slope):
  args = jnp.asarray(_RANKS), jnp.asarray(_THERE)
  if weight is not None:
    args = *args, jnp.asarray(weight)

  def loss(scores):
    return losses.ranking_preference(scores, *args)

  (value, metrics), grad = jax.value_and_grad(loss, has_aux=True)(
    jnp.asarray(_SCORES)
  )
  twin = functools.partial(_ranking_twin, weight=weight or [1.0, 1.0, 1.0])
  np.testing.assert_allclose(value, twin(_SCORES), rtol=1e-5)
  np.testing.assert_allclose(grad, slope(twin, _SCORES), atol=1e-5)
  np.testing.assert_array_equal(grad[~_THERE], 0.0)
  np.testing.assert_allclose(jax.jit(loss)(_SCORES)[0], value, rtol=1e-6)
  # Row one has five pairs, all right; row two one, wrong; row three none.
  w = weight or [1.0, 1.0]
  expected = w[0] / (w[0] + w[1])
  assert float(metrics['rewards/accuracies']) == pytest.approx(expected)


def test_ranking_by_hand():
  """K = 3 in one element: the mean of C(3,2) = 3 comparisons."""
  scores = jnp.array([[0.0, 2.0, 1.0]])
  ranks, there = jnp.array([[3, 1, 2]]), jnp.ones((1, 3), bool)
  loss, metrics = losses.ranking_preference(scores, ranks, there)
  np.testing.assert_allclose(loss, (2 * _nll(1) + _nll(2)) / 3, rtol=1e-6)
  assert float(metrics['rewards/margins']) == pytest.approx(4 / 3)
  # Of two responses it is the loss of one pair.
  two, _ = losses.ranking_preference(scores[:, :2], ranks[:, :2], there[:, :2])
  np.testing.assert_allclose(two, _nll(2), rtol=1e-6)


def test_ranking_of_ties_only_is_zero():
  zeros = jnp.zeros((2, 3))
  args = zeros, jnp.ones((2, 3), bool)
  loss, metrics = losses.ranking_preference(zeros, *args)
  assert float(loss) == 0.0
  assert all(float(value) == 0.0 for value in metrics.values())
  grad = jax.grad(lambda s: losses.ranking_preference(s, *args)[0])(zeros)
  np.testing.assert_array_equal(grad, 0.0)
