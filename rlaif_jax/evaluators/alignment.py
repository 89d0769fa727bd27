"""How well a labeler agrees with humans, and with itself (paper 3.3, App. B).

Alignment is the share of pairs where the labeler's likelier response is the
human's choice. Position bias shows when the pair is shown in both orders: a
labeler that prefers the same slot twice has contradicted itself.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from rlaif_jax import evaluators
from rlaif_jax.evaluators import statistics


@dataclasses.dataclass(frozen=True)
class Config(evaluators.Config):
  """Options of the labeler alignment."""


def alignment(
  p_first: ArrayLike,
  human: ArrayLike,
  *,
  level: float = 0.95,
  num_samples: int = 2000,
  seed: int = 0,
) -> dict[str, float]:
  """Agreement of soft labels with human ones.

  A 50/50 label, the labeler's or the human's, counts as half an agreement.

  Args:
    p_first: labeler's probability that the first response is better [n].
    human: the human's, 0 or 1 for a choice, 0.5 for a tie [n].
    level: coverage of the interval.
    num_samples: bootstrap resamples.
    seed: fixes the resamples.

  Returns:
    `labeler/alignment` with `_ci_low` and `_ci_high`; `labeler/kappa` (ties a
    category of their own); `labeler/entropy`, the mean entropy of a label in
    nats; `labeler/ties`, the share of 50/50 labels.

  Raises:
    ValueError: lengths differ, none at all, or a value outside [0, 1].
  """
  p, truth = _probabilities(p_first), _probabilities(human)
  agreed = statistics.agreement(p - 0.5, truth - 0.5)
  ci = statistics.bootstrap_ci(
    agreed, level=level, num_samples=num_samples, seed=seed
  )
  verdict = statistics.verdicts(p - 0.5)
  return {
    'labeler/alignment': float(agreed.mean()),
    **evaluators.interval('labeler/alignment', ci),
    'labeler/kappa': statistics.cohen_kappa(
      verdict, statistics.verdicts(truth - 0.5)
    ),
    'labeler/entropy': float(np.mean(_entropy(p))),
    'labeler/ties': float(np.mean(verdict == 0)),
  }


def position_bias(
  logprobs_12: ArrayLike, logprobs_21: ArrayLike, prefers: str = 'better'
) -> dict[str, float]:
  """Self-consistency over the two orders of a pair.

  Args:
    logprobs_12: log-probs of the labels "1" and "2", that is of the first and
      second slot, with the pair in its own order [n, 2]; only their
      difference counts.
    logprobs_21: the same with the pair swapped [n, 2].
    prefers: 'worse' where the labels name the worse response.

  Returns:
    `labeler/position_bias`: share of pairs with the same slot preferred in
    both orders (the paper's "% same position preferred"), with
    `_first`, the share of those that prefer the first slot (0.5 if none), and
    `_p_value`, the exact binomial test of that share against 50%;
    `labeler/favoured_slot`: 1 or 2, or 0 for neither;
    `labeler/flip_rate`: share of pairs whose verdict changes with the order,
    among those with a verdict in both;
    `labeler/first_rate`: share of all answers for the first slot, ties half.

  Raises:
    ValueError: shapes differ or are not [n, 2], or another `prefers`.
  """
  if prefers not in ('better', 'worse'):
    raise ValueError(f"prefers={prefers!r}; use 'better' or 'worse'")
  sign = 1 if prefers == 'better' else -1
  slot_12, slot_21 = (
    sign * statistics.verdicts(_margin(x)) for x in (logprobs_12, logprobs_21)
  )
  if slot_12.shape != slot_21.shape:
    raise ValueError(
      f'{len(slot_12)} pairs in one order, {len(slot_21)} in two'
    )
  decided = (slot_12 != 0) & (slot_21 != 0)
  same = decided & (slot_12 == slot_21)
  first, total = int(np.sum(slot_12[same] > 0)), int(same.sum())
  return {
    'labeler/position_bias': total / len(same),
    'labeler/position_bias_first': first / total if total else 0.5,
    'labeler/position_bias_p_value': statistics.binomial_test(first, total),
    'labeler/favoured_slot': float(
      1 if 2 * first > total else 2 if 2 * first < total else 0
    ),
    'labeler/flip_rate': total / max(int(decided.sum()), 1),
    'labeler/first_rate': float(
      np.mean(0.5 + 0.5 * np.concatenate([slot_12, slot_21]))
    ),
  }


def length_bias(
  p_first: ArrayLike, pairs: Sequence[tuple[str, str]]
) -> dict[str, float]:
  """`labeler/longer_rate`: the share of labels for the longer response.

  In characters, as the longer-is-better baseline of reward models. A 50/50
  label and a pair of the same length count half.

  Args:
    p_first: probability that the first response is better [n].
    pairs: both responses [n].

  Raises:
    ValueError: lengths differ, none at all, or a value outside [0, 1].
  """
  p = _probabilities(p_first)
  if len(p) != len(pairs):
    raise ValueError(f'{len(p)} labels of {len(pairs)} pairs')
  longer = np.array([float(len(a) - len(b)) for a, b in pairs])
  agreed = statistics.agreement(p - 0.5, longer)
  return {'labeler/longer_rate': float(agreed.mean())}


def evaluate(context: evaluators.Context, config: Config) -> dict[str, float]:
  """Alignment of `context.labels` on `context.pairs`, and position bias.

  Raises:
    ValueError: the context has no labels, or pairs without human labels.
  """
  labels = context.labels
  if labels is None:
    raise ValueError('alignment needs the labels of a labeler; there are none')
  metrics = alignment(labels.p_first, context.human(), **config.bootstrap())
  if labels.logprobs_12 is not None and labels.logprobs_21 is not None:
    metrics |= position_bias(
      labels.logprobs_12, labels.logprobs_21, labels.prefers
    )
  return metrics


def _probabilities(values: ArrayLike) -> np.ndarray:
  p = statistics.finite(values, 'labels')
  if p.min() < 0 or p.max() > 1:
    raise ValueError('labels must be probabilities in [0, 1]')
  return p


def _margin(logprobs: ArrayLike) -> np.ndarray:
  array = np.asarray(logprobs, float)
  if array.ndim != 2 or array.shape[1] != 2:
    raise ValueError(f'log-probs of two labels must be [n, 2]: {array.shape}')
  return array[:, 0] - array[:, 1]


def _entropy(p: np.ndarray) -> np.ndarray:
  """Entropy in nats of (p, 1 - p); 0 at the ends."""
  q = np.clip(p, 1e-12, 1 - 1e-12)
  return -q * np.log(q) - (1 - q) * np.log1p(-q)
