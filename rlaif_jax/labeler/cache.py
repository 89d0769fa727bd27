"""Answers of a labeler, kept on disk, so that nothing is asked twice.

One JSON object a line, {"key": ..., "logprobs": [...]} or {"key": ...,
"text": ...}. The key is a hash of who answers, what was asked and how; nothing
else of a question is stored. Log-probs come back as the very float32 they were.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from rlaif_jax.data import _files
from rlaif_jax.data.records import stable_hash
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.labeler import Counters, Labeler

Value = tuple[float, ...] | str  # log-probs of labels, or a text


@dataclasses.dataclass
class CacheCounters:
  """Texts that were answered from the cache, and that the labeler was asked."""

  hits: int = 0
  misses: int = 0


class CachedLabeler:
  """A labeler that remembers, in a file, what it has answered.

  With several processes each reads the file once, here, and all make the same
  calls, so that all ask the labeler for the same rows; process 0 writes. One
  run at a time may use a file.

  Attributes:
    inner: who answers what the cache does not hold.
    path: the file; made by the first answer.
    cache_counters: hits and misses. A question that repeats within one call is
      asked once, and its repetitions are hits.

  Raises:
    ValueError: the file is no such cache, or the processes read different ones.
  """

  def __init__(self, inner: Labeler, path: str | os.PathLike[str]):
    self.inner = inner
    self.path = pathlib.Path(path)
    self.cache_counters = CacheCounters()
    self._values = _read(self.path)
    _require_same(self._values, self.path)

  @property
  def limit(self) -> int:
    """Tokens that a prompt may have."""
    return self.inner.limit

  @property
  def counters(self) -> Counters:
    """Work that the labeler itself has done; hits are none."""
    return self.inner.counters

  @property
  def identity(self) -> str:
    """Who answers: the labeler itself."""
    return self.inner.identity

  def fits(self, text: str, room: int = 0) -> bool:
    """Whether `text` leaves `room` tokens free."""
    return self.inner.fits(text, room)

  def score_texts(
    self,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    ids: Sequence[str] | None = None,
  ) -> np.ndarray:
    """Log-prob of each label right after each text, [n, N] float32.

    As the labeler itself; it is asked at most once, for what is new, in order.
    """
    labels, ids = list(labels), _names(texts, ids)
    who = self.identity
    keys = [stable_hash(['score', who, text, labels]) for text in texts]

    def ask(rows: list[int]) -> list[Value]:
      scores = self.inner.score_texts(
        [texts[i] for i in rows], labels, ids=[ids[i] for i in rows]
      )
      return [tuple(row) for row in np.asarray(scores, np.float32).tolist()]

    values = self._answer(keys, ask)
    return np.array(values, np.float32).reshape(len(texts), len(labels))

  def write(
    self,
    texts: Sequence[str],
    *,
    max_tokens: int,
    sampling: SamplingConfig,
    seed: int = 0,
    ids: Sequence[str] | None = None,
  ) -> list[str]:
    """One continuation of each text, as the labeler itself.

    The seed and the ids are part of the question, for greedy texts as well.
    """
    ids = _names(texts, ids)
    options = [max_tokens, sampling, seed]
    who = self.identity
    keys = [
      stable_hash(['write', who, text, options, name])
      for text, name in zip(texts, ids, strict=True)
    ]

    def ask(rows: list[int]) -> list[Value]:
      return self.inner.write(
        [texts[i] for i in rows],
        max_tokens=max_tokens,
        sampling=sampling,
        seed=seed,
        ids=[ids[i] for i in rows],
      )

    return self._answer(keys, ask)

  def _answer(
    self, keys: Sequence[str], ask: Callable[[list[int]], list[Value]]
  ) -> list[Any]:
    """The value of each key; `ask` gets the rows that need one."""
    new = {}
    for row, key in enumerate(keys):
      if key not in self._values:
        new.setdefault(key, row)
    if new:
      found = dict(zip(new, ask(list(new.values())), strict=True))
      if jax.process_index() == 0:
        _files.append_lines(
          self.path, [_to_line(*item) for item in found.items()]
        )
      self._values.update(found)
    self.cache_counters.misses += len(new)
    self.cache_counters.hits += len(keys) - len(new)
    return [self._values[key] for key in keys]


def _names(texts: Sequence[str], ids: Sequence[str] | None) -> list[str]:
  """Names of all rows, since the labeler sees some and would count from 0."""
  return [f'row {i}' for i in range(len(texts))] if ids is None else list(ids)


def _to_line(key: str, value: Value) -> str:
  kind = 'text' if isinstance(value, str) else 'logprobs'
  return json.dumps({'key': key, kind: value}, ensure_ascii=False) + '\n'


def _read(path: pathlib.Path) -> dict[str, Value]:
  """Values by key; a half-written last line is left out with a warning."""
  values: dict[str, Value] = {}
  if not path.is_file():
    return values
  for place, line in _files.whole_lines(path):
    row = _files.parse_line(line, place)
    key = _files.need_text(row, 'key', place)
    if 'logprobs' in row:
      values[key] = _files.need_list(row, 'logprobs', float, place)
    else:
      values[key] = _files.need_text(row, 'text', place)
  return values


def _require_same(values: dict[str, Value], path: pathlib.Path) -> None:
  """Raises ValueError unless all processes hold the same values.

  Otherwise they would ask the labeler for different rows, and wait for ever.
  """
  if jax.process_count() == 1:
    return
  text = json.dumps(sorted(values.items()))
  digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
  digests = np.asarray(multihost_utils.process_allgather(digest))
  different = np.flatnonzero((digests != digests[:1]).any(axis=1))
  if len(different):
    raise ValueError(
      f'{path}: processes {different.tolist()} read another cache here than '
      'process 0; put it where all hosts see the same file, or remove it'
    )
