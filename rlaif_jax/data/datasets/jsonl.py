"""Your own rows, in one of three forms, told by their columns:

  prompt[, response]
  prompt, chosen, rejected
  prompt, response_1, response_2[, p_first]

`prompt` is used as it stands: the policy continues it after a space. Optional
columns: `id`, and `fields` (an object) for labeling prompts; without it,
`text` and `context` are the prompt. Other columns go into `meta`. Files end in
.jsonl, .json (also .gz) or .parquet; folders, hub ids and tfds:NAME work too.
"""

import math
from collections.abc import Mapping
from typing import Any

from rlaif_jax.data import _files
from rlaif_jax.data.datasets import Example, _sources
from rlaif_jax.data.records import chosen_first

_PAIR_FORMS = (('chosen', 'rejected'), ('response_1', 'response_2'))
_KNOWN = (
  *('id', 'prompt', 'response', 'completion', 'p_first', 'fields', 'split'),
  *(key for form in _PAIR_FORMS for key in form),
)


def load(
  path: str | None,
  split: str,
  *,
  holdout: _sources.Holdout = None,
  size: int | None = None,
  config: str | None = None,
  revision: str | None = None,
) -> list[Example]:
  """Loads the rows of one split.

  Args:
    path: file, folder, hub id or tfds:NAME; see `_sources`.
    split: 'train', 'valid', 'test', 'all' or the source's own name.
    holdout: share of the prompts to cut off as 'valid', or (valid, test).
    size: take the first `size` examples.
    config: of a hub data set with several.
    revision: of a hub data set.

  Raises:
    FileNotFoundError: nothing at the path.
    ValueError: an empty file, a missing column, identical responses, or a
      p_first that is not a number in [0, 1]; names file, row and key.
  """
  query = _sources.Query(
    path=path, split=split, holdout=holdout, config=config, revision=revision
  )
  examples = [_example(row, place) for place, row in _sources.read_rows(query)]
  return _sources.select(examples, query, lambda e: e.prompt, size)


def _example(row: Mapping[str, Any], place: str) -> Example:
  prompt = _files.need_text(row, 'prompt', place)
  response = row.get('response', row.get('completion'))
  if response is not None and not isinstance(response, str):
    raise ValueError(
      f"{place}: column 'response' should be text but is "
      f'{type(response).__name__}'
    )
  texts = _pair_texts(row, place)
  name = _sources.row_name(row, prompt, response, texts)
  pair, p_first = texts, _p_first(row, place)
  if texts and 'chosen' in row:
    first = chosen_first(name)
    pair, p_first = texts if first else texts[::-1], 1.0 if first else 0.0
  return Example(
    id=name,
    prompt=prompt,
    response=None if response is None else response.strip(),
    pair=pair,
    p_first=p_first if pair else None,
    fields=_files.need_texts(row, 'fields', place)
    or {'text': prompt, 'context': prompt},
    meta={key: value for key, value in row.items() if key not in _KNOWN},
  )


def _pair_texts(row: Mapping[str, Any], place: str) -> tuple[str, str] | None:
  """Both texts of the form that the row has, if any."""
  for form in _PAIR_FORMS:
    if any(key in row for key in form):
      pair = tuple(_files.need_text(row, key, place).strip() for key in form)
      if pair[0] == pair[1]:
        raise ValueError(
          f'{place}: {form[0]} and {form[1]} are identical, so neither can be '
          'preferred; remove this row'
        )
      return pair
  return None


def _p_first(row: Mapping[str, Any], place: str) -> float | None:
  p = row.get('p_first')
  if p is None:
    return None
  if isinstance(p, bool) or not isinstance(p, int | float):
    raise ValueError(f'{place}: p_first should be a number but is {p!r}')
  if not (math.isfinite(p) and 0 <= p <= 1):
    raise ValueError(f'{place}: p_first is {p}; expected a number in [0, 1]')
  return float(p)
