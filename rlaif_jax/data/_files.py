"""Rows of local files (JSON lines, JSON, Parquet), each with its place.

The place ('file.jsonl.gz:12') goes into every message about a row.
"""

import gzip
import json
import os
import pathlib
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SUFFIXES = ('.jsonl', '.jsonl.gz', '.json', '.json.gz', '.parquet')

Row = tuple[str, dict[str, Any]]  # (place, columns)


def read_file(path: str | os.PathLike[str]) -> Iterator[Row]:
  """Yields (place, columns) of every row of a file.

  Args:
    path: one of `SUFFIXES`. A .json file may hold a list of objects or, as
      OpenAI's do, one object a line.

  Raises:
    FileNotFoundError: no such file.
    ValueError: an unknown ending, an empty or broken file, a row that is not a
      JSON object; names the file and the line.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'{path}: no such file; check the path')
  if not path.name.endswith(SUFFIXES):
    raise ValueError(
      f'{path}: cannot read this kind of file; use one of {", ".join(SUFFIXES)}'
    )
  rows = _parquet_rows if path.suffix == '.parquet' else _json_rows
  empty = True
  for row in rows(path):
    empty = False
    yield row
  if empty:
    raise ValueError(f'{path}: the file is empty; expected at least one row')


def need_text(row: Mapping[str, Any], key: str, place: str) -> str:
  """The text in column `key`.

  Raises:
    ValueError: the column is missing or not text; names place and key.
  """
  if key not in row:
    raise ValueError(
      f'{place}: no column {key!r}; it has {", ".join(sorted(row)) or "none"}'
    )
  if row[key] is None:
    raise ValueError(f'{place}: column {key!r} is null, it should be text')
  if not isinstance(row[key], str):
    raise ValueError(
      f'{place}: column {key!r} should be text but is {type(row[key]).__name__}'
    )
  return row[key]


def need_texts(row: Mapping[str, Any], key: str, place: str) -> dict[str, str]:
  """The object of texts in column `key`, {} if there is none.

  Raises:
    ValueError: something else is there; names place and key.
  """
  value = row.get(key) or {}
  if not isinstance(value, dict):
    raise ValueError(
      f'{place}: column {key!r} should be an object of texts but is '
      f'{type(value).__name__}'
    )
  return {name: need_text(value, name, f'{place}: {key}') for name in value}


def need_list(
  row: Mapping[str, Any], key: str, kind: type, place: str
) -> tuple:
  """The texts (`kind=str`) or numbers (`kind=float`) in column `key`.

  Raises:
    ValueError: something else is there; names place and key.
  """
  value, kinds = row[key], str if kind is str else int | float
  if not isinstance(value, list | tuple) or not all(
    isinstance(x, kinds) and not isinstance(x, bool) for x in value
  ):
    name = 'texts' if kind is str else 'numbers'
    raise ValueError(
      f'{place}: {key} should be a list of {name} but is {value!r}'
    )
  return tuple(value)


def parse_line(line: str, place: str) -> dict[str, Any]:
  """One JSON object.

  Raises:
    ValueError: not JSON, or not an object; names the place.
  """
  return _require_object(_parse(line, place), place)


def _parse(text: str, place: str) -> Any:
  """The JSON value of a text."""
  try:
    value = json.loads(text)
    # Half a surrogate pair is JSON, but no text that can be written again.
    if '\\ud' in text.lower():
      json.dumps(value, ensure_ascii=False).encode()
  except json.JSONDecodeError as error:
    raise ValueError(
      f'{place}: not valid JSON ({error.msg} at column {error.colno}); correct '
      'or remove this line'
    ) from error
  except UnicodeEncodeError as error:
    raise ValueError(
      f'{place}: has half a character ({error.object[error.start]!a}); correct '
      'or remove this line'
    ) from error
  except (ValueError, RecursionError) as error:
    raise ValueError(
      f'{place}: cannot be read ({error}); correct or remove this line'
    ) from error
  return value


def _require_object(row: Any, place: str) -> dict[str, Any]:
  if not isinstance(row, dict):
    raise ValueError(
      f'{place}: expected a JSON object with columns, got {type(row).__name__}'
    )
  return row


def _json_rows(path: pathlib.Path) -> Iterator[Row]:
  opened = gzip.open if path.suffix == '.gz' else open
  try:
    # Some editors begin a file with a byte order mark.
    with opened(path, 'rt', encoding='utf-8-sig') as file:
      if '.jsonl' not in path.suffixes and file.read(1) == '[':
        yield from _json_list(path, '[' + file.read())
        return
      file.seek(0)
      for number, line in enumerate(file, 1):
        if line.strip():
          place = f'{path}:{number}'
          yield place, parse_line(line, place)
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise ValueError(
      f'{path}: broken gzip file ({error}); was the download cut short?'
    ) from error
  except UnicodeDecodeError as error:
    raise ValueError(f'{path}: not UTF-8 text ({error})') from error


def _json_list(path: pathlib.Path, text: str) -> Iterator[Row]:
  for number, row in enumerate(_parse(text, str(path))):
    place = f'{path}: item {number}'
    yield place, _require_object(row, place)


def _parquet_rows(path: pathlib.Path) -> Iterator[Row]:
  import pyarrow
  import pyarrow.parquet

  try:
    file = pyarrow.parquet.ParquetFile(path)
  except (pyarrow.ArrowInvalid, OSError) as error:
    raise ValueError(f'{path}: not a Parquet file ({error})') from error
  with file:
    number = 0
    for batch in file.iter_batches():
      for row in batch.to_pylist():
        yield f'{path}: row {number}', row
        number += 1


# -- lines that survive a killed run -------------------------------------------


def append_lines(path: pathlib.Path, lines: Sequence[str]) -> None:
  """Adds whole lines to a file and returns when they are on disk.

  A half-written last line is removed first, with a warning.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, 'ab+') as file:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    if size and file.read(1) != b'\n':
      file.seek(0)
      whole, rest = _split_end(file.read())
      _warn_half_written(path, rest)
      file.truncate(len(whole))
      if whole and not whole.endswith(b'\n'):
        file.write(b'\n')
    file.write(''.join(lines).encode())
    file.flush()
    os.fsync(file.fileno())


def whole_lines(path: pathlib.Path) -> Iterator[tuple[str, str]]:
  """Yields (place, line) but a half-written last one, which it warns of."""
  whole, rest = _split_end(path.read_bytes())
  _warn_half_written(path, rest)
  for number, line in enumerate(whole.decode('utf-8').split('\n'), 1):
    if line.strip():
      yield f'{path}:{number}', line


def _split_end(data: bytes) -> tuple[bytes, bytes]:
  """(whole lines, half-written last line); a whole one may lack its '\\n'."""
  end = data.rfind(b'\n') + 1
  try:
    json.loads(data[end:])
  except ValueError:
    return data[:end], data[end:]
  return data, b''


def _warn_half_written(path: pathlib.Path, rest: bytes) -> None:
  if rest:
    warnings.warn(
      f'{path}: the last line is half-written ({len(rest)} bytes, as an '
      'interrupted run leaves it) and is left out',
      stacklevel=3,
    )
