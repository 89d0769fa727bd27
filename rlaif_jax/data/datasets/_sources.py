"""Where rows come from: local files, the hub, TFDS; and how they are split.

A path is, in this order: a local file, a local folder, 'tfds:NAME' (or
'tfds:FOLDER' of a prepared one), or a hub id 'org/name'.
"""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import logging

from rlaif_jax.data import _files
from rlaif_jax.data._files import Row
from rlaif_jax.data.datasets import Example
from rlaif_jax.data.records import stable_hash

# What a split is called in file names, on the hub and in TFDS.
_ALIASES = {
  'train': ('train', 'training'),
  'valid': ('valid', 'validation', 'val', 'dev', 'valid1', 'valid2'),
  'test': ('test',),
}

Holdout = float | Sequence[float] | None


@dataclasses.dataclass(frozen=True)
class Query:
  """Which rows of a path are meant.

  Attributes:
    path: see the module docstring.
    split: 'train', 'valid', 'test', 'all', or the source's own name for it.
    holdout: share of the prompts to cut off the training rows as 'valid', or
      the shares (valid, test); None = the source's own splits.
    contains: words that a file's path must have, such as 'harmless-base'.
    accepts: whether a file with these columns will do, where several match.
    config: of the hub data set, where it has several.
    data_dir: folder within the hub data set.
    revision: of the hub data set.
  """

  path: str
  split: str
  holdout: Holdout = None
  contains: tuple[str, ...] = ()
  accepts: Callable[[Mapping[str, Any]], bool] | None = None
  config: str | None = None
  data_dir: str | None = None
  revision: str | None = None


def read_rows(query: Query) -> Iterator[Row]:
  """Yields (place, columns) of the rows that a query means.

  With `holdout`, yields all rows that it divides: `select` does the rest.

  Raises:
    FileNotFoundError: nothing at the path.
    ValueError: no such split, several files that could be meant, a broken
      file.
  """
  path = query.path
  if not path:
    raise ValueError(
      'this data set needs a path: a file, a folder, a hub id or tfds:NAME'
    )
  local = pathlib.Path(path).expanduser()
  if path.startswith('tfds:'):
    return _tfds_rows(query, path.removeprefix('tfds:'))
  if local.is_file():
    _check_single(local, query)
    return _files.read_file(local)
  if local.is_dir():
    return _folder_rows(local, query)
  if re.fullmatch(r'[\w.-]+/[\w.-]+', path) and path[0] not in './':
    return _hub_rows(query)
  raise FileNotFoundError(
    f'{path}: no such file or folder (nor is it a hub id org/name or tfds:NAME)'
  )


def is_local(path: str | None) -> bool:
  """Whether the path is a file or folder on this machine."""
  return bool(path) and pathlib.Path(path).expanduser().exists()


def row_name(row: Mapping[str, Any], *texts: Any) -> str:
  """The row's own `id`, else a hash of its texts."""
  return str(row['id']) if row.get('id') is not None else stable_hash(texts)


def select(
  examples: Sequence[Example],
  query: Query,
  group: Callable[[Example], str],
  size: int | None = None,
) -> list[Example]:
  """Examples of the query's split, with unique ids, the first `size`.

  With `holdout`, rows go to a split by a hash of `group(example)`, the same in
  every run: all rows of one prompt land together, so nothing leaks.

  Raises:
    ValueError: no such split of a holdout, or no example in it.
  """
  if query.holdout is not None:
    low, high = _holdout_range(query)
    examples = [e for e in examples if low <= _position(group(e)) < high]
  if not examples:
    raise ValueError(f'{query.path}: no row for split {query.split!r}')
  seen: collections.Counter[str] = collections.Counter()
  result = []
  for example in examples[:size] if size else examples:
    seen[example.id] += 1
    if seen[example.id] > 1:
      name = f'{example.id}-{seen[example.id]}'
      example = dataclasses.replace(example, id=name)
    result.append(example)
  return result


