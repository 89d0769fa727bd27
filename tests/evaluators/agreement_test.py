"""Agreement between raters against textbooks, loops and SciPy."""

import itertools

import numpy as np
import pytest
import scipy.stats

from rlaif_jax.evaluators import _agreement, statistics

# Fleiss' example as all textbooks have it: 10 things, 14 raters, 5 categories.
FLEISS = [
  [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0],
  [2, 2, 8, 1, 1], [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2],
  [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip


# -- Kendall's W --------------------------------------------------------------


def _w_by_loops(ranks):
  """The formula as books print it, one rater and tie group after the other."""
  m, k = len(ranks), len(ranks[0])
  sums, ties = [0.0] * k, 0
  for row in ranks:
    ordered = sorted(row)
    for i, value in enumerate(row):
      places = [p + 1 for p, x in enumerate(ordered) if x == value]
      sums[i] += sum(places) / len(places)
    for value in set(row):
      t = row.count(value)
      ties += t**3 - t
  mean = m * (k + 1) / 2
  s = sum((x - mean) ** 2 for x in sums)
  return 12 * s / (m**2 * (k**3 - k) - m * ties)


def test_w_of_a_textbook():
  # Three judges, six things.
  ranks = [[1, 6, 3, 2, 5, 4], [1, 5, 6, 4, 2, 3], [6, 3, 2, 5, 4, 1]]
  # Sums 8 14 11 11 11 8, mean 10.5, S = 25.5.
  assert _agreement.kendall_w(ranks) == pytest.approx(
    12 * 25.5 / (9 * (216 - 6))
  )


def test_w_at_its_ends():
  assert _agreement.kendall_w([[1, 2, 3]] * 4) == pytest.approx(1)
  assert _agreement.kendall_w([[1, 2, 3], [3, 2, 1]]) == pytest.approx(0)
  # Raters who tie the same things agree fully too.
  assert _agreement.kendall_w([[1, 1, 2]] * 3) == pytest.approx(1)
  assert np.isnan(_agreement.kendall_w([[1, 1, 1], [2, 2, 2]]))


@pytest.mark.parametrize('seed', range(5))
def test_w_with_ties(seed):
  rng = np.random.default_rng(seed)
  ranks = rng.integers(1, 4, size=(4, 6)).astype(float)
  found = _agreement.kendall_w(ranks)
  assert found == pytest.approx(_w_by_loops(ranks.tolist()))
  # Friedman's statistic, corrected for ties, is m (k - 1) W.
  chi2 = scipy.stats.friedmanchisquare(*ranks.T).statistic
  assert found == pytest.approx(chi2 / (4 * 5))
  # Any numbers of the same order will do.
  assert found == pytest.approx(_agreement.kendall_w(10 * ranks**3 - 7))


def test_w_of_two_raters_is_spearmans_rho():
  rng = np.random.default_rng(9)
  a, b = rng.permutation(7), rng.permutation(7)
  rho = scipy.stats.spearmanr(a, b).statistic
  assert _agreement.kendall_w([a, b]) == pytest.approx((1 + rho) / 2)


def test_w_by_chance_is_one_over_the_raters():
  rng = np.random.default_rng(0)
  found = [
    _agreement.kendall_w([rng.permutation(4) for _ in range(3)])
    for _ in range(1500)
  ]
  assert np.mean(found) == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize(
  'ranks', [[[1, 2]], [[1], [2]], [1, 2], [[1, np.nan], [1, 2]], []]
)
def test_w_errors(ranks):
  with pytest.raises(ValueError, match='two raters or more'):
    _agreement.kendall_w(ranks)


# -- Fleiss' kappa ------------------------------------------------------------


def test_fleiss_textbook():
  assert _agreement.fleiss_kappa(FLEISS) == pytest.approx(0.210, abs=5e-4)
  observed = _agreement.observed_agreement(FLEISS)
  np.testing.assert_allclose(
    observed,
    [1, 0.253, 0.308, 0.440, 0.330, 0.462, 0.242, 0.176, 0.286, 0.286],
    atol=5e-4,
  )
  assert observed.mean() == pytest.approx(0.378, abs=5e-4)


def test_observed_agreement_counts_pairs():
  ratings = [[0, 0, 1], [1, 1, 1], [0, 1, 2]]
  counts = _agreement.category_counts(ratings, [0, 1, 2])
  np.testing.assert_array_equal(counts, [[2, 1, 0], [0, 3, 0], [1, 1, 1]])
  by_pairs = [
    np.mean([a == b for a, b in itertools.combinations(row, 2)])
    for row in ratings
  ]
  np.testing.assert_allclose(_agreement.observed_agreement(counts), by_pairs)


def test_kappa_at_its_ends():
  assert _agreement.fleiss_kappa([[3, 0], [0, 3]]) == pytest.approx(1)
  assert _agreement.fleiss_kappa([[1, 1], [1, 1]]) == pytest.approx(-1)
  assert _agreement.fleiss_kappa([[2, 0], [2, 0]]) == 1  # one category only
  rng = np.random.default_rng(0)
  chance = rng.multinomial(4, [0.7, 0.3], size=5000)
  assert _agreement.fleiss_kappa(chance) == pytest.approx(0, abs=0.02)


def test_kappa_of_two_raters_who_use_categories_alike_is_cohens():
  a, b = [0, 0, 1, 1, 0, 1], [0, 1, 1, 0, 0, 1]
  counts = _agreement.category_counts(np.transpose([a, b]), [0, 1])
  assert _agreement.fleiss_kappa(counts) == pytest.approx(
    statistics.cohen_kappa(a, b)
  )


def test_kappa_of_items_with_several_numbers_of_raters():
  # P = (1 + 1/3) / 2, shares 4/5 and 1/5: Pe = 17/25.
  assert _agreement.fleiss_kappa([[2, 0], [2, 1]]) == pytest.approx(
    (2 / 3 - 17 / 25) / (8 / 25)
  )
  counts = _agreement.category_counts([[0, 0, np.nan], [0, 0, 1]], [0, 1])
  np.testing.assert_array_equal(counts, [[2, 0], [2, 1]])


@pytest.mark.parametrize(
  ('counts', 'message'),
  [
    ([], 'must be finite'),
    ([[1, np.inf]], 'must be finite'),
    ([3, 4], 'must be finite'),
    ([[2, 1], [1, 0]], 'two raters or more'),
    ([[3, -1]], 'two raters or more'),
  ],
)
def test_kappa_errors(counts, message):
  with pytest.raises(ValueError, match=message):
    _agreement.fleiss_kappa(counts)


# -- both orders --------------------------------------------------------------


def test_both_orders_must_agree():
  p_12 = [0.9, 0.2, 0.9, 0.2, 0.5, 0.5, 0.9]
  p_21 = [0.6, 0.4, 0.1, 0.8, 0.5, 0.9, 0.5]
  np.testing.assert_array_equal(
    _agreement.both_orders(p_12, p_21), [1, 0, 0.5, 0.5, 0.5, 0.5, 0.5]
  )


def test_averaging_lets_the_surer_order_win():
  p_12, p_21 = [0.9, 0.2, 0.9, 0.6, 0.3], [0.6, 0.4, 0.3, 0.1, 0.7]
  np.testing.assert_array_equal(
    _agreement.averaged_orders(p_12, p_21), [1, 0, 1, 0, 0.5]
  )
  np.testing.assert_allclose(
    _agreement.averaged_orders(p_12, p_21, soft=True),
    [0.75, 0.3, 0.6, 0.35, 0.5],
  )


def test_a_judge_who_looks_at_the_place_only_ties():
  """His first slot: the first response in one order, the second swapped."""
  rng = np.random.default_rng(0)
  p = rng.uniform(0.6, 0.95, size=50)
  np.testing.assert_array_equal(_agreement.both_orders(p, 1 - p), 0.5)
  np.testing.assert_array_equal(_agreement.averaged_orders(p, 1 - p), 0.5)


def test_naming_the_other_response_first_mirrors_all():
  a, b = np.random.default_rng(1).random((2, 40))
  for rule in (_agreement.both_orders, _agreement.averaged_orders):
    np.testing.assert_allclose(rule(1 - b, 1 - a), 1 - rule(a, b))


@pytest.mark.parametrize(
  'rule', [_agreement.both_orders, _agreement.averaged_orders]
)
@pytest.mark.parametrize(
  ('p_12', 'p_21', 'message'),
  [
    ([0.5], [0.5, 0.5], '1 pairs in one order, 2 in the other'),
    ([1.5], [0.5], 'in \\[0, 1\\]'),
    ([0.5], [-0.1], 'in \\[0, 1\\]'),
    ([0.5], [np.nan], 'the other order: row 0 is nan'),
    ([], [], 'the one order must be a list'),
  ],
)
def test_order_errors(rule, p_12, p_21, message):
  with pytest.raises(ValueError, match=message):
    rule(p_12, p_21)
