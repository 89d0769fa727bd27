"""Ranks several policies on one scale, Elo, from comparisons of two each.

Bradley-Terry: P(A beats B) = sigmoid(s_A - s_B) = 1 / (1 + 10^((E_B - E_A) /
400)), so E = 400 / ln 10 * s, about 174 Elo per unit of log-odds. Only
differences count; one policy, the anchor, is put at 0. Unlike win rates
against one baseline, the fit uses the comparisons of all policies with each
other, and need not have all of them (arXiv 2204.05862 eq. 2.1, 2212.08073).
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rlaif_jax import evaluators
from rlaif_jax.evaluators import statistics, win_rate

ELO = 400 / math.log(10)

# Drawn games added between every two policies.
PRIOR = 0.1


@dataclasses.dataclass(frozen=True)
class Config(evaluators.Config):
  """Options of the ranking.

  Attributes:
    num_samples: number of bootstrap resamples; each is a fit.
    tie_margin: scores that differ by no more than this are a tie.
    prior: see `log_strengths`.
  """

  num_samples: int = 1000
  tie_margin: float = statistics.TIE
  prior: float = PRIOR


class Ranking(NamedTuple):
  """Elo of each policy [k] and its interval; the anchor is 0, exactly."""

  elo: np.ndarray
  ci_low: np.ndarray
  ci_high: np.ndarray


def log_strengths(wins: ArrayLike, prior: float = PRIOR) -> np.ndarray:
  """Maximum-likelihood Bradley-Terry strengths, natural log, mean 0 [..., k].

  Newton steps of 1 nat at most, since longer ones diverge where most games are
  one-sided; every fit of the leading dimensions is its own. A policy that won
  everything has no finite maximum, nor have groups that never met: `prior`
  drawn games between every two policies make the answer finite and unique.
  They hardly move it elsewhere: 0.1 of them beside 100 games at 70% shift it by
  0.2 Elo.

  Args:
    wins: wins[i, j] is how often i beat j, a tie half for each [..., k, k];
      the diagonal does not count.
    prior: number of drawn games, above 0.

  Raises:
    ValueError: not square, a negative or non-finite number, or no prior.
  """
  w = np.asarray(wins, float)
  if w.ndim < 2 or w.shape[-1] != w.shape[-2] or not w.shape[-1]:
    raise ValueError(f'wins must be [..., k, k], not {w.shape}')
  if not np.isfinite(w).all() or w.min(initial=0) < 0:
    raise ValueError('wins must be finite numbers of at least 0')
  if not prior > 0:
    raise ValueError(f'prior={prior} must be above 0')
  w = (w + prior / 2) * (1 - np.eye(w.shape[-1]))
  games = w + w.swapaxes(-1, -2)

  s = np.zeros(w.shape[:-1])
  for _ in range(100):
    p = statistics.sigmoid(s[..., :, None] - s[..., None, :])
    gradient = (w - games * p).sum(-1)
    curvature = games * p * (1 - p)
    # The ones fill the one flat direction, that of a common shift.
    hessian = 1 - curvature + _diagonal(curvature.sum(-1))
    step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
    longest = np.abs(step).max(-1, keepdims=True)
    if longest.max(initial=0) < 1e-9:
      break
    s = s + step / np.maximum(1, longest)
  return s - s.mean(-1, keepdims=True)


def rank(
  first: ArrayLike,
  second: ArrayLike,
  preferred: ArrayLike,
  num_policies: int,
  *,
  anchor: int = 0,
  clusters: ArrayLike | None = None,
  prior: float = PRIOR,
  level: float = 0.95,
  num_samples: int = 1000,
  seed: int = 0,
) -> Ranking:
  """Elo of `num_policies` policies from n comparisons.

  The percentile intervals are those of the difference to the anchor. A policy
  that won or lost everything has no spread to resample: its interval is far
  too narrow, and its Elo says no more than how many games it had.

  Args:
    first: number of the one policy of each comparison [n].
    second: number of the other [n].
    preferred: 1 the first won, 0 the second, 0.5 a tie; or a probability [n].
    num_policies: k; numbers are 0 to k - 1.
    anchor: number of the policy at 0.
    clusters: the prompt of each comparison [n]; resampled whole.
    prior: see `log_strengths`.
    level: coverage of the intervals.
    num_samples: bootstrap resamples.
    seed: fixes the resamples.

  Raises:
    ValueError: no comparisons, lengths differ, a policy number that is not
      there or meets itself, or a value outside [0, 1].
  """
  p = statistics.finite(preferred, 'preferences')
  a, b = np.asarray(first), np.asarray(second)
  names = np.arange(len(p)) if clusters is None else np.asarray(clusters)
  if not a.shape == b.shape == names.shape == p.shape:
    raise ValueError(
      f'lengths differ: {a.shape} first, {b.shape} second, {p.shape} '
      f'preferences, {names.shape} clusters'
    )
  numbers = np.concatenate([a, b, [anchor]])
  if numbers.min() < 0 or numbers.max() >= num_policies or (a == b).any():
    raise ValueError(
      f'comparisons must be of two of the policies 0 to {num_policies - 1}'
    )
  if p.min() < 0 or p.max() > 1:
    raise ValueError('preferences must be in [0, 1]')
  _, member = np.unique(names, return_inverse=True)
  wins = np.zeros((member.max() + 1, num_policies, num_policies))
  np.add.at(wins, (member, a, b), p)
  np.add.at(wins, (member, b, a), 1 - p)
  flat = wins.reshape(len(wins), -1)
  drawn = [
    np.bincount(i, minlength=len(wins)) @ flat
    for i in statistics.resamples(len(wins), None, num_samples, seed)
  ]
  fits = _elo(np.reshape(drawn, (-1, *wins.shape[1:])), anchor, prior)
  tail = (1 - level) / 2
  low, high = np.quantile(fits, [tail, 1 - tail], axis=0)
  return Ranking(_elo(wins.sum(0), anchor, prior), low, high)


def metrics(policies: Sequence[str], ranking: Ranking) -> dict[str, float]:
  """`eval_elo/<policy>` with `_ci_low` and `_ci_high`."""
  found = {}
  for i, name in enumerate(policies):
    key = f'eval_elo/{name}'
    ci = statistics.Interval(
      float(ranking.ci_low[i]), float(ranking.ci_high[i])
    )
    found |= {key: float(ranking.elo[i]), **evaluators.interval(key, ci)}
  return found


def evaluate(context: evaluators.Context, config: Config) -> dict[str, float]:
  """`eval_elo/<policy>` of every policy; the baseline is the anchor, at 0.

  Every two policies meet once on each example, where the judge prefers one or
  its score is higher; prompts are resampled whole. Of a judge who compares,
  every two policies that it has compared.

  Raises:
    ValueError: the baseline has no samples, there is no judge, or it compared
      no two policies.
  """
  policies = list(context.samples)
  context.responses(context.baseline)  # says so where it is missing
  if len(policies) == 1:
    zero = np.zeros(1)
    return metrics(policies, Ranking(zero, zero, zero))
  clusters, met = context.clusters(), []
  for (i, a), (j, b) in itertools.combinations(enumerate(policies), 2):
    if (
      context.preferred and evaluators.of_pair(context.preferred, a, b) is None
    ):
      continue
    preferred, rows = win_rate.rated(context, a, b, config.tie_margin)
    size = len(rows)
    met.append((np.full(size, i), np.full(size, j), preferred, clusters[rows]))
  if not met:
    raise ValueError('the judge has compared no two of the policies')
  first, second, preferred, prompts = map(
    np.concatenate, zip(*met, strict=True)
  )
  ranking = rank(
    first,
    second,
    preferred,
    len(policies),
    anchor=policies.index(context.baseline),
    clusters=prompts,
    prior=config.prior,
    **config.bootstrap(),
  )
  return metrics(policies, ranking)


def _elo(wins: np.ndarray, anchor: int, prior: float) -> np.ndarray:
  s = log_strengths(wins, prior)
  return ELO * (s - s[..., anchor : anchor + 1])


def _diagonal(values: np.ndarray) -> np.ndarray:
  """[..., k] -> [..., k, k]."""
  return values[..., None] * np.eye(values.shape[-1])
