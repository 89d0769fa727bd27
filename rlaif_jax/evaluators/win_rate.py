"""Win rate of one policy against another (paper section 4, "evaluation").

The share of prompts on which the judge prefers A's response; a tie counts
half. Of a judge who compares in both orders, a win needs both, else it is a
tie; `eval_win_rate_averaged` goes by the mean of the two. Intervals resample
prompts, so several samples of one prompt do not pass for independent evidence.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rlaif_jax import evaluators
from rlaif_jax.evaluators import _agreement, statistics


@dataclasses.dataclass(frozen=True)
class Config(evaluators.Config):
  """Options of the win rate.

  Attributes:
    tie_margin: scores that differ by no more than this are a tie.
    head_to_head: further comparisons, as pairs of policy names.
  """

  tie_margin: float = statistics.TIE
  head_to_head: tuple[tuple[str, str], ...] = ()


preferences = _agreement.preferences


class WinRate(NamedTuple):
  """A win rate with its interval, its parts and its exact sign test."""

  win_rate: float
  ci_low: float
  ci_high: float
  win: float
  tie: float
  loss: float
  p_value: float


def win_rate(
  preferred: ArrayLike,
  *,
  clusters: ArrayLike | None = None,
  level: float = 0.95,
  num_samples: int = 2000,
  seed: int = 0,
) -> WinRate:
  """Win rate of A from preferences in [0, 1] for A's responses [n].

  Args:
    preferred: 1 A wins, 0 B wins, 0.5 a tie; or probabilities in between.
    clusters: the prompt of each comparison [n].
    level: coverage of the interval.
    num_samples: bootstrap resamples.
    seed: fixes the resamples.

  Returns:
    WinRate; its p-value is the exact two-sided binomial one against 50%, ties
    left out, each cluster counted once.

  Raises:
    ValueError: no comparisons, or a value outside [0, 1].
  """
  p = statistics.finite(preferred, 'preferences')
  if p.min() < 0 or p.max() > 1:
    raise ValueError('preferences must be in [0, 1]')
  ci = statistics.bootstrap_ci(
    p, clusters=clusters, level=level, num_samples=num_samples, seed=seed
  )
  win, loss = np.mean(p > 0.5), np.mean(p < 0.5)
  return WinRate(
    win_rate=float(p.mean()),
    ci_low=ci.low,
    ci_high=ci.high,
    win=float(win),
    tie=float(np.mean(p == 0.5)),
    loss=float(loss),
    p_value=statistics.sign_test(p - 0.5, clusters),
  )


def comparisons(
  context: evaluators.Context, head_to_head: tuple[tuple[str, str], ...]
) -> Iterator[tuple[str, str, str]]:
  """Yields (name, policy A, policy B): all against the baseline, then pairs."""
  for name in context.contestants():
    yield name, name, context.baseline
  for a, b in head_to_head:
    yield f'{a}_vs_{b}', a, b


def rated(
  context: evaluators.Context, a: str, b: str, tie_margin: float
) -> tuple[np.ndarray, np.ndarray]:
  """(preference for A where the judge said something [m], those rows [m])."""
  preferred = context.compared(a, b, tie_margin)
  rows = np.flatnonzero(~np.isnan(preferred))
  return preferred[rows], rows


def evaluate(context: evaluators.Context, config: Config) -> dict[str, float]:
  """Win rates `eval_win_rate/<policy>` against the baseline, and pairs.

  Each comes with `_ci_low`, `_ci_high`, `_win`, `_tie`, `_loss`, `_p_value`;
  `eval_win_rate_averaged/...` and `eval_judge_flip_rate/...`, the share of
  verdicts that changed with the order, where the judge saw both orders.
  """
  metrics, clusters = {}, context.clusters()
  for name, a, b in comparisons(context, config.head_to_head):
    preferred, rows = rated(context, a, b, config.tie_margin)
    found = {'eval_win_rate': preferred}
    averaged = evaluators.of_pair(context.averaged, a, b)
    if averaged is not None:
      found['eval_win_rate_averaged'] = averaged[rows]
      flipped = context.flipped.get((a, b), context.flipped.get((b, a)))
      metrics[f'eval_judge_flip_rate/{name}'] = float(flipped[rows].mean())
    for metric, values in found.items():
      result = win_rate(values, clusters=clusters[rows], **config.bootstrap())
      for field, value in result._asdict().items():
        suffix = '' if field == 'win_rate' else f'_{field}'
        metrics[f'{metric}/{name}{suffix}'] = value
  return metrics
