"""Intervals, tests and fits against hand values, SciPy and planted truths."""

import math

import numpy as np
import pytest

from rlaif_jax.evaluators import statistics


def test_resamples_keep_clusters_whole():
  clusters = np.array(['b', 'a', 'b', 'c'])
  for drawn in statistics.resamples(4, clusters, 20, seed=0):
    counts = np.bincount(drawn, minlength=4)
    assert counts[0] == counts[2]  # both items of 'b', or neither
    assert counts[0] + counts[1] + counts[3] == 3  # as many clusters as before


def test_bootstrap_is_deterministic_and_holds_the_mean():
  values = np.random.default_rng(1).random(50)
  low, high = statistics.bootstrap_ci(values, seed=3)
  assert low < values.mean() < high
  assert (low, high) == statistics.bootstrap_ci(values, seed=3)
  assert (low, high) != statistics.bootstrap_ci(values, seed=4)


def test_bootstrap_matches_normal_theory():
  values = np.random.default_rng(2).normal(size=400)
  low, high = statistics.bootstrap_ci(values, num_samples=4000)
  half = 1.96 * values.std() / math.sqrt(400)
  np.testing.assert_allclose(
    [low, high], [values.mean() - half, values.mean() + half], atol=0.01
  )


def test_clustered_mean_equals_general_bootstrap():
  values = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
  clusters = [1, 1, 2, 2, 2, 3]
  fast = statistics.bootstrap_ci(values, clusters=clusters)
  slow = statistics.bootstrap_statistic(
    lambda i: values[i].mean(), 6, clusters=clusters
  )
  np.testing.assert_allclose(fast, slow)


def test_duplicated_items_do_not_narrow_a_clustered_interval():
  values = np.random.default_rng(3).integers(2, size=60).astype(float)
  once = statistics.bootstrap_ci(values)
  naive = statistics.bootstrap_ci(np.repeat(values, 4))
  clustered = statistics.bootstrap_ci(
    np.repeat(values, 4), clusters=np.repeat(np.arange(60), 4)
  )
  np.testing.assert_allclose(clustered, once)
  assert naive.high - naive.low < 0.6 * (once.high - once.low)


def _coverage(draw, truth, trials=300, level=0.95) -> float:
  """Share of intervals that hold the truth, over many drawn data sets."""
  rng = np.random.default_rng(0)
  hits = 0
  for seed in range(trials):
    values, clusters = draw(rng)
    low, high = statistics.bootstrap_ci(
      values, clusters=clusters, level=level, num_samples=200, seed=seed
    )
    hits += low <= truth <= high
  return hits / trials


def test_coverage_of_a_rate():
  share = _coverage(lambda rng: (rng.random(80) < 0.7, None), 0.7)
  assert 0.91 <= share <= 0.98
  share = _coverage(lambda rng: (rng.random(80) < 0.7, None), 0.7, level=0.8)
  assert 0.74 <= share <= 0.86


def test_coverage_needs_the_clusters():
  clusters = np.repeat(np.arange(40), 5)

  def draw(rng):
    # Five raters who share most of what they think of a prompt.
    mean = rng.normal(size=40)
    return np.repeat(mean, 5) + 0.3 * rng.normal(size=200)

  # A percentile interval from 40 clusters holds the truth with probability
  # P(|t_39| < 1.96 sqrt(39 / 40)) = 0.94, less about 0.01 for having 200
  # resamples only; three standard errors of 1000 trials are 0.024.
  assert (
    0.906
    <= _coverage(lambda rng: (draw(rng), clusters), 0.0, trials=1000)
    <= 0.964
  )
  assert _coverage(lambda rng: (draw(rng), None), 0.0) < 0.8


@pytest.mark.parametrize(
  ('successes', 'trials', 'p', 'expected'),
  [
    (0, 0, 0.5, 1.0),
    (5, 10, 0.5, 1.0),
    (9, 10, 0.5, 22 / 1024),  # 2 * (1 + 10) / 2^10
    (0, 5, 0.5, 2 / 32),
    (3, 3, 0.25, 1 / 64),  # no outcome below is as unlikely
  ],
)
def test_binomial_by_hand(successes, trials, p, expected):
  assert statistics.binomial_test(successes, trials, p) == pytest.approx(
    expected, rel=1e-9
  )


def test_binomial_equals_scipy():
  stats = pytest.importorskip('scipy.stats')
  for k, n, p in [(3, 17, 0.5), (40, 60, 0.5), (700, 1300, 0.5), (2, 9, 0.3)]:
    assert statistics.binomial_test(k, n, p) == pytest.approx(
      stats.binomtest(k, n, p).pvalue, rel=1e-6
    )


