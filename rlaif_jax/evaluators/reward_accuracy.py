"""Pairwise accuracy of reward models against human choices (paper App. H).

The share of human pairs where the preferred response scores higher, beside
what "the longer one" would get, by where pairs come from and how their lengths
differ, and how far the confidence of sigmoid(score difference) can be trusted.
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
    source_key: text in the pairs' `meta` that says where they come from.
    length_edges: inner edges, rising, of the bins of the longer response's
      length over the shorter one's, in characters; () for none.
    num_bins: bins of the calibration error.
  """

  confidence_key: str = ''
  confidence_edges: tuple[float, ...] = ()
  source_key: str = ''
  length_edges: tuple[float, ...] = ()
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
  return statistics.calibration_error(*_trust(margins, human), num_bins)


def reliability(
  margins: ArrayLike, human: ArrayLike, num_bins: int = 10
) -> list[list[float]]:
  """The curve behind `margin_calibration`: [confidence, agreement, count].

  Arguments as there. Means of each bin that holds a pair, from low confidence
  to high; none is below 0.5, by how confidence is taken.
  """
  confidence, outcome = _trust(margins, human)
  member = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
  return [
    [
      float(confidence[member == i].mean()),
      float(outcome[member == i].mean()),
      int(np.sum(member == i)),
    ]
    for i in np.unique(member)
  ]


def reliability_of(
  context: evaluators.Context, name: str, num_bins: int = 10
) -> list[list[float]]:
  """`reliability` of the reward model `name` on the pairs of a context."""
  human = context.human()
  margin = _score_margin(name, context.pair_scores[name], len(human))
  return reliability(margin, human, num_bins)


def _trust(margins, human) -> tuple[np.ndarray, np.ndarray]:
  """(confidence [n], how far the human is with the preferred response [n])."""
  margins = statistics.finite(margins, 'margins')
  human = np.asarray(human, float)
  outcome = 0.5 + statistics.verdicts(margins) * (human - 0.5)
  return statistics.sigmoid(np.abs(margins)), outcome


def evaluate(context: evaluators.Context, config: Config) -> dict[str, float]:
  """`eval_rewards/accuracies/<model>` and what belongs to it.

  With `_ci_low`, `_ci_high`; the mean `margins` in favour of the human's
  choice, `ece`, and per bin of confidence `_<low>..<high>`, of length
  `_length_<low>..<high>` and per source `_source_<name>`; `accuracies/longer`
  is the baseline that prefers the longer response.

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
    for part, value in _by_part(context, config, correct).items():
      metrics[f'{key}_{part}'] = value
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


def _by_part(context, config: Config, correct) -> dict[str, float]:
  """Accuracy by bins of confidence and length, and by source."""
  found: dict[str, float] = {}
  if config.confidence_key:
    confidence = _from_meta(context, config.confidence_key)
    found |= accuracy_by_bin(correct, confidence, config.confidence_edges)
  if config.length_edges:
    lengths = [sorted(map(len, e.pair)) for e in context.pairs]
    ratio = [long / max(short, 1) for short, long in lengths]
    bins = accuracy_by_bin(correct, ratio, config.length_edges)
    found |= {f'length_{name}': value for name, value in bins.items()}
  if config.source_key:
    sources = np.array(list(map(str, _from_meta(context, config.source_key))))
    for name in np.unique(sources).tolist():
      found[f'source_{name}'] = float(correct[sources == name].mean())
  return found


def _length_margin(context: evaluators.Context) -> np.ndarray:
  """Characters by which the first response of each pair is longer [m]."""
  pairs = [example.pair for example in context.pairs]
  return np.array([float(len(a) - len(b)) for a, b in pairs])


def _from_meta(context: evaluators.Context, key: str) -> list:
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
