"""What people are asked: responses without their policies' names, shuffled.

The order of the items and, in each, of its responses is random. What was whose
is in the key, a file that raters do not get.
"""

import dataclasses
import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

MODES = ('pairwise', 'ranking', 'harmless')
LETTERS = 'ABCDEFGH'
REFERENCE = 'reference'  # people's own text, which can be rated like a policy
_KEY_FORMAT = 'rlaif_jax.rating key 1'


@dataclasses.dataclass(frozen=True)
class Item:
  """One thing to rate.

  Attributes:
    id: the example's.
    prompt: number of the distinct prompt; items of one prompt share it.
    policies: whose the responses are, in the order shown.
  """

  id: str
  prompt: int
  policies: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Key:
  """What was whose.

  Attributes:
    sheet: name of the page that this is of; its ratings have it too.
    mode: one of `MODES`.
    policies: all of them; A of "A against B" comes before B here.
    items: in the order of the page.
  """

  sheet: str
  mode: str
  policies: tuple[str, ...]
  items: tuple[Item, ...]


@dataclasses.dataclass(frozen=True)
class Sheet:
  """What the page shows, and its key.

  Attributes:
    key: what was whose.
    shown: (prompt, responses) of each item of the key.
  """

  key: Key
  shown: tuple[tuple[str, tuple[str, ...]], ...]


def read_samples(file: str | pathlib.Path) -> list[dict[str, Any]]:
  """Rows of an evaluation's samples: `id`, `prompt`, `responses` {name: text}.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: no rows, or one that is not such a row; names its line.
  """
  rows = []
  with pathlib.Path(file).open(encoding='utf-8', errors='replace') as lines:
    for number, line in enumerate(lines, 1):
      try:
        row = json.loads(line)
      except ValueError as error:
        raise ValueError(f'{file}:{number}: not JSON ({error})') from error
      if not isinstance(row, dict) or not (
        isinstance(row.get('prompt'), str)
        and isinstance(row.get('responses'), dict)
        and all(isinstance(t, str) for t in row['responses'].values())
      ):
        raise ValueError(
          f'{file}:{number}: needs a "prompt" and "responses" {{name: text}}, '
          'as evaluate writes them to samples.jsonl'
        )
      rows.append(row)
  if not rows:
    raise ValueError(f'{file}: no samples')
  return rows


def make(
  rows: Sequence[Mapping[str, Any]],
  mode: str = 'pairwise',
  policies: Sequence[str] = (),
  limit: int = 50,
  seed: int = 0,
) -> Sheet:
  """Chooses `limit` prompts, shuffles and blinds.

  pairwise asks of every two policies which is better, ranking orders all of
  them at once, harmless judges each response on its own (paper section 4).

  Args:
    rows: see `read_samples`.
    mode: one of `MODES`.
    policies: whose responses are shown; all of the first row where empty.
      'reference' is the reference text of the rows.
    limit: number of rows taken, at random; 0 for all.
    seed: fixes what is taken and every order.

  Raises:
    ValueError: unknown mode or policy, a policy named twice, too few or too
      many of them, or a row without a response of one; says which.
  """
  if mode not in MODES:
    raise ValueError(f'mode {mode!r}: there are {", ".join(MODES)}')
  if limit < 0:
    raise ValueError(f'limit={limit} must not be negative')
  names = tuple(policies) or tuple(rows[0]['responses'])
  _check_policies(names, mode)
  texts = [_responses(row, names, i) for i, row in enumerate(rows)]
  rng = np.random.default_rng(seed)
  taken = rng.permutation(len(rows))[: limit or None]
  number: dict[str, int] = {}
  for i in taken:
    number.setdefault(rows[i]['prompt'], len(number))
  asked = [(i, group) for i in taken for group in _groups(names, mode)]
  items, shown = [], []
  for place in rng.permutation(len(asked)):
    i, group = asked[place]
    group = [group[j] for j in rng.permutation(len(group))]
    prompt = rows[i]['prompt']
    items.append(Item(str(rows[i].get('id', i)), number[prompt], tuple(group)))
    shown.append(
      (prompt.strip(), tuple(texts[i][name].strip() for name in group))
    )
  # The name is made of what raters see, and so says nothing they do not.
  digest = hashlib.sha256(json.dumps([mode, shown]).encode()).hexdigest()
  return Sheet(Key(digest[:12], mode, names, tuple(items)), tuple(shown))


def _check_policies(names: Sequence[str], mode: str) -> None:
  if len(set(names)) < len(names):
    raise ValueError(f'a policy is named twice: {", ".join(names)}')
  least = 1 if mode == 'harmless' else 2
  if len(names) < least:
    raise ValueError(f'{mode} needs {least} policies or more, not {names}')
  if mode == 'ranking' and len(names) > len(LETTERS):
    raise ValueError(
      f'nobody ranks {len(names)} responses at once: name at most '
      f'{len(LETTERS)} policies'
    )


def _responses(
  row: Mapping[str, Any], names: Sequence[str], i: int
) -> dict[str, str]:
  found = dict(row['responses'])
  if isinstance(row.get(REFERENCE), str):
    found.setdefault(REFERENCE, row[REFERENCE])
  for name in names:
    if name not in found:
      raise ValueError(
        f'row {i + 1} of the samples has no response of {name!r}; there are: '
        f'{", ".join(found)}'
      )
  return found


def _groups(names: Sequence[str], mode: str) -> Iterator[tuple[str, ...]]:
  """The policies of each item of one prompt."""
  size = {'pairwise': 2, 'ranking': len(names), 'harmless': 1}[mode]
  return itertools.combinations(names, size)


# -- the key's file -----------------------------------------------------------


def key_text(key: Key) -> str:
  """The key as JSON."""
  return json.dumps({'format': _KEY_FORMAT, **dataclasses.asdict(key)}) + '\n'


def read_key(file: str | pathlib.Path) -> Key:
  """The key in `file`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is not a key.
  """
  try:
    value = json.loads(pathlib.Path(file).read_text(encoding='utf-8'))
    if value.pop('format') != _KEY_FORMAT:
      raise ValueError('another format')
    items = tuple(
      Item(item['id'], int(item['prompt']), tuple(item['policies']))
      for item in value.pop('items')
    )
    key = Key(**value | {'policies': tuple(value['policies']), 'items': items})
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise ValueError(
      f'{file}: not a key of this program ({error!r}); it is written beside '
      'the page, as OUT.key.json'
    ) from error
  return key
