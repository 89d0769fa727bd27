"""Shared by the tiny data sets: draws, simulated raters and clause parsing."""

import dataclasses
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar('T')
RngOrSeed = np.random.Generator | int

_WORD = re.compile(r'[^\s.,!?]+')
_CLAUSE_END = re.compile(r'[.,!?]')


def stream(seed: int, *names: str | int) -> np.random.Generator:
  """Returns the generator that `seed` and `names` stand for, on any machine."""
  keys = [n if isinstance(n, int) else zlib.crc32(n.encode()) for n in names]
  return np.random.default_rng([seed, *keys])


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
  """Draws one item, each equally likely (far faster than `rng.choice`)."""
  return items[int(rng.random() * len(items))]


def shuffled(rng: np.random.Generator, items: Iterable[T]) -> list[T]:
  """Returns the items in random order."""
  items = list(items)
  return [items[i] for i in rng.permutation(len(items))]


def other(rng: np.random.Generator, items: Sequence[str], not_this: str) -> str:
  """Draws an item that differs from `not_this`."""
  return pick(rng, [item for item in items if item != not_this])


def group(facts: Mapping[str, str]) -> str:
  """Returns who may see this combination of facts.

  A property of the facts and not of the draw, so that no seed or size can let
  a row of one group into another: 'test' for one in eight combinations,
  'labeler' for two, 'policy' for the rest.
  """
  text = ';'.join(f'{slot}={facts[slot]}' for slot in sorted(facts))
  part = zlib.crc32(text.encode()) % 8
  return 'test' if part == 0 else 'labeler' if part < 3 else 'policy'


def prefers(
  difference: float, rng: RngOrSeed, temperature: float, bias: float = 0.0
) -> bool:
  """Draws a Bradley-Terry choice: True where the first one is chosen.

  Args:
    difference: quality of the first less that of the second.
    rng: generator or seed.
    temperature: the larger, the noisier.
    bias: log-odds added in favour of the first slot.
  """
  p_first = 1.0 / (1.0 + math.exp(-(difference / temperature + bias)))
  return bool(np.random.default_rng(rng).random() < p_first)


def grade(
  quality: float,
  rng: RngOrSeed,
  *,
  low: float,
  high: float,
  noise: float,
) -> int:
  """Returns a noisy grade 1..10: `low` maps to 1 and `high` to 10."""
  exact = 1.0 + 9.0 * (quality - low) / (high - low)
  noisy = exact + noise * np.random.default_rng(rng).standard_normal()
  return int(np.clip(np.rint(noisy), 1, 10))


def words_of(text: str) -> list[str]:
  """Returns the words of any text, in lower case and without punctuation."""
  return _WORD.findall(text.lower())


def length_score(words: int, budget: int) -> float:
  """Returns 1 up to the budget, 0 from twice the budget on; 0 without words."""
  if not words:
    return 0.0
  return float(np.clip(2.0 - words / budget, 0.0, 1.0))


@dataclasses.dataclass(frozen=True)
class Clause:
  """One understood clause: form, topic of the form, slot values stated."""

  form: str
  topic: str
  values: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Parse:
  """What a grammar understands of a text.

  Attributes:
    clauses: the clauses that follow the grammar, in order.
    words: number of words of the text, 0 if it is punctuation only.
    explained: number of words in understood clauses that say something new.
    mentioned: all (slot, value) whose word occurs, understood or not.
    ended: whether the text ends with a period.
  """

  clauses: tuple[Clause, ...]
  words: int
  explained: int
  mentioned: frozenset[tuple[str, str]]
  ended: bool

  def topics(self) -> set[str]:
    """Returns the topics of all understood clauses."""
    return {clause.topic for clause in self.clauses}

  def stated(self) -> dict[str, str]:
    """Returns the slots stated by a clause and never with another value."""
    stated = dict(v for clause in self.clauses for v in clause.values)
    seen: dict[str, int] = {}
    for slot, _ in self.mentioned:
      seen[slot] = seen.get(slot, 0) + 1
    return {slot: value for slot, value in stated.items() if seen[slot] == 1}

  def coherence(self) -> float:
    """Returns the share of explained words, times 0.7 if not ended."""
    if not self.words:
      return 0.0
    return self.explained / self.words * (1.0 if self.ended else 0.7)


