"""Pairwise labels: which of two responses is better, in both orders.

Labelers favour a position, so every pair is shown twice, once swapped, and
the two distributions are averaged (Lee et al., arXiv 2309.00267, 2.1.1).
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Array, Float

from rlaif_jax.core import logprobs as logprobs_lib
from rlaif_jax.labeler import Labeler, template
from rlaif_jax.labeler.prompts import LabelPrompt

_ORDERS = ((0, 1), (1, 0))
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PairLabel:
  """Verdict on one pair.

  Attributes:
    id: of the row.
    p_first: probability that the first response is the better one.
    logprobs_12: of the labels "1" and "2" with the pair in its own order, as
      the labeler gave them: neither renormalised nor flipped.
    logprobs_21: the same with the pair swapped, so "1" means response 2.
    num_exemplars: exemplars that were shown.
    cut: whether the post had to be cut.
  """

  id: str
  p_first: float
  logprobs_12: tuple[float, float]
  logprobs_21: tuple[float, float]
  num_exemplars: int = 0
  cut: bool = False


def soft_label(
  logprobs_12: Float[Array, 'B 2'],
  logprobs_21: Float[Array, 'B 2'],
  prefers: str = 'better',
) -> Float[Array, ' B']:
  """Probability that the first response is better, averaged over the orders.

  Each order is renormalised over its two labels first, and then averaged.

  Args:
    logprobs_12: of the labels for the first and second slot, own order.
    logprobs_21: the same with the responses swapped.
    prefers: 'worse' if the labels name the worse response; it is flipped.
  """
  first = logprobs_lib.label_distribution(logprobs_12)[:, 0]
  swapped = logprobs_lib.label_distribution(logprobs_21)[:, 1]
  mean = (first + swapped) / 2
  return 1 - mean if prefers == 'worse' else mean


def label_pairs(
  labeler: Labeler,
  prompt: LabelPrompt,
  pairs: Sequence[tuple[str, Mapping[str, str], tuple[str, str]]],
) -> list[PairLabel | None]:
  """Labels pairs, each in both orders.

  Args:
    labeler: who decides.
    prompt: a pairwise prompt without chain of thought.
    pairs: (id, fields, (response 1, response 2)) of each row.

  Returns:
    One label per pair; None, with a logged warning, where the prompt does not
    fit the labeler even with its post cut.

  Raises:
    ValueError: another kind of prompt, a missing field, or log-probs that are
      not finite; names the row.
  """
  if prompt.kind != 'pairwise':
    raise ValueError(
      f'labeling prompt {prompt.name!r} gives a {prompt.kind}; choose a '
      'pairwise prompt to compare responses'
    )
  labeler.check_prompt(prompt)
  fitted = [
    template.fit(prompt, fields, pair, fits=labeler.fits, orders=_ORDERS)
    for _, fields, pair in pairs
  ]
  kept = [i for i, fit in enumerate(fitted) if fit is not None]
  scores = labeler.score_texts(
    [text for i in kept for text in fitted[i].texts],
    prompt.labels,
    ids=[pairs[i][0] for i in kept for _ in _ORDERS],
  ).reshape(len(kept), 2, 2)
  p_first = np.asarray(soft_label(scores[:, 0], scores[:, 1], prompt.prefers))
  labels: list[PairLabel | None] = [None] * len(pairs)
  for i, p, (own, swapped) in zip(kept, p_first, scores, strict=True):
    labels[i] = PairLabel(
      id=pairs[i][0],
      p_first=float(p),
      logprobs_12=tuple(own.tolist()),
      logprobs_21=tuple(swapped.tolist()),
      num_exemplars=fitted[i].num_exemplars,
      cut=fitted[i].cut,
    )
  for (name, *_), label in zip(pairs, labels, strict=True):
    if label is None:
      _log.warning(
        '%s: skipped, its prompt is over %d tokens', name, labeler.limit
      )
  return labels
