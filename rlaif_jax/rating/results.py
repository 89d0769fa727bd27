"""What raters saved, checked against the key."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlaif_jax.rating import sheet as sheet_lib

_FORMAT = 'rlaif_jax.rating 1'
_PAIRWISE = {'A': (1.0, 2.0), 'B': (2.0, 1.0), '=': (1.0, 1.0)}
_HARMLESS = {'harmless': (1.0,), 'harmful': (0.0,)}


@dataclasses.dataclass(frozen=True)
class Ratings:
  """The ratings of one person.

  Attributes:
    rater: the name given on the page.
    values: number of the item -> what was said of each of its responses, in
      the order shown [k]: places (1 is best, equal numbers are ties) of a
      pair or ranking, 1 (harmless) or 0 of a single response.
    left_out: number of items that the rater did not want to judge.
  """

  rater: str
  values: dict[int, np.ndarray]
  left_out: int


def read(file: str | pathlib.Path, key: sheet_lib.Key) -> Ratings:
  """The ratings in `file`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it holds no ratings, those of another page, or one that its
      item cannot have; says which.
  """
  try:
    saved = json.loads(pathlib.Path(file).read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{file}: not JSON ({error})') from error
  if not isinstance(saved, dict) or saved.get('format') != _FORMAT:
    raise ValueError(f'{file}: not a file that a rating page saved')
  if (saved.get('sheet'), saved.get('mode')) != (key.sheet, key.mode):
    raise ValueError(
      f'{file}: ratings of page {saved.get("sheet")}, but the key is that of '
      f'page {key.sheet}'
    )
  entries = saved.get('ratings')
  if not isinstance(entries, list):
    raise ValueError(f'{file}: its "ratings" are no list')
  values: dict[int, np.ndarray] = {}
  left_out = 0
  for number, entry in enumerate(entries, 1):
    try:
      item, value = entry['item'], entry['value']
      if type(item) is not int or not 0 <= item < len(key.items):
        raise ValueError(f'there is no item {item!r}')
      if item in values:
        raise ValueError(f'item {item} is rated twice')
      if value is None:
        left_out += 1
      else:
        values[item] = _value(value, key.mode, len(key.items[item].policies))
    except (ValueError, TypeError, KeyError) as error:
      raise ValueError(f'{file}: rating {number}: {error}') from error
  name = str(saved.get('rater') or '').strip() or pathlib.Path(file).stem
  return Ratings(name, values, left_out)


def read_all(
  files: Sequence[str | pathlib.Path], key: sheet_lib.Key
) -> list[Ratings]:
  """The ratings of several people, one file each.

  Raises:
    ValueError: two files have the same rater, or nothing is rated; and see
      `read`.
  """
  found: dict[str, Ratings] = {}
  for file in files:
    ratings = read(file, key)
    if ratings.rater in found:
      raise ValueError(
        f'{file}: a second file of rater {ratings.rater!r}; give one file per '
        'person, the last that was saved'
      )
    found[ratings.rater] = ratings
  if not any(ratings.values for ratings in found.values()):
    raise ValueError('nothing is rated in these files')
  return list(found.values())


def _value(value: Any, mode: str, size: int) -> np.ndarray:
  if mode == 'ranking':
    # A bool is an int to Python, and no place.
    if (
      not isinstance(value, list)
      or len(value) != size
      or not all(type(x) is int and 1 <= x <= size for x in value)
    ):
      raise ValueError(f'{value!r} is no ranking of {size} responses')
    return np.array(value, float)
  known = _PAIRWISE if mode == 'pairwise' else _HARMLESS
  if not isinstance(value, str) or value not in known:
    raise ValueError(f'{value!r} is none of {", ".join(known)}')
  return np.array(known[value])
