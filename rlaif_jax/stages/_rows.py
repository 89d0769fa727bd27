"""Rows that a stage makes chunk by chunk and keeps on disk as it goes on."""

import json
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from rlaif_jax import sharding
from rlaif_jax.data import _files
from rlaif_jax.data.datasets import Example
from rlaif_jax.training import progress

Row = dict[str, Any]  # with an `id`


def chunk_starts(
  examples: Sequence[Example], begun: Callable[[Example], bool], chunk: int
) -> range:
  """Where the chunks begin that are not known to be done.

  Rows are written in order, chunk by chunk, so all chunks before that of the
  last example begun are done. That one is made again as a whole and what is
  missing of it written: rows then are those of an uninterrupted run to the last
  bit, which in batches of other rows they would not be.
  """
  last = max((i for i, e in enumerate(examples) if begun(e)), default=0)
  return range(last - last % chunk, len(examples), chunk)


def add_missing(
  path: pathlib.Path,
  rows: Sequence[Row],
  examples: Sequence[Example],
  chunk: int,
  make: Callable[[Sequence[tuple[int, Example]]], Iterable[Row]],
  *,
  ids_of: Callable[[Example], Sequence[str]],
  unit: str,
) -> tuple[list[Row], float, float]:
  """Makes the rows that `path` does not hold yet, and appends them.

  Args:
    path: JSON lines, in a folder of the workdir.
    rows: what it holds.
    examples: what rows are made of, in order.
    chunk: examples between two writes to disk.
    make: rows of some (number, example).
    ids_of: ids of the rows that an example gives, in order.
    unit: what rows are called, for progress.

  Returns:
    All rows; seconds; all rows over those made now, by which to multiply what
    these took, since earlier ones are taken to be alike.
  """
  sharding.wait_for_all(f'{path} is read')
  done, before = {row['id'] for row in rows}, len(rows)
  rows, start = list(rows), time.monotonic()
  bar = progress.Progress(path.parents[1].name, len(examples))
  for first in chunk_starts(examples, lambda e: ids_of(e)[0] in done, chunk):
    part = list(enumerate(examples[first : first + chunk], first))
    if all(name in done for _, e in part for name in ids_of(e)):
      continue  # the run was stopped after its last row
    new = [row for row in make(part) if row['id'] not in done]
    if jax.process_index() == 0:
      _files.append_lines(path, [line(row) for row in new])
    rows += new
    speed = (len(rows) - before) / max(time.monotonic() - start, 1e-9)
    bar.update(first + len(part), {f'perf/{unit}_per_second': speed})
  bar.close()
  share = len(rows) / max(len(rows) - before, 1)
  return rows, time.monotonic() - start, share


def line(row: Mapping[str, Any]) -> str:
  """A row as it stands in a file."""
  return json.dumps(row, ensure_ascii=False, allow_nan=False) + '\n'
