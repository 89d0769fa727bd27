"""Reads preferences whatever is wrong with them, for `lint.py` to say it."""

import dataclasses
import gzip
import math
import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rlaif_jax.data import _files, records
from rlaif_jax.data.records import PreferenceRecord


class Row(NamedTuple):
  """A record and where it stands, such as 'labels.jsonl:7'.

  The record need not be valid; a p_first or log-prob that is null is NaN.
  """

  place: str
  record: PreferenceRecord


class Where(NamedTuple):
  """A row that is to be looked at, and what to know about it."""

  place: str
  id: str = ''
  note: str = ''


def read(
  path: str | os.PathLike[str], need_pair: bool = True
) -> tuple[list[Row], list[Where]]:
  """(rows, rows that cannot be read) of a file of preferences.

  Args:
    path: anything that `records.read_preferences` takes, ours or TRL's.
    need_pair: False takes rows that are a prompt alone too, their responses
      being empty.

  Raises:
    FileNotFoundError: no such file.
    ValueError: the file as a whole is no such file, or empty.
  """
  rows, broken = [], []
  for place, columns in _columns(pathlib.Path(path)):
    try:
      if isinstance(columns, ValueError):
        raise columns
      rows.append(Row(place, _record(columns, place, need_pair)))
    except ValueError as error:
      note = str(error).removeprefix(f'{place}: ')
      name = columns.get('id') if isinstance(columns, dict) else None
      broken.append(Where(place, '' if name is None else str(name), note))
  return rows, broken


# -- lines --------------------------------------------------------------------


def _columns(
  path: pathlib.Path,
) -> Iterator[tuple[str, dict[str, Any] | ValueError]]:
  """(place, columns or what is wrong with the line) of every row."""
  if not (path.is_file() and path.name.endswith(('.jsonl', '.jsonl.gz'))):
    # Of the other kinds a part cannot be read without the whole.
    yield from _files.read_file(path)
    return
  number, opened, empty = 0, gzip.open if path.suffix == '.gz' else open, True
  try:
    with opened(path, 'rb') as file:
      for number, line in enumerate(file, 1):
        if line.strip():
          empty, place = False, f'{path}:{number}'
          yield place, _parse(line, place)
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    message = f'broken gzip file ({error}); was the download cut short?'
    yield f'{path}:{number + 1}', ValueError(message)
    return
  if empty:
    raise ValueError(f'{path}: the file is empty; expected at least one row')


def _parse(line: bytes, place: str) -> dict[str, Any] | ValueError:
  try:
    # Some editors begin a file with a byte order mark.
    return _files.parse_line(line.decode('utf-8-sig'), place)
  except UnicodeDecodeError as error:
    return ValueError(f'not UTF-8 text ({error})')
  except ValueError as error:
    if line.endswith(b'\n'):
      return error
    return ValueError(
      'the last line is half-written, as an interrupted run leaves it; run '
      'the label stage again, or remove this line'
    )


# -- rows ---------------------------------------------------------------------


def _record(
  row: Mapping[str, Any], place: str, need_pair: bool
) -> PreferenceRecord:
  """The record of a row; its texts and numbers may be wrong.

  Raises:
    ValueError: a column is missing or of another type.
  """
  if 'chosen' in row and 'response_1' not in row:
    return _trl_record(row, place)
  if not need_pair and 'response_1' not in row:
    row = {**row, 'response_1': '', 'response_2': ''}
  texts = [
    _files.need_text(row, key, place)
    for key in ('prompt', 'response_1', 'response_2')
  ]
  # The strict reader checks all columns but those whose faults have a finding
  # of their own.
  sound = {
    **row,
    'id': _name(row, texts),
    'response_2': f'{texts[1]}|',
    'p_first': 0.5,
    'logprobs_12': None,
    'logprobs_21': None,
  }
  return dataclasses.replace(
    records.from_row(sound, place),
    response_2=texts[2],
    p_first=_number(row.get('p_first'), f'{place}: p_first'),
    logprobs_12=_numbers(row, 'logprobs_12', place),
    logprobs_21=_numbers(row, 'logprobs_21', place),
  )


def _trl_record(row: Mapping[str, Any], place: str) -> PreferenceRecord:
  texts = [row.get(key) for key in ('prompt', 'chosen', 'rejected')]
  if all(isinstance(text, str) for text in texts):
    chosen, rejected = texts[1].strip(), texts[2].strip()
    if chosen == rejected:  # which the strict reader refuses
      name = _name(row, texts)
      return PreferenceRecord(name, texts[0], chosen, rejected, 1.0)
  return records.from_trl(row, place)


def _name(row: Mapping[str, Any], texts: list[str]) -> str:
  name = row.get('id')
  return records.stable_hash(texts) if name is None else str(name)


def _number(value: Any, place: str) -> float:
  """A number, NaN for a null."""
  if value is None:
    return math.nan
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise ValueError(f'{place} should be a number but is {value!r}')
  return float(value)


def _numbers(
  row: Mapping[str, Any], key: str, place: str
) -> tuple[float, ...] | None:
  values = row.get(key)
  if values is None:
    return None
  if not isinstance(values, list | tuple):
    raise ValueError(
      f'{place}: {key} should be a list of numbers but is {values!r}'
    )
  return tuple(_number(value, f'{place}: {key}') for value in values)
