"""Win rate corrected for response length (paper App. J).

Judges like longer responses. Both forms fit a logistic regression of "A
preferred" on relative length and read off the win rate at equal length:

  ratio  x = chars(A) / chars(B), prediction at x = 1; the paper's form
  log    x = tanh(log(chars(A) / chars(B)) / std), prediction at x = 0; after
         length-controlled AlpacaEval (arXiv 2404.04475): long tails count
         less, and swapping A and B gives exactly the complement

Where relative length never varies nothing can be corrected, and the plain win
rate comes back. Where all of A is longer the answer is an extrapolation.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from rlaif_jax import evaluators
from rlaif_jax.evaluators import statistics, win_rate

# A response to an (almost) empty one would otherwise outweigh all others.
_MAX_RATIO = 10.0


@dataclasses.dataclass(frozen=True)
class Config(win_rate.Config):
  """Options of the length-controlled win rate."""

  num_samples: int = 500  # each resample is a fit


def length_ratio(a: Sequence[str], b: Sequence[str]) -> np.ndarray:
  """chars(A) / chars(B) of paired responses [n], within [1/10, 10].

  An empty response counts as one character.

  Raises:
    ValueError: numbers of responses differ.
  """
  if len(a) != len(b):
    raise ValueError(f'{len(a)} responses of A but {len(b)} of B')
  chars_a, chars_b = (
    np.array([max(len(text), 1) for text in texts]) for texts in (a, b)
  )
  return np.clip(chars_a / chars_b, 1 / _MAX_RATIO, _MAX_RATIO)


def ratio_win_rate(preferred: ArrayLike, ratio: ArrayLike) -> float:
  """Win rate of A at length ratio 1 by the paper's one-feature regression.

  Args:
    preferred: 1 A wins, 0 B wins, 0.5 a tie [n].
    ratio: length of A over length of B [n].
  """
  x = statistics.finite(ratio, 'length ratios')
  intercept, slope = statistics.logistic_regression(x[:, None], preferred)
  return float(statistics.sigmoid(intercept + slope))


def log_ratio_win_rate(preferred: ArrayLike, ratio: ArrayLike) -> float:
  """Win rate of A at length ratio 1, with tanh of the scaled log ratio.

  Arguments as in `ratio_win_rate`; all ratios above 0.
  """
  x = np.log(statistics.finite(ratio, 'length ratios'))
  x = np.tanh(x / (x.std() or 1.0))
  intercept, _ = statistics.logistic_regression(x[:, None], preferred)
  return float(statistics.sigmoid(intercept))


def evaluate(context: evaluators.Context, config: Config) -> dict[str, float]:
  """`eval_win_rate_lc/<policy>` (ratio form) and `eval_win_rate_lc_log/...`.

  Both with `_ci_low` and `_ci_high`, clustered by prompt; the mean length
  ratio is `eval_length_ratio/<policy>`.
  """
  metrics = {}
  for name, a, b in win_rate.comparisons(context, config.head_to_head):
    preferred, rows = win_rate.rated(context, a, b, config.tie_margin)
    ratio = length_ratio(context.responses(a), context.responses(b))[rows]
    metrics[f'eval_length_ratio/{name}'] = float(ratio.mean())
    for metric, estimate in (
      ('eval_win_rate_lc', ratio_win_rate),
      ('eval_win_rate_lc_log', log_ratio_win_rate),
    ):
      key = f'{metric}/{name}'
      metrics[key] = estimate(preferred, ratio)
      ci = statistics.bootstrap_statistic(
        lambda i, f=estimate, p=preferred, r=ratio: f(p[i], r[i]),
        len(ratio),
        clusters=context.clusters()[rows],
        **config.bootstrap(),
      )
      metrics |= evaluators.interval(key, ci)
  return metrics