def accuracy(parse: Parse, truth: Mapping[str, str]) -> float:
  """Returns the share of mentioned values that are true; 0 without any."""
  if not parse.mentioned:
    return 0.0
  right = sum(truth.get(slot) == value for slot, value in parse.mentioned)
  return right / len(parse.mentioned)


class Grammar:
  """Reads texts made of clauses such as 'i feel {feeling}'.

  Args:
    values: the words of each slot; a word belongs to one slot only.
    forms: topic to its clauses, with slots in braces. Clauses on one topic
      with the same values say the same thing.
    openers: phrases that may come before a clause and add nothing.
  """

  def __init__(
    self,
    values: Mapping[str, Sequence[str]],
    forms: Mapping[str, Sequence[str]],
    openers: Iterable[str] = (),
  ):
    self._slots = {
      word: slot for slot, words in values.items() for word in words
    }
    self._topics = {
      form: topic for topic, forms in forms.items() for form in forms
    }
    self._openers = tuple(opener + ' ' for opener in openers)

  def parse(self, text: str) -> Parse:
    """Reads any text at all; what is not understood counts as unexplained.

    A stray punctuation mark counts as an unexplained word, so that trailing
    periods do not go unnoticed.
    """
    clauses, said, mentioned, explained = [], set(), set(), 0
    parts = [words_of(part) for part in _CLAUSE_END.split(text.lower())]
    words = sum(len(part) for part in parts)
    words += sum(not part for part in parts[:-1]) if words else 0
    for part_words in parts:
      values = tuple(
        (self._slots[word], word) for word in part_words if word in self._slots
      )
      mentioned.update(values)
      form = self._form(part_words)
      topic = self._topics.get(form)
      if topic is None:
        continue
      meaning = (topic, values) if values else form
      clauses.append(Clause(form, topic, values))
      explained += 0 if meaning in said else len(part_words)
      said.add(meaning)
    ended = text.rstrip().endswith('.')
    return Parse(tuple(clauses), words, explained, frozenset(mentioned), ended)

  def _form(self, words: Sequence[str]) -> str:
    """Returns the clause with values replaced by slots, without its opener."""
    form = ' '.join(
      f'{{{self._slots[word]}}}' if word in self._slots else word
      for word in words
    )
    for opener in self._openers:
      if form.startswith(opener):
        return form.removeprefix(opener)
    return form


def check_arguments(
  name: str, path: str | None, split: str, splits: Iterable[str]
) -> None:
  """Raises ValueError for a split that does not exist or a needless path."""
  if split not in splits:
    raise ValueError(
      f'{name} has no split {split!r}; choose one of {", ".join(splits)}.'
    )
  if path:
    raise ValueError(
      f'{name} is generated and reads no file, but the path is {path!r}; '
      'leave the path empty.'
    )


def write_clauses(
  clauses: Sequence[str],
  rng: np.random.Generator,
  *,
  openers: Sequence[str],
  wordy: float,
  truncated: float,
  shuffled_words: float,
) -> str:
  """Joins clauses into a text, spoiling it with the given probabilities."""
  clauses = list(clauses)
  if rng.random() < shuffled_words:
    spoiled = int(rng.random() * len(clauses))
    clauses[spoiled] = ' '.join(shuffled(rng, clauses[spoiled].split()))
  if rng.random() < wordy:
    spoiled = int(rng.random() * len(clauses))
    clauses[spoiled] = f'{pick(rng, openers)} {clauses[spoiled]}'
  separator = '. ' if rng.random() < 0.3 else ', '
  if rng.random() < truncated:
    cut = clauses[-1].split()
    clauses[-1] = ' '.join(cut[: max(1, len(cut) // 2)])
    return separator.join(clauses)
  return separator.join(clauses) + '.'
