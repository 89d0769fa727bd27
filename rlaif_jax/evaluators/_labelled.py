"""Labels of pairs as arrays, from a context or from records on disk."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rlaif_jax import evaluators
from rlaif_jax.data.records import PreferenceRecord
from rlaif_jax.evaluators import statistics

BY = ('task', 'prompt_name', 'labeler')
_COSTS = ('tokens_in', 'tokens_out', 'seconds')
_LOWEST = float(np.finfo(np.float32).min)  # stands for -inf, as in records
_ALIKE = 1e-9


@dataclasses.dataclass(frozen=True)
class Labelled:
  """Labels of n pairs and what is known of these; NaN where nothing is.

  Attributes:
    p_first: the labeler's probability that the first response is better [n].
    pairs: both responses [n].
    prompts: number of the distinct prompt of each pair [n].
    human: a human's, 0 or 1 for a choice, 0.5 for a tie [n].
    logprobs_12: log-probs that the first and the second slot hold the better
      response, pair in its own order [n, 2]; only their difference counts.
    logprobs_21: the same with the pair swapped [n, 2].
    first_shown: 0 or 1, which response a judge that saw one order only was
      shown first [n].
    groups: names to break agreement down by, such as prompt_name [n] each.
    cost: means per label, both orders together: tokens_in, tokens_out, seconds,
      or `tokens` where only their sum is known.

  Raises:
    ValueError: lengths differ, no pairs, or a probability outside [0, 1].
  """

  p_first: np.ndarray
  pairs: Sequence[tuple[str, str]]
  prompts: np.ndarray
  human: np.ndarray
  logprobs_12: np.ndarray
  logprobs_21: np.ndarray
  first_shown: np.ndarray
  groups: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
  cost: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    p = statistics.finite(self.p_first, 'labels')
    given = np.concatenate([p, self.human[np.isfinite(self.human)]])
    if given.min() < 0 or given.max() > 1:
      raise ValueError('labels must be probabilities in [0, 1]')
    for name in ('logprobs_12', 'logprobs_21'):
      if getattr(self, name).shape != (len(p), 2):
        raise ValueError(
          f'{name} should be [{len(p)}, 2]: {getattr(self, name).shape}'
        )
    for name in ('pairs', 'prompts', 'human', 'first_shown'):
      if len(getattr(self, name)) != len(p):
        raise ValueError(
          f'{len(p)} labels but {len(getattr(self, name))} {name}'
        )

  @property
  def known(self) -> np.ndarray:
    """Pairs with a human label, bool [n]."""
    return np.isfinite(self.human)

  @property
  def both_orders(self) -> np.ndarray:
    """Pairs with the log-probs of both orders, bool [n]."""
    both = np.concatenate([self.logprobs_12, self.logprobs_21], axis=1)
    return np.isfinite(both).all(1)

  @property
  def agreed(self) -> np.ndarray:
    """Agreement with the human, NaN where nobody said [n]."""
    return agreement(self.p_first - 0.5, self.human)

  @property
  def longer(self) -> np.ndarray:
    """Characters by which the first response is longer [n]."""
    return np.array([float(len(a) - len(b)) for a, b in self.pairs])

  def margins(self) -> tuple[np.ndarray, np.ndarray]:
    """Preference for the first *response* in order 12 and in order 21 [n]."""
    (first, second), (own, other) = self.logprobs_12.T, self.logprobs_21.T
    return first - second, other - own


def from_context(context: evaluators.Context) -> Labelled:
  """The labels and pairs of a context.

  Raises:
    ValueError: it has no labels, another `prefers`, or a pair lacks responses
      or human label.
  """
  labels, n = context.labels, len(context.pairs)
  if labels is None:
    raise ValueError('a label report needs labels; there are none')
  if labels.prefers not in ('better', 'worse'):
    raise ValueError(f"prefers={labels.prefers!r}; use 'better' or 'worse'")
  human = context.human()
  metas = [e.meta for e in context.pairs]
  sign = -1 if labels.prefers == 'worse' else 1
  return Labelled(
    p_first=np.asarray(labels.p_first, float),
    pairs=[e.pair for e in context.pairs],
    prompts=_numbered(e.prompt for e in context.pairs),
    human=human,
    logprobs_12=_logprobs(labels.logprobs_12, n)[:, ::sign],
    logprobs_21=_logprobs(labels.logprobs_21, n)[:, ::sign],
    first_shown=_numbers(metas, 'first_shown'),
    cost=_mean_costs(metas),
  )


def from_records(
  records: Sequence[PreferenceRecord],
  human: Sequence[float | None] | None = None,
  by: Sequence[str] = BY,
) -> Labelled:
  """Labels on disk.

  A record does not say whether its prompt asks for the better or the worse
  response; whether p_first rises or falls with its log-probs does.

  Args:
    records: at least one.
    human: the human's p_first of each record; None takes it from the records'
      meta, as the label stage notes it.
    by: fields of a record, or keys of its meta, to break agreement down by.
  """
  metas = [r.meta for r in records]
  known = _numbers(metas, 'human_p_first')
  if human is not None:
    known = np.array([np.nan if p is None else p for p in human], float)
  p_first = np.array([r.p_first for r in records], float)
  logprobs = np.stack(
    [
      _logprobs([getattr(r, key) for r in records], len(records))
      for key in ('logprobs_12', 'logprobs_21')
    ]
  )
  worse = _names_worse(p_first, logprobs, [r.prompt_name for r in records])
  logprobs[:, worse] = logprobs[:, worse, ::-1]
  return Labelled(
    p_first=p_first,
    pairs=[r.pair for r in records],
    prompts=_numbered(r.prompt for r in records),
    human=known,
    logprobs_12=logprobs[0],
    logprobs_21=logprobs[1],
    first_shown=_numbers(metas, 'first_shown'),
    groups={
      key: [
        str(getattr(r, key, None) or r.meta.get(key) or '') for r in records
      ]
      for key in by
    },
    cost=_mean_costs(metas),
  )


# -- parts --------------------------------------------------------------------


def _numbered(texts: Iterable[str]) -> np.ndarray:
  """A number for each text, the same for the same text [n]."""
  known: dict[str, int] = {}
  return np.array([known.setdefault(text, len(known)) for text in texts])


def _numbers(metas: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
  """Column of numbers, NaN where a row has none."""
  values = [meta.get(key) for meta in metas]
  try:
    return np.array([np.nan if v is None else v for v in values], float)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'{key} in the meta of a pair is not a number or null ({error})'
    ) from error


def _logprobs(values, n: int) -> np.ndarray:
  """[n, 2] with NaN for rows without; a label that cannot occur is finite."""
  if values is None:
    return np.full((n, 2), np.nan)
  rows = [(np.nan, np.nan) if row is None else row for row in values]
  for i, row in enumerate(rows):
    if len(row) != 2:
      raise ValueError(
        f'pair {i}: log-probs of two labels are needed, not {len(row)}'
      )
  return np.maximum(np.array(rows, float), _LOWEST)


def _names_worse(p_first, logprobs, names: Sequence[str]) -> np.ndarray:
  """Rows whose labels name the worse response, bool [n]; by prompt name.

  Calibration may shift labels to one side, so it is not their sign that tells.
  """
  own, swapped = logprobs[..., 0] - logprobs[..., 1]
  first = statistics.sigmoid(own) - statistics.sigmoid(swapped)
  column, worse = np.array(names), np.zeros(len(names), bool)
  for name in np.unique(column):
    rows = (column == name) & np.isfinite(first)
    if rows.any():
      x, p = first[rows], p_first[rows]
      alike = min(x.std(), p.std()) < _ALIKE
      centre = (0.0, 0.5) if alike else (x.mean(), p.mean())
      worse[rows] = np.sum((x - centre[0]) * (p - centre[1])) < 0
  return worse


def _mean_costs(metas: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  columns = {key: _numbers(metas, key) for key in _COSTS}
  return {
    key: float(np.nanmean(column))
    for key, column in columns.items()
    if np.isfinite(column).any()
  }


def agreement(margins: np.ndarray, human: np.ndarray) -> np.ndarray:
  """Agreement of margins for the first response; NaN where one is unknown."""
  known = np.isfinite(margins) & np.isfinite(human)
  result = np.full(len(human), np.nan)
  if known.any():
    result[known] = statistics.agreement(margins[known], human[known] - 0.5)
  return result
