"""Intervals, tests and small fits, in plain NumPy (no SciPy at run time).

Everything here is deterministic: random resampling follows from `seed`.
Shapes: n items (comparisons, pairs or responses), C clusters (prompts).
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# Preferences this close to a half, and scores this close together, are ties.
TIE = 1e-6


class Interval(NamedTuple):
  """A confidence interval."""

  low: float
  high: float


# -- bootstrap ----------------------------------------------------------------


def resamples(
  n: int, clusters: ArrayLike | None, num_samples: int, seed: int
) -> Iterator[np.ndarray]:
  """Yields `num_samples` arrays of item indices drawn with replacement.

  Whole clusters are drawn, so that items of one prompt stay together: raters
  or samples of one prompt are no independent observations.

  Args:
    n: number of items.
    clusters: cluster name of each item [n] (any sortable type), or None where
      every item is its own.
    num_samples: number of resamples.
    seed: fixes the draws.

  Raises:
    ValueError: no items, or not one cluster name per item.
  """
  if n == 0:
    raise ValueError('no values to resample: the list is empty')
  rng = np.random.default_rng(seed)
  if clusters is None:
    for _ in range(num_samples):
      yield rng.integers(n, size=n)
    return
  names = np.asarray(clusters)
  if names.shape != (n,):
    raise ValueError(f'clusters has shape {names.shape}, expected ({n},)')
  _, member, counts = np.unique(names, return_inverse=True, return_counts=True)
  items = np.split(np.argsort(member, kind='stable'), np.cumsum(counts)[:-1])
  for _ in range(num_samples):
    drawn = rng.integers(len(items), size=len(items))
    yield np.concatenate([items[i] for i in drawn])


def bootstrap_statistic(
  statistic: Callable[[np.ndarray], float],
  n: int,
  *,
  clusters: ArrayLike | None = None,
  level: float = 0.95,
  num_samples: int = 2000,
  seed: int = 0,
) -> Interval:
  """Percentile interval of `statistic(indices)` over resampled items.

  Args:
    statistic: value of the statistic on the items with these indices.
    n: number of items.
    clusters: see `resamples`.
    level: coverage, in (0, 1).
    num_samples: number of resamples.
    seed: fixes the draws.

  Raises:
    ValueError: no items, or `level` outside (0, 1).
  """
  if not 0 < level < 1:
    raise ValueError(f'level={level} is not between 0 and 1')
  draws = [statistic(i) for i in resamples(n, clusters, num_samples, seed)]
  tail = (1 - level) / 2
  low, high = np.quantile(draws, [tail, 1 - tail])
  return Interval(float(low), float(high))


def bootstrap_ci(
  values: ArrayLike,
  *,
  clusters: ArrayLike | None = None,
  level: float = 0.95,
  num_samples: int = 2000,
  seed: int = 0,
) -> Interval:
  """Percentile bootstrap interval of the mean of `values` [n].

  Clusters, where given, are resampled whole; the mean stays one over items.
  Values that are all alike give an interval of width zero. From few clusters
  percentile intervals cover a little less than they say: 94% rather than 95%
  with 40 of them.

  Raises:
    ValueError: empty or non-finite values.
  """
  values = finite(values, 'values')
  # Sums per cluster say all that a mean needs, and keep big sets fast.
  names = np.arange(len(values)) if clusters is None else np.asarray(clusters)
  if names.shape != values.shape:
    raise ValueError(
      f'clusters has shape {names.shape}, expected {values.shape}'
    )
  _, member, counts = np.unique(names, return_inverse=True, return_counts=True)
  sums = np.bincount(member, weights=values)
  return bootstrap_statistic(
    lambda i: sums[i].sum() / counts[i].sum(),
    len(sums),
    level=level,
    num_samples=num_samples,
    seed=seed,
  )


# -- tests --------------------------------------------------------------------


def binomial_test(successes: int, trials: int, p: float = 0.5) -> float:
  """Exact two-sided p-value of `successes` out of `trials` under rate `p`.

  The sum of the probabilities of all outcomes that are no likelier than the
  one seen. No trials give 1.

  Raises:
    ValueError: not 0 <= successes <= trials, or p outside (0, 1).
  """
  if not 0 <= successes <= trials or not 0 < p < 1:
    raise ValueError(f'binomial_test({successes}, {trials}, p={p}): impossible')
  k = np.arange(trials + 1)
  log_factorial = np.concatenate(
    [[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))]
  )
  log_pmf = (
    log_factorial[-1]
    - log_factorial
    - log_factorial[::-1]
    + k * math.log(p)
    + (trials - k) * math.log1p(-p)
  )
  # The margin keeps mirror outcomes alike in spite of rounding.
  extreme = log_pmf <= log_pmf[successes] + 1e-7
  return float(min(1.0, np.exp(log_pmf[extreme]).sum()))


def sign_test(
  differences: ArrayLike, clusters: ArrayLike | None = None
) -> float:
  """Exact paired test that positive and negative differences are as frequent.

  Ties drop out. With clusters, each counts once, for the side of its mean.
  For two outcomes per pair this is McNemar's exact test.
  """
  values = finite(differences, 'differences')
  if clusters is not None:
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    values = np.bincount(member, weights=values) / np.bincount(member)
  positive, negative = np.sum(values > TIE), np.sum(values < -TIE)
  return binomial_test(int(positive), int(positive + negative))


def permutation_test(
  differences: ArrayLike, *, num_samples: int = 10_000, seed: int = 0
) -> float:
  """Two-sided paired test of mean difference zero, by random sign flips.

  The p-value counts the observed outcome too, so it is never 0.
  """
  values = finite(differences, 'differences')
  observed = abs(values.sum()) * (1 - 1e-9)
  rng = np.random.default_rng(seed)
  extreme = 0
  for _ in range(num_samples):
    signs = rng.integers(2, size=len(values)) * 2 - 1
    extreme += abs(signs @ values) >= observed
  return (extreme + 1) / (num_samples + 1)


# -- agreement ----------------------------------------------------------------


def verdicts(margins: ArrayLike, name: str = 'margins') -> np.ndarray:
  """1 for the first, -1 for the second, 0 for a tie (within `TIE`) [n].

  Raises:
    ValueError: empty, or a margin is not finite.
  """
  array = finite(margins, name)
  return np.where(np.abs(array) <= TIE, 0.0, np.sign(array))


def agreement(margins: ArrayLike, truth: ArrayLike) -> np.ndarray:
  """Agreement of verdicts [n]: 1 same side, 0 other side, 0.5 with a tie.

  Args:
    margins: preference for the first item [n]; the sign is the verdict.
    truth: the same from the other judge [n].

  Raises:
    ValueError: lengths differ, or a value is not finite.
  """
  a, b = verdicts(margins, 'margins'), verdicts(truth, 'truth')
  if a.shape != b.shape:
    raise ValueError(f'{len(a)} margins but {len(b)} truths')
  return 0.5 + 0.5 * a * b


def cohen_kappa(a: ArrayLike, b: ArrayLike) -> float:
  """Cohen's kappa of two raters' categories [n]: chance-corrected agreement.

  Two raters who use one and the same category throughout get 1 (they agree
  fully, though chance would have done the same).

  Raises:
    ValueError: no items, or lengths differ.
  """
  a, b = np.asarray(a), np.asarray(b)
  if a.shape != b.shape or not a.size:
    raise ValueError(f'kappa needs equal lengths above 0: {a.shape}, {b.shape}')
  observed = np.mean(a == b)
  chance = sum(
    np.mean(a == c) * np.mean(b == c) for c in np.union1d(a, b).tolist()
  )
  if chance >= 1:
    return 1.0
  return float((observed - chance) / (1 - chance))


def calibration_error(
  confidences: ArrayLike, outcomes: ArrayLike, num_bins: int = 10
) -> float:
  """Expected calibration error over equal-width bins of [0, 1].

  The mean over items of |mean outcome - mean confidence| of the item's bin.

  Args:
    confidences: predicted probabilities [n] that the outcome is 1.
    outcomes: what happened, in [0, 1] [n].
    num_bins: number of bins.
  """
  p, y = finite(confidences, 'confidences'), finite(outcomes, 'outcomes')
  member = np.minimum((p * num_bins).astype(int), num_bins - 1)
  gaps = np.bincount(member, weights=y - p, minlength=num_bins)
  return float(np.abs(gaps).sum() / len(p))


# -- logistic regression ------------------------------------------------------


def sigmoid(x: ArrayLike) -> np.ndarray:
  """1 / (1 + exp(-x)) without overflow."""
  return 0.5 * (1 + np.tanh(0.5 * np.asarray(x, float)))


def logistic_regression(
  features: ArrayLike,
  targets: ArrayLike,
  *,
  ridge: float = 1e-3,
  max_steps: int = 100,
) -> np.ndarray:
  """Coefficients [k + 1], intercept first, by damped Newton steps (IRLS).

  The small ridge acts on standardised features and on the log-odds at the
  features' mean. It makes the answer unique and finite on separable data and
  hardly moves it elsewhere. A feature that never varies gets coefficient 0.

  Args:
    features: [n, k].
    targets: probabilities in [0, 1] [n]; 0.5 for a tie.
    ridge: weight of the penalty, in units of items.
    max_steps: limit of Newton steps.

  Raises:
    ValueError: wrong shapes, no rows, non-finite values, or targets outside
      [0, 1].
  """
  y = finite(targets, 'targets')
  x = np.asarray(features, float)
  if x.ndim != 2 or len(x) != len(y) or not np.isfinite(x).all():
    raise ValueError(f'features must be finite [{len(y)}, k], got {x.shape}')
  if y.min() < 0 or y.max() > 1:
    raise ValueError('targets of a logistic regression must be in [0, 1]')
  center, scale = x.mean(0), x.std(0)
  varies = scale > 1e-9 * np.maximum(1, np.abs(center))
  z = np.where(varies, (x - center) / np.where(varies, scale, 1), 0)
  weights = _newton(np.column_stack([np.ones(len(y)), z]), y, ridge, max_steps)
  slopes = np.where(varies, weights[1:] / np.where(varies, scale, 1), 0)
  return np.concatenate([[weights[0] - slopes @ center], slopes])


def _newton(x, y, ridge: float, max_steps: int) -> np.ndarray:
  """Minimises the penalised logistic loss; every step lowers it."""

  def loss(w):
    logits = x @ w
    return (np.logaddexp(0, logits) - y * logits).sum() + ridge / 2 * (w @ w)

  w = np.zeros(x.shape[1])
  current = loss(w)
  for _ in range(max_steps):
    p = sigmoid(x @ w)
    gradient = x.T @ (p - y) + ridge * w
    hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge * np.eye(len(w))
    step = np.linalg.solve(hessian, gradient)
    if step @ gradient < 1e-16 * len(y):
      break
    size = 1.0
    while loss(w - size * step) > current and size > 1e-10:
      size /= 2
    w = w - size * step
    current = loss(w)
  return w


# -- checks -------------------------------------------------------------------


def finite(values: ArrayLike, name: str) -> np.ndarray:
  """`values` as a non-empty finite float array [n], or a ValueError."""
  array = np.asarray(values, float)
  if array.ndim != 1 or not array.size:
    raise ValueError(f'{name} must be a list of numbers, not {array.shape}')
  if not np.isfinite(array).all():
    row = int(np.flatnonzero(~np.isfinite(array))[0])
    raise ValueError(f'{name}: row {row} is {array[row]}, not a finite number')
  return array
