"""Data sets: one file each, found by its name.

A data set file holds `load(path, split, **options) -> list[Example]`. Files
whose name starts with an underscore are helpers, not data sets.
"""

import dataclasses
import importlib
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Example:
  """One row of any data set; a field the data set lacks stays None.

  Attributes:
    id: name of the row, unique within its data set and split.
    prompt: the text that the policy continues. The policy sees
      `prompt + ' ' + response` and an end-of-sequence token.
    response: a reference answer, without leading space.
    pair: two answers to compare, without leading space.
    p_first: probability in [0, 1] that `pair[0]` is the better one.
    fields: what the labeling templates fill in: `text` for summarization,
      `context` for dialogue.
    meta: anything else that the data set knows about the row.
    separator: what stands between prompt and response.
  """

  id: str
  prompt: str
  response: str | None = None
  pair: tuple[str, str] | None = None
  p_first: float | None = None
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
  meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  separator: str = ' '


def names() -> list[str]:
  """Returns the names of the data sets that `load_dataset` finds."""
  files = pathlib.Path(__file__).parent.glob('*.py')
  return sorted(f.stem for f in files if not f.stem.startswith('_'))


def load_dataset(
  name: str, path: str | None, split: str, **options: Any
) -> list[Example]:
  """Loads one split of the data set in the file `<name>.py`.

  Args:
    name: file name without its ending, such as 'tldr' or 'tiny_tldr'.
    path: local file or folder, or a hub id; None where the data set needs none.
    split: such as 'train' or 'test'; each data set says what it has.
    **options: passed on to the data set.

  Raises:
    ValueError: no such data set; the message lists those there are.
  """
  return load_module(name).load(path, split, **options)


def take_side(examples: Sequence[Example], side: str) -> list[Example]:
  """Examples whose response is the 'chosen' or the 'rejected' one of the pair.

  Those without a pair, or without a choice, are left out.

  Raises:
    ValueError: another side, or no example is left.
  """
  if side not in ('chosen', 'rejected'):
    raise ValueError(f"side={side!r}; use 'chosen' or 'rejected'")
  found = [
    dataclasses.replace(
      e, response=e.pair[int((e.p_first > 0.5) != (side == 'chosen'))]
    )
    for e in examples
    if e.pair is not None and e.p_first not in (None, 0.5)
  ]
  if not found:
    raise ValueError(f'side={side!r}: no example has a pair with a choice')
  return found


def load_module(name: str) -> types.ModuleType:
  """Imports the file of a data set.

  Raises:
    ValueError: no such data set; the message lists those there are.
  """
  if name not in names():
    raise ValueError(
      f'No data set named {name!r}. Known are: {", ".join(names())}. Set '
      'the data set name in the config to one of them.'
    )
  return importlib.import_module(f'{__name__}.{name}')
