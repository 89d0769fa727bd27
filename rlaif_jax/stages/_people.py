"""People as the judge of an evaluation: the ratings of its rating page."""

from collections.abc import Iterator, Sequence

import numpy as np
from ml_collections import ConfigDict

from rlaif_jax.data.datasets import Example
from rlaif_jax.rating import numbers, results, sheet


def load(
  block: ConfigDict, policies: Sequence[str]
) -> tuple[sheet.Key, list[results.Ratings]]:
  """The key and the ratings that a judge block names.

  Raises:
    FileNotFoundError: one of the files is not there.
    ValueError: no files, one that is none of this page, or nobody was asked
      about one of the policies.
  """
  if not block.ratings:
    raise ValueError(
      'config.judge.ratings is empty: name the files that raters saved'
    )
  key = sheet.read_key(block.path)
  unknown = sorted(set(policies) - set(key.policies))
  if unknown and key.mode == 'harmless':
    raise ValueError(
      f'{block.path}: nobody was asked about policy {unknown[0]!r}; there '
      f'are: {", ".join(key.policies)}'
    )
  return key, results.read_all(block.ratings, key)


def verdicts(
  block: ConfigDict, examples: Sequence[Example], policies: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[tuple[str, str], np.ndarray]]:
  """(scores of policies [n], preferences between two [n]): means over raters.

  Harmless ratings are scores; pairs and rankings are preferences. Rows that
  nobody rated are NaN; prompts that were not on the page are such rows.

  Raises:
    ValueError: no rating is of these policies and prompts; and see `load`.
  """
  key, ratings = load(block, policies)
  place = {example.id: i for i, example in enumerate(examples)}
  said: dict[tuple, dict[int, list[float]]] = {}
  for names, item, value in _said(key, ratings):
    if item in place:
      rows = said.setdefault(names, {})
      rows.setdefault(place[item], []).append(value)
  scores, preferred = {}, {}
  for names, rows in said.items():
    values = np.full(len(examples), np.nan)
    for i, given in rows.items():
      values[i] = np.mean(given)
    if len(names) == 1:
      scores[names[0]] = values
    elif set(names) <= set(policies):
      preferred[names] = values
  if not (scores or preferred):
    raise ValueError(
      f'{block.path}: no rating is of these policies and prompts'
    )
  return scores, preferred


def _said(key, ratings) -> Iterator[tuple[tuple[str, ...], str, float]]:
  """(policies, id of the example, value) of each rating."""
  if key.mode == 'harmless':
    for rater in ratings:
      for item, value in rater.values.items():
        yield key.items[item].policies, key.items[item].id, float(value[0])
    return
  for a, b, preferred, item in numbers.compared(key, ratings):
    names = key.policies[a], key.policies[b]
    yield names, key.items[item].id, preferred
