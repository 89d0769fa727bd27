"""Agreement between raters, and verdicts from both orders of a pair."""

import numpy as np
from numpy.typing import ArrayLike

from rlaif_jax.evaluators import statistics


def kendall_w(ranks: ArrayLike) -> float:
  """Kendall's coefficient of concordance W of m raters who ranked k things.

  W = 12 S / (m^2 (k^3 - k) - m T), S the sum of squared deviations of the rank
  sums from their mean, T the sum over raters and groups of t tied things of
  t^3 - t. 1: all rank alike; about 1 / m is what chance gives. Ties take the
  mean of their places first, so any numbers that order the things will do.

  Args:
    ranks: lower is better; equal numbers are ties [m, k].

  Returns:
    W in [0, 1]; NaN where every rater ties everything, which says nothing.

  Raises:
    ValueError: fewer than two raters or things, or a non-finite rank.
  """
  array = np.asarray(ranks, float)
  if array.ndim != 2 or min(array.shape) < 2 or not np.isfinite(array).all():
    raise ValueError(
      'W needs finite ranks by two raters or more of two things or more '
      f'[m, k], not {array.shape}'
    )
  m, k = array.shape
  below = (array[:, None, :] < array[:, :, None]).sum(-1)
  tied = (array[:, None, :] == array[:, :, None]).sum(-1)
  places = below + (tied + 1) / 2
  sums = places.sum(0)
  deviation = ((sums - sums.mean()) ** 2).sum()
  # A group of t ties holds t things, each of which sees t: sum of t^2 - 1.
  ties = (tied**2 - 1).sum()
  most = m**2 * (k**3 - k) - m * ties
  return float(12 * deviation / most) if most else float('nan')


def fleiss_kappa(counts: ArrayLike) -> float:
  """Fleiss' kappa: chance-corrected agreement of several raters per item.

  kappa = (P - Pe) / (1 - Pe); P is the mean over items of the share of pairs
  of raters who chose alike, Pe what the overall shares of the categories
  would give by chance. Items may have different numbers of raters. Raters who
  use one category only get 1, as in `statistics.cohen_kappa`.

  Args:
    counts: how many raters put each item in each category [n, k].

  Raises:
    ValueError: no items, an item with fewer than two raters, or a negative or
      non-finite count.
  """
  array = np.asarray(counts, float)
  if array.ndim != 2 or not array.size or not np.isfinite(array).all():
    raise ValueError(f'counts must be finite [items, categories]: {array}')
  raters = array.sum(1)
  if array.min() < 0 or raters.min() < 2:
    raise ValueError('kappa needs two raters or more for every item')
  observed = observed_agreement(array).mean()
  chance = ((array.sum(0) / raters.sum()) ** 2).sum()
  if chance >= 1:
    return 1.0
  return float((observed - chance) / (1 - chance))


def observed_agreement(counts: ArrayLike) -> np.ndarray:
  """Share of pairs of raters who chose alike, of each item [n].

  Args:
    counts: see `fleiss_kappa` [n, k].
  """
  array = np.asarray(counts, float)
  raters = array.sum(1)
  return (array * (array - 1)).sum(1) / (raters * (raters - 1))


def category_counts(ratings: ArrayLike, categories: ArrayLike) -> np.ndarray:
  """Counts [n, k] of `categories` [k] among the `ratings` [n, m].

  NaN, a rater who left the item out, is no category.
  """
  return (
    np.asarray(ratings, float)[:, :, None] == np.asarray(categories, float)
  ).sum(1)


def preferences(
  scores_a: ArrayLike, scores_b: ArrayLike, tie_margin: float = statistics.TIE
) -> np.ndarray:
  """1 where A's score is higher, 0 where B's is, 0.5 for ties [n].

  Raises:
    ValueError: lengths differ, or a score is not finite.
  """
  a = statistics.finite(scores_a, 'scores of A')
  b = statistics.finite(scores_b, 'scores of B')
  if a.shape != b.shape:
    raise ValueError(f'{len(a)} scores of A but {len(b)} of B')
  return np.where(np.abs(a - b) <= tie_margin, 0.5, (a > b).astype(float))


def both_orders(p_12: ArrayLike, p_21: ArrayLike) -> np.ndarray:
  """Verdicts [n] of a judge who saw every pair in both orders: both must agree.

  1 where both orders prefer the first response, 0 where both prefer the
  second, 0.5, a tie, in all other cases. A judge who only looks at the place
  then gets ties, not a coin's wins.

  Args:
    p_12: probability that the first response is better, shown first [n].
    p_21: the same with the pair swapped; still of the *first* response [n].

  Raises:
    ValueError: lengths differ, none at all, or a value outside [0, 1].
  """
  a, b = (statistics.verdicts(p - 0.5) for p in _both(p_12, p_21))
  return np.where(a == b, 0.5 + 0.5 * a, 0.5)


def averaged_orders(
  p_12: ArrayLike, p_21: ArrayLike, *, soft: bool = False
) -> np.ndarray:
  """Verdicts [n] from the mean probability of both orders (paper 2.1.1).

  Arguments and errors as `both_orders`; `soft` keeps the probability itself.
  """
  a, b = _both(p_12, p_21)
  mean = (a + b) / 2
  return mean if soft else 0.5 + 0.5 * statistics.verdicts(mean - 0.5)


def _both(p_12: ArrayLike, p_21: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  a = statistics.finite(p_12, 'probabilities in the one order')
  b = statistics.finite(p_21, 'probabilities in the other order')
  if a.shape != b.shape:
    raise ValueError(f'{len(a)} pairs in one order, {len(b)} in the other')
  if min(a.min(), b.min()) < 0 or max(a.max(), b.max()) > 1:
    raise ValueError('probabilities of a judge must be in [0, 1]')
  return a, b