def test_binomial_refuses_the_impossible():
  with pytest.raises(ValueError, match='impossible'):
    statistics.binomial_test(4, 3)


def test_sign_test_drops_ties_and_counts_clusters_once():
  assert statistics.sign_test([1, 2, 0, 3, 0.5, -1]) == pytest.approx(
    statistics.binomial_test(4, 5)
  )
  repeated = statistics.sign_test([1, 1, 1, -1, -1], [0, 0, 0, 1, 1])
  assert repeated == statistics.binomial_test(1, 2) == 1.0


def test_permutation_test():
  # Of the 16 sign patterns of 1, 2, 3, 4 only two reach |sum| = 10.
  assert statistics.permutation_test([1, 2, 3, 4]) == pytest.approx(
    2 / 16, abs=0.02
  )
  assert statistics.permutation_test([1, -1, 2, -2], num_samples=200) == 1.0
  assert statistics.permutation_test(np.ones(30), num_samples=100) < 0.02


def test_agreement_counts_ties_half():
  np.testing.assert_array_equal(
    statistics.agreement([2, -1, 0, 3, 0], [1, 1, 1, 0, 0]),
    [1, 0, 0.5, 0.5, 0.5],
  )
  with pytest.raises(ValueError, match='2 margins but 1'):
    statistics.agreement([1, 2], [1])


def test_kappa_by_hand():
  # 20 both yes, 15 both no, 5 and 10 apart: po = 0.7, pe = 0.5, kappa = 0.4.
  a = [1] * 25 + [0] * 25
  b = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
  assert statistics.cohen_kappa(a, b) == pytest.approx(0.4)
  assert statistics.cohen_kappa([1, 1], [1, 1]) == 1.0
  assert statistics.cohen_kappa([1, 0], [0, 1]) == -1.0
  assert statistics.cohen_kappa([1, 1], [1, 0]) == 0.0


def test_calibration_error_by_hand():
  # Bin [0.7, 0.8): mean 0.75, outcome 0.5; bin of 1.0: outcome 1.
  error = statistics.calibration_error([0.72, 0.78, 1.0, 1.0], [1, 0, 1, 1])
  assert error == pytest.approx(0.5 * 0.25)


def test_logistic_regression_recovers_planted_coefficients():
  rng = np.random.default_rng(5)
  x = rng.normal(3.0, 2.0, size=(4000, 2))
  p = statistics.sigmoid(-1.0 + 0.8 * x[:, 0] - 0.5 * x[:, 1])
  w = statistics.logistic_regression(x, p)  # soft targets: no noise
  np.testing.assert_allclose(w, [-1.0, 0.8, -0.5], atol=1e-4)
  w = statistics.logistic_regression(x, rng.random(4000) < p)
  np.testing.assert_allclose(w, [-1.0, 0.8, -0.5], atol=0.2)


def test_logistic_regression_without_feature_effect_is_the_log_odds():
  x = np.array([[0.0], [1.0], [0.0], [1.0]])
  w = statistics.logistic_regression(x, [0.8, 0.8, 0.8, 0.8])
  np.testing.assert_allclose(w, [math.log(4), 0.0], atol=5e-3)


@pytest.mark.filterwarnings('error')
def test_logistic_regression_is_finite_on_degenerate_data():
  x = np.linspace(-1, 1, 20)[:, None]
  separable = statistics.logistic_regression(x, x[:, 0] > 0)
  assert np.isfinite(separable).all()
  assert separable[1] > 5
  all_won = statistics.logistic_regression(x, np.ones(20))
  assert np.isfinite(all_won).all()
  assert statistics.sigmoid(all_won[0]) > 0.99
  constant = statistics.logistic_regression(np.full((4, 1), 2.0), [1, 1, 1, 0])
  np.testing.assert_allclose(constant, [math.log(3), 0.0], atol=5e-3)
  far = statistics.logistic_regression(x * 1e6, x[:, 0] > 0)
  np.testing.assert_allclose(far[1] * 1e6, separable[1], rtol=1e-6)


def test_checks_name_the_row():
  with pytest.raises(ValueError, match='scores: row 1 is nan'):
    statistics.finite([0.0, math.nan], 'scores')
  with pytest.raises(ValueError, match='must be a list of numbers'):
    statistics.bootstrap_ci([])
  with pytest.raises(ValueError, match='clusters has shape'):
    statistics.bootstrap_ci([1.0, 2.0], clusters=[1])
  with pytest.raises(ValueError, match=r'in \[0, 1\]'):
    statistics.logistic_regression([[1.0]], [2.0])