def log_skipped(path: str, skipped: Mapping[str, int]) -> None:
  """Says how many rows were left out, and why."""
  for reason, count in skipped.items():
    logging.warning('%s: %d rows left out: %s', path, count, reason)


# -- splits ------------------------------------------------------------------


def _position(text: str) -> float:
  """Hash of a text as a number in [0, 1)."""
  return int(stable_hash(['holdout', text]), 16) / 16**16


def _holdout_range(query: Query) -> tuple[float, float]:
  shares = query.holdout
  shares = (shares,) if isinstance(shares, int | float | str) else tuple(shares)
  numbers = all(isinstance(x, int | float) and x > 0 for x in shares)
  if len(shares) not in (1, 2) or not numbers or sum(shares) > 1:
    raise ValueError(
      f'holdout={query.holdout!r}: give one share or (valid, test), each above '
      '0 and together at most 1'
    )
  valid, test = (*shares, 0.0)[:2]
  ranges = {
    'all': (0.0, 1.0),
    'valid': (0.0, valid),
    'test': (valid, valid + test),
    'train': (valid + test, 1.0),
  }
  if query.split not in ranges:
    raise ValueError(
      f'split {query.split!r}: with holdout, splits are '
      f'{", ".join(sorted(ranges))}'
    )
  return ranges[query.split]


def _source_split(query: Query) -> str:
  """The split to read: a holdout divides the training rows."""
  return 'train' if query.holdout is not None else query.split


def _names(split: str) -> tuple[str, ...]:
  return _ALIASES.get(split, (split,))


def _words(text: str) -> set[str]:
  return set(re.split(r'[^a-z0-9]+', text.lower()))


def _check_single(file: pathlib.Path, query: Query) -> None:
  """A lone file is the training rows, unless its name says otherwise.

  Raises:
    ValueError: another split is asked of it, which would be the same rows.
  """
  if query.holdout is not None or query.split in ('train', 'all'):
    return
  if not _words(file.name) & set(_names(query.split)):
    raise ValueError(
      f'{file}: one file has no split {query.split!r}. Set holdout=0.1 to cut '
      "one off by a hash of the prompt, split='all' to take every row, or give "
      f'a file with {query.split!r} in its name'
    )


# -- folders -----------------------------------------------------------------


def _folder_rows(folder: pathlib.Path, query: Query) -> Iterator[Row]:
  files = [
    f
    for f in sorted(folder.rglob('*'))
    if f.name.endswith(_files.SUFFIXES)
    and all(_has(f.relative_to(folder), part) for part in query.contains)
  ]
  if not files:
    kind = f' with {" and ".join(query.contains)}' if query.contains else ''
    raise FileNotFoundError(
      f'{folder}: no data file{kind} here ({", ".join(_files.SUFFIXES)})'
    )
  split = _source_split(query)
  named = {f: _words(str(f.relative_to(folder))) for f in files}
  marks = {alias for aliases in _ALIASES.values() for alias in aliases}
  if split == 'all' or not any(words & marks for words in named.values()):
    return _unnamed_rows(_accepted(files, query), query, split)
  matching = [f for f in files if named[f] & set(_names(split))]
  matching = _one_source(_accepted(matching, query), folder, query)
  if not matching and query.holdout is not None:
    matching = _one_source(_accepted(files, query), folder, query)
  if not matching:
    raise ValueError(
      f'{folder}: no file for split {query.split!r} among '
      f'{", ".join(f.name for f in files)}. Give the file itself as path, or '
      'set holdout=0.1 to cut splits by a hash of the prompt'
    )
  return _chain(matching)


def _has(path: pathlib.Path, part: str) -> bool:
  return re.sub(r'[-_]', '', part) in re.sub(r'[-_]', '', str(path))


def _accepted(files, query: Query) -> list[pathlib.Path]:
  if query.accepts is None:
    return files
  return [f for f in files if query.accepts(next(_files.read_file(f))[1])]


