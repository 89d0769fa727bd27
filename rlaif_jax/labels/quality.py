"""`report`: the label report of files on disk."""

import collections
import dataclasses
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from rlaif_jax.data import records
from rlaif_jax.data.records import PreferenceRecord
from rlaif_jax.evaluators import label_report
from rlaif_jax.training import workdir


def report(
  path: str,
  human: str | None = None,
  *,
  by: Sequence[str] = label_report.BY,
  config: label_report.Config | None = None,
) -> dict[str, Any]:
  """The label report of a file; see `evaluators/label_report.py`.

  Args:
    path: labels. Beside those of a label stage lies what they cost.
    human: file with human labels of some of the same pairs.
    by: columns to break agreement down by.
    config: options of the report.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a broken row, `human` has none of the pairs, or no row has a
      column of `by`.
  """
  rows = records.read_preferences(path)
  said = None
  if human is not None:
    said = human_labels(rows, records.read_preferences(human))
    if not any(p is not None for p in said):
      raise ValueError(
        f'{human}: has none of the pairs of {path}; prompts and responses have '
        'to be the same texts'
      )
  data = label_report.from_records(rows, said, by)
  for key in set(by) - set(label_report.BY):
    if not any(data.groups[key]):
      raise ValueError(f'{path}: no row has {key!r}, to tell labels apart by')
  return label_report.report(
    dataclasses.replace(data, cost=stage_cost(path, rows) | dict(data.cost)),
    config,
  )


def human_labels(
  rows: Sequence[PreferenceRecord], human: Iterable[PreferenceRecord]
) -> list[float | None]:
  """The mean human p_first of each row's pair, in its order; None if unknown.

  A pair is known by its texts, swapped or not, under the same prompt or one
  that holds the other (posts with and without their frame).
  """
  known: dict[Any, dict[str, list[float]]] = collections.defaultdict(dict)
  for record in human:
    pair, p = _in_one_order(record.pair, record.p_first)
    known[pair].setdefault(_squeezed(record.prompt), []).append(p)
  result: list[float | None] = []
  for row in rows:
    pair, _ = _in_one_order(row.pair, row.p_first)
    prompt = _squeezed(row.prompt)
    prompts = known.get(pair, {})
    said = prompts.get(prompt) or [
      p
      for other, values in prompts.items()
      if other and prompt and (other in prompt or prompt in other)
      for p in values
    ]
    mean = sum(said) / len(said) if said else None
    if mean is not None and pair[0] != row.response_1.strip():
      mean = 1 - mean
    result.append(mean)
  return result


def _in_one_order(pair, p: float) -> tuple[tuple[str, str], float]:
  first, second = (text.strip() for text in pair)
  return ((first, second), p) if first <= second else ((second, first), 1 - p)


def _squeezed(text: str) -> str:
  return ' '.join(text.split())


def stage_cost(path: str, rows: Sequence[PreferenceRecord]) -> dict[str, float]:
  """Tokens and seconds of a label, from the summary of its label stage.

  The summary counts tokens read and written together; without rationales none
  is written.
  """
  folder = pathlib.Path(path).absolute().parent
  summary = workdir.finished(folder.parent) if folder.name == 'labels' else None
  found = {}
  tokens = (summary or {}).get('labeler/tokens_per_label')
  if tokens is not None:
    thought = any(row.rationales for row in rows)
    found = (
      {'tokens': tokens}
      if thought
      else {'tokens_in': tokens, 'tokens_out': 0.0}
    )
  if speed := (summary or {}).get('perf/pairs_per_second'):
    found['seconds'] = 1 / speed
  return found
