"""AI feedback: a language model that answers labeling prompts."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rlaif_jax import sharding
from rlaif_jax.core import types
from rlaif_jax.data import transforms
from rlaif_jax.data.tokenizer import Tokenizer
from rlaif_jax.inference import packing, score
from rlaif_jax.labeler.prompts import LabelPrompt
from rlaif_jax.models import LanguageModel

_LABEL_ROOM = 8  # positions that stay free for the tokens of a label
_prefill = jax.jit(score.prefill, static_argnums=0)
_label_logprobs = jax.jit(score.label_logprobs, static_argnums=(0, 3))


@dataclasses.dataclass
class Counters:
  """What a labeler has done so far."""

  texts: int = 0
  tokens: int = 0  # of prompts, without padding
  seconds: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Labeler:
  """A model with its tokenizer, on the mesh that is set when it is called.

  Attributes:
    model: the language model.
    params: its parameters.
    tokenizer: its tokenizer.
    max_tokens: of a prompt; the paper's labeler reads 4096.
    batch_size: texts in one forward pass, the last batch filled up.
    buckets: lengths that what texts share, and what follows it, are padded to,
      each compiled once; default `transforms.power_buckets` from 32.
    counters: work done so far.
  """

  model: LanguageModel
  params: types.Params = dataclasses.field(repr=False)
  tokenizer: Tokenizer
  max_tokens: int = 4096
  batch_size: int = 64
  buckets: tuple[int, ...] = ()
  counters: Counters = dataclasses.field(default_factory=Counters)

  @property
  def limit(self) -> int:
    """Tokens that a prompt may have: `max_tokens`, or what the model reads."""
    return min(
      self.max_tokens,
      self.model.config.max_positions - _LABEL_ROOM,
      max(self.buckets, default=self.max_tokens),
    )

  def fits(self, text: str) -> bool:
    """Whether a prompt is within `limit`."""
    # No vocabulary has more tokens than ASCII letters, BOS and a mark aside.
    if text.isascii() and len(text) + _LABEL_ROOM <= self.limit:
      return True
    return len(self.tokenizer.encode(text)) <= self.limit

  def check_prompt(self, prompt: LabelPrompt) -> None:
    """Raises ValueError for a prompt that this labeler cannot answer."""
    if prompt.chain_of_thought is not None:
      raise ValueError(
        f'labeling prompt {prompt.name!r} asks for a rationale first, which '
        'is not decoded here; choose one without chain_of_thought'
      )

  def score_texts(
    self,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    ids: Sequence[str] | None = None,
  ) -> np.ndarray:
    """Log-probability of each label string right after each text.

    Tokens that all texts begin with are read once, and those that two texts
    go on with (the post of a pair, shown in both orders) once for the two.
    Texts go in batches of similar length, each split over the mesh that is
    set. With several processes all pass the same texts and get all results;
    each feeds its share of every batch.

    Args:
      texts: n prompts, each at most `limit` tokens.
      labels: N strings.
      ids: names of the rows, for messages; default 'row 0', 'row 1', ...

    Returns:
      [n, N] float32 in the order of `texts`, not renormalised.

    Raises:
      ValueError: a prompt is too long, a label cannot be told apart, or a
        log-prob is not finite; names the row.
    """
    if ids is None:
      ids = [f'row {i}' for i in range(len(texts))]
    start = time.monotonic()
    rows, groups = self._encode(texts, tuple(labels), ids)
    result = np.zeros((len(texts), len(labels)), np.float32)
    waiting = None
    for batch in self._batches(rows, groups):
      # One batch runs while the one before it is read.
      running = self._run(rows, *batch)
      _read(result, waiting)
      waiting = running
    _read(result, waiting)
    _check_finite(result, labels, ids)
    self.counters.texts += len(texts)
    self.counters.tokens += sum(map(len, rows))
    self.counters.seconds += time.monotonic() - start
    return result

  def _encode(
    self, texts: Sequence[str], labels: tuple[str, ...], ids: Sequence[str]
  ) -> tuple[list[list[int]], dict[Any, list[int]]]:
    """(ids of each row up to its labels, rows by the tokens of the labels).

    The boundary is found on the last line of a text, once for all texts that
    end in the same line, and checked on each whole text with one label; a
    text where it differs gets its own.
    """
    encode = self.tokenizer.encode
    alone = self.tokenizer.encode_batch(texts)
    joint = self.tokenizer.encode_batch([text + labels[0] for text in texts])
    by_ending: dict[str, score.LabelTokens] = {}
    rows, groups = [], {}
    for i, text in enumerate(texts):
      ending = text.rpartition('\n')[2]
      if ending and ending not in by_ending:
        by_ending[ending] = score.labels_to_tokens(encode, ending, labels)
      found = by_ending.get(ending)
      if found is None or joint[i] != _joined(alone[i], found):
        found = score.labels_to_tokens(encode, text, labels)
      row = alone[i][: len(alone[i]) - found.drop]
      if len(row) > self.limit:
        raise ValueError(
          f'{ids[i]}: its prompt has {len(row)} tokens, the labeler reads at '
          f'most {self.limit}; shorten it or raise max_tokens'
        )
      rows.append(row)
      groups.setdefault(found.tokens, []).append(i)
    return rows, groups

  def _batches(self, rows, groups):
    """Yields (trees, prefix length, prefix, label tokens): longest first."""
    for label_tokens, members in groups.items():
      for start, same in packing.clusters(rows, members, self.batch_size):
        prefix = self._prefix(rows[same[0]][:start])
        trees = packing.trees(rows, same, start, self._lengths()[-1])
        trees.sort(key=lambda t: -packing.tree_length(rows, t, start))
        for size in sorted({len(tree.members) for tree in trees}):
          alike = [tree for tree in trees if len(tree.members) == size]
          count = self._count(size)
          for at in range(0, len(alike), count):
            part = alike[at : at + count]
            filled = part + part[-1:] * (count - len(part))
            yield filled, start, prefix, label_tokens

  def _prefix(self, ids: list[int]) -> types.Cache | None:
    """Keys and values of what a cluster of texts begins with."""
    if not ids:
      return None
    batch = transforms.left_pad([ids], self._lengths(), self.tokenizer.pad_id)
    mesh = jax.sharding.get_mesh()
    if not mesh.empty:
      batch = sharding.replicate(batch, mesh)
    return _prefill(self.model, self.params, *batch)

  def _run(self, rows, trees, start, prefix, label_tokens) -> tuple[Any, Any]:
    """Starts one forward pass: (row numbers, log-probs) of the batch."""
    room = len(trees[0].members) * score.label_room(label_tokens)
    longest = packing.tree_length(rows, trees[0], start) + room
    lengths = self._lengths()
    length = transforms.bucket_length(longest, (*lengths, lengths[-1] + room))
    mesh = jax.sharding.get_mesh()
    processes = 1 if mesh.empty else jax.process_count()
    share = trees[jax.process_index() % processes :: processes]
    batch = packing.pack(
      rows, share, start, label_tokens, length, self.tokenizer.pad_id
    )
    numbers = np.array([tree.members for tree in share], np.int32)
    if not mesh.empty:
      numbers, batch = sharding.shard_batch((numbers, batch), mesh)
    return numbers, _label_logprobs(
      self.model, self.params, batch, label_tokens, prefix
    )

  def _count(self, size: int) -> int:
    """Trees of `size` texts in one batch; they must divide over the mesh."""
    mesh = jax.sharding.get_mesh()
    if size == 1 or mesh.empty:
      return -(-self.batch_size // size)
    parts = mesh.shape['data'] * mesh.shape['fsdp']
    return -(-self.batch_size // (size * parts)) * parts

  def _lengths(self) -> tuple[int, ...]:
    return self.buckets or transforms.power_buckets(self.limit, 32)


def _read(result: np.ndarray, output: tuple[Any, Any] | None) -> None:
  """Waits for one batch and files its rows; those that repeat are equal."""
  if output is not None:
    # By number, since the mesh may hold the processes' rows in any order.
    numbers, logprobs = sharding.to_host(output)
    result[numbers] = logprobs


def _joined(prompt: list[int], found: score.LabelTokens) -> list[int]:
  """What a prompt and its first label encode to, if `found` is right."""
  return [*prompt[: len(prompt) - found.drop], *found.tokens[0]]


def _check_finite(
  logprobs: np.ndarray, labels: Sequence[str], ids: Sequence[str]
) -> None:
  wrong = np.argwhere(~np.isfinite(logprobs))
  if len(wrong):
    row, label = wrong[0]
    raise ValueError(
      f'{ids[row]}: the labeler gave {logprobs[row, label]} as log-prob of '
      f'{labels[label]!r} ({len(wrong)} such values in all); check its '
      'weights and dtype'
    )