def _one_source(files, folder: pathlib.Path, query: Query):
  """The files if they are shards of one, else an error that lists them."""
  shardless = {re.sub(r'-\d+-of-\d+', '', f.name) for f in files}
  if len(shardless) > 1 or len({f.parent for f in files}) > 1:
    raise ValueError(
      f'{folder}: several files could be split {query.split!r}: '
      f'{", ".join(str(f.relative_to(folder)) for f in files)}. Give one of '
      'them as path, or choose by an option such as kind or subset'
    )
  return files


def _unnamed_rows(files, query: Query, split: str) -> Iterator[Row]:
  """Rows of files without split names; a column `split` may tell them apart."""
  for place, row in _chain(files):
    of = row.get('split')
    if of is None and split not in ('train', 'all'):
      raise ValueError(
        f'{place}: neither file names nor a column tell which rows are '
        f'{query.split!r}; set holdout=0.1 to cut one off'
      )
    if split == 'all' or of is None or of in _names(split):
      yield place, row


def _chain(files) -> Iterator[Row]:
  for file in files:
    yield from _files.read_file(file)


# -- hub and TFDS ------------------------------------------------------------


def _own_name(split: str, known: Sequence[str], path: str) -> str:
  """What the source itself calls a split."""
  for name in _names(split):
    if name in known:
      return name
  raise ValueError(
    f'{path}: has no split {split!r}; it has {", ".join(sorted(known))}'
  )


def _first_line(error: Exception) -> str:
  text = str(error).strip() or 'no message'
  return f'{type(error).__name__}: {text.splitlines()[0]}'


def _hub_rows(query: Query) -> Iterator[Row]:
  import datasets

  path, extra = query.path, {'revision': query.revision}
  if query.data_dir is not None:
    extra['data_dir'] = query.data_dir
  try:
    known = datasets.get_dataset_split_names(path, query.config, **extra)
    split = _source_split(query)
    name = '+'.join(known) if split == 'all' else _own_name(split, known, path)
    rows = datasets.load_dataset(path, query.config, split=name, **extra)
  except (OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
    raise FileNotFoundError(
      f'{path}: not a local file or folder, and the hub did not give it '
      f'({_first_line(error)}). Check the '
      'spelling and the network, or download the files and give their folder'
    ) from error
  for number, row in enumerate(rows):
    yield f'{path}[{name}]: row {number}', row


def _tfds_rows(query: Query, name: str) -> Iterator[Row]:
  import tensorflow_datasets as tfds

  folder = pathlib.Path(name).expanduser()
  try:
    if folder.is_dir():
      builder = tfds.builder_from_directory(folder)
    else:
      builder = tfds.builder(name, file_format='array_record')
      builder.download_and_prepare()
  except (tfds.core.DatasetNotFoundError, FileNotFoundError, OSError) as error:
    raise FileNotFoundError(
      f'tfds:{name}: TFDS has no such data set, or could not fetch it '
      f'({_first_line(error)})'
    ) from error
  known = list(builder.info.splits)
  split = _source_split(query)
  own = '+'.join(known) if split == 'all' else _own_name(split, known, name)
  try:
    source = builder.as_data_source(split=own)
  except NotImplementedError as error:
    raise ValueError(
      f"tfds:{name}: prepare it with file_format='array_record', the form with "
      'random access'
    ) from error
  for number in range(len(source)):
    yield f'tfds:{name}[{own}]: row {number}', _decoded(source[number])


def _decoded(value: Any) -> Any:
  """TFDS features as plain Python: bytes become text."""
  if isinstance(value, bytes):
    return value.decode('utf-8')
  if isinstance(value, Mapping):
    return {key: _decoded(item) for key, item in value.items()}
  if hasattr(value, 'tolist'):
    return _decoded(value.tolist())
  if isinstance(value, list | tuple):
    return [_decoded(item) for item in value]
  return value
