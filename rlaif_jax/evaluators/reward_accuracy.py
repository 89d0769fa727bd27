"""Pairwise accuracy of reward models against human choices (paper App. H).

The share of human pairs where the preferred response scores higher, beside
what "the longer one" would get, and how far the confidence of sigmoid(score
difference) can be trusted.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from rlaif_jax import evaluators
from rlaif_jax.evaluators import statistics


@dataclasses.dataclass(frozen=True)
class Config(evaluators.Config):
  """Options of the reward accuracy.

  Attributes:
    confidence_key: number in the pairs' `meta` to bin by; '' for none.
    confidence_edges: inner edges of those bins, rising.
    num_bins: bins of the calibration error.
  """

  confidence_key: str = ''
  confidence_edges: tuple[float, ...] = ()
  num_bins: int = 10


def accuracy_by_bin(
  correct: ArrayLike, confidence: ArrayLike, edges: tuple[float, ...]
) -> Mapping[str, float]:
  """Mean of `correct` [n] per bin of `confidence` [n], named 'low..high'.

  Bins hold low <= confidence < high; empty ones are left out.
  """
  correct = np.asarray(correct, float)
  bounds = [-np.inf, *edges, np.inf]
  member = np.digitize(statistics.finite(confidence, 'confidence'), edges)
  return {
    f'{bounds[i]:g}..{bounds[i + 1]:g}': float(correct[member == i].mean())
    for i in np.unique(member)
  }


def margin_calibration(
  margins: ArrayLike, human: ArrayLike, num_bins: int = 10
) -> float:
  """Expected calibration error of sigmoid(|margin|) as P(agreement).

  Taken for the response that the reward model prefers, so that the order in
  which a data set stores its pairs does not matter.

  Args:
    margins: score of the first response minus that of the second [n].
    human: human probability that the first is better [n].
    num_bins: equal-width bins of [0, 1].
  """
  margins = statistics.finite(margins, 'margins')
  human = np.asarray(human, float)
  verdict = statistics.verdicts(margins)
  outcome = 0.5 + verdict * (human - 0.5)
  confidence = statistics.sigmoid(np.abs(margins))
  return statistics.calibration_error(confidence, outcome, num_bins)


def evaluate(context: evaluators.Context, config: Config) -> dict[str, float]:
  """`eval_rewards/accuracies/<model>` and what belongs to it.

  With `_ci_low`, `_ci_high`; the mean `margins` in favour of the human's
  choice, `ece`, and per confidence bin; `accuracies/longer` is the baseline
  that prefers the longer response.

  Raises:
    ValueError: scores that are not [m, 2], pairs without human label.
  """
  human = context.human()
  clusters = [example.prompt for example in context.pairs]
  margins = {'longer': _length_margin(context)}
  for name, scores in context.pair_scores.items():
    margins[name] = _score_margin(name, scores, len(human))
  metrics = {}
  for name, margin in margins.items():
    correct = statistics.agreement(margin, human - 0.5)
    key = f'eval_rewards/accuracies/{name}'
    ci = statistics.bootstrap_ci(
      correct, clusters=clusters, **config.bootstrap()
    )
    metrics |= {key: float(correct.mean()), **evaluators.interval(key, ci)}
    if config.confidence_key:
      confidence = _confidence(context, config.confidence_key)
      bins = accuracy_by_bin(correct, confidence, config.confidence_edges)
      metrics |= {f'{key}_{b}': value for b, value in bins.items()}
    if name != 'longer':
      metrics |= {
        f'eval_rewards/margins/{name}': float(
          np.mean(margin * (2 * human - 1))
        ),
        f'eval_rewards/ece/{name}': margin_calibration(
          margin, human, config.num_bins
        ),
      }
  return metrics


def _length_margin(context: evaluators.Context) -> np.ndarray:
  """Characters by which the first response of each pair is longer [m]."""
  pairs = [example.pair for example in context.pairs]
  return np.array([float(len(a) - len(b)) for a, b in pairs])


def _confidence(context: evaluators.Context, key: str) -> list[float]:
  for example in context.pairs:
    if key not in example.meta:
      raise ValueError(f'pair {example.id}: its meta has no {key!r} to bin by')
  return [example.meta[key] for example in context.pairs]


def _score_margin(name: str, scores: ArrayLike, n: int) -> np.ndarray:
  array = np.asarray(scores, float)
  if array.shape != (n, 2):
    raise ValueError(
      f'reward model {name!r}: scores are {array.shape}, expected ({n}, 2)'
    )
  return array[:, 0] - array[:, 1]
