"""Files of a workdir, read however incomplete they are."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from rlaif_jax.report.blocks import is_number

SHOWN_ROWS = 300  # rows of texts on the page, a file
LABELS_FILE = 'preferences.jsonl'


@dataclasses.dataclass(frozen=True)
class Labels:
  """The rows of a label stage.

  Attributes:
    p_first: probability that the first response is better [n].
    human: the human's, NaN where nobody said [n].
    slot_12, slot_21: log-odds of the first slot in either order, NaN where
      there are none [n].
    shown: the first rows as they stand in the file.
  """

  p_first: np.ndarray
  human: np.ndarray
  slot_12: np.ndarray
  slot_21: np.ndarray
  shown: tuple[dict[str, Any], ...]


def read_rows(file: pathlib.Path) -> Iterator[dict[str, Any]]:
  """The objects of a JSON-lines file; lines that are none are left out."""
  if not file.is_file():
    return
  with file.open(encoding='utf-8', errors='replace') as lines:
    for line in lines:
      try:
        row = json.loads(line)
      except ValueError:
        continue  # half-written, as a running or killed run leaves it
      if isinstance(row, dict):
        yield row


def attempt(problems: list[str], function: Callable, path: pathlib.Path):
  """function(path); None, and a problem noted, where that fails."""
  try:
    return function(path)
  except (ValueError, OSError) as error:
    if str(error) not in problems:
      problems.append(str(error))
    return None


def read_json(file: pathlib.Path) -> dict[str, Any] | None:
  """The object in `file`; None where there is none.

  Raises:
    ValueError: it is not JSON.
  """
  if not file.is_file():
    return None
  try:
    value = json.loads(file.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{file} is damaged ({error})') from error
  return value if isinstance(value, dict) else None


def read_quietly(file: pathlib.Path) -> dict[str, Any]:
  """As `read_json`; {} for whatever goes wrong."""
  return attempt([], read_json, file) or {}


def last_line(file: pathlib.Path) -> str:
  """The last line of a text, which of a traceback says what went wrong."""
  text = file.read_text(encoding='utf-8', errors='replace').strip()
  return text.splitlines()[-1] if text else ''


def labels_of(rows: Iterable[Mapping[str, Any]]) -> Labels | None:
  """The columns of preference records; None where there is no such row."""
  columns: tuple[list[float], ...] = ([], [], [], [])
  shown = []
  for row in rows:
    if not is_number(row.get('p_first')):
      continue
    meta = row.get('meta')
    human = meta.get('human_p_first') if isinstance(meta, dict) else None
    values = (
      row['p_first'],
      human if is_number(human) else math.nan,
      _slot(row.get('logprobs_12')),
      _slot(row.get('logprobs_21')),
    )
    for column, value in zip(columns, values, strict=True):
      column.append(value)
    if len(shown) < SHOWN_ROWS:
      shown.append(dict(row))
  if not shown:
    return None
  return Labels(*map(np.array, columns), shown=tuple(shown))


def _slot(logprobs: Any) -> float:
  """Log-odds of the first slot of two; NaN where that cannot be said."""
  if not isinstance(logprobs, list) or len(logprobs) != 2:
    return math.nan
  if not all(map(is_number, logprobs)):
    return math.nan
  return logprobs[0] - logprobs[1]
