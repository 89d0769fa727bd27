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
from rlaif_jax.labeler import Labeler, ask, criteria, template
from rlaif_jax.labeler.ask import Thinking
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
      the labeler gave them: neither renormalised nor flipped. Of several
      rationales or criteria: logs of their mean distribution.
    logprobs_21: the same with the pair swapped, so "1" means response 2.
    rationales: those of the own order first, then those of the swapped one,
      for each criterion.
    num_exemplars: exemplars that were shown.
    cut: whether the post had to be cut.
  """

  id: str
  p_first: float
  logprobs_12: tuple[float, float]
  logprobs_21: tuple[float, float]
  rationales: tuple[str, ...] = ()
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
  *,
  thinking: Thinking | None = None,
  clamp: tuple[float, float] = (0.0, 1.0),
) -> list[PairLabel | None]:
  """Labels pairs, each in both orders, by each criterion of the prompt.

  Args:
    labeler: who decides.
    prompt: a pairwise prompt.
    pairs: (id, fields, (response 1, response 2)) of each row.
    thinking: how rationales are written, where the prompt asks for them; its
      seed draws the criteria too.
    clamp: the averaged label is kept within these, against the certainty of a
      label that follows a rationale (40 to 60% in arXiv 2212.08073, 4.1).

  Returns:
    One label per pair; None, with a logged warning, where the prompt does not
    fit the labeler even with its post cut.

  Raises:
    ValueError: another kind of prompt, a missing field, or log-probs that are
      not finite; names the row.
  """
  thinking = thinking or Thinking()
  check(prompt, clamp)
  fits = ask.fits(labeler, prompt, thinking)
  asked = []  # (pair, weight, Fitted)
  for i, (name, fields, pair) in enumerate(pairs):
    fitted = [
      (
        i,
        c.weight,
        template.fit(
          prompt, fields, pair, fits=fits, orders=_ORDERS, criterion=c.text
        ),
      )
      for c in criteria.of_row(prompt, name, thinking.seed)
    ]
    if all(found for *_, found in fitted):
      asked += fitted
    else:
      _log.warning(
        '%s: skipped, its prompt is over %d tokens', name, labeler.limit
      )
  answers = ask.answer(
    labeler,
    prompt,
    [text for *_, found in asked for text in found.texts],
    [pairs[i][0] for i, *_ in asked for _ in _ORDERS],
    thinking,
  )
  shape = len(asked), 2, ask.num_samples(prompt, thinking), 2
  logprobs = answers.logprobs.reshape(shape)
  labels: list[PairLabel | None] = [None] * len(pairs)
  for row in _rows_of(asked):
    first = asked[row[0]]
    orders = _merged(logprobs[row], [asked[k][1] for k in row])
    p_first = float(soft_label(*orders[:, None], prompt.prefers)[0])
    labels[first[0]] = PairLabel(
      id=pairs[first[0]][0],
      p_first=float(np.clip(p_first, *clamp)),
      logprobs_12=tuple(orders[0].tolist()),
      logprobs_21=tuple(orders[1].tolist()),
      rationales=tuple(
        text
        for k in row
        for said in answers.rationales[2 * k : 2 * k + 2]
        for text in said
      ),
      num_exemplars=first[2].num_exemplars,
      cut=first[2].cut,
    )
  return labels


def check(prompt: LabelPrompt, clamp: tuple[float, float] = (0.0, 1.0)) -> None:
  """Raises ValueError for a prompt that compares nothing, or a bad clamp."""
  if prompt.kind != 'pairwise':
    raise ValueError(
      f'labeling prompt {prompt.name!r} gives a {prompt.kind}; choose a '
      'pairwise prompt to compare responses'
    )
  low, high = clamp
  if not 0 <= low <= 0.5 <= high <= 1:
    raise ValueError(
      f'clamp={tuple(clamp)} should be (low, high) with low <= 0.5 <= high'
    )


def _rows_of(asked) -> list[list[int]]:
  """Places in `asked` of each pair, one for each criterion."""
  rows: dict[int, list[int]] = {}
  for k, (i, *_) in enumerate(asked):
    rows.setdefault(i, []).append(k)
  return list(rows.values())


def _merged(logprobs: np.ndarray, weights: Sequence[float]) -> np.ndarray:
  """[C, 2, S, 2] of criteria and rationales to one [2, 2], by order and label.

  Each answer is renormalised over its two labels before they are averaged; a
  single one stays as the labeler gave it.
  """
  if logprobs.shape[0] == logprobs.shape[2] == 1:
    return logprobs[0, :, 0]
  # Shifted by the larger one, so that labels of tiny probability do not vanish.
  odds = np.exp(logprobs - logprobs.max(-1, keepdims=True))
  shares = (odds / odds.sum(-1, keepdims=True)).mean(2)
  mean = np.average(shares, axis=0, weights=weights)
  return np.log(np.maximum(mean, np.finfo(np.float32).tiny)).astype(np.float32)
