"""The labeler in the mesh: a language model on the devices of this run."""

import dataclasses
import functools
import time
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rlaif_jax import sharding
from rlaif_jax.core import types
from rlaif_jax.data import tokenizer as tokenizer_lib
from rlaif_jax.data import transforms
from rlaif_jax.inference import decode, packing, score
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.labeler import Counters
from rlaif_jax.labeler import prefixes as prefixes_lib
from rlaif_jax.models import LanguageModel, hf, locate, with_options

_LABEL_ROOM = 8  # positions that stay free for the tokens of a label
_label_logprobs = jax.jit(score.label_logprobs, static_argnums=(0, 3))


@dataclasses.dataclass(frozen=True, eq=False)
class InMeshLabeler:
  """A model with its tokenizer, on the mesh that is set when it is called.

  Attributes:
    model: the language model.
    params: its parameters.
    tokenizer: its tokenizer.
    max_tokens: of a prompt; the paper's labeler reads 4096.
    batch_size: texts in one forward pass, the last batch filled up.
    buckets: lengths that what texts share, and what follows it, are padded to,
      each compiled once; default `transforms.fine_buckets`.
    identity: who this is, in records and caches; see `models.locate`.
    counters: work done so far.
  """

  model: LanguageModel
  params: types.Params = dataclasses.field(repr=False)
  tokenizer: tokenizer_lib.Tokenizer
  max_tokens: int = 4096
  batch_size: int = 64
  buckets: tuple[int, ...] = ()
  identity: str = ''
  counters: Counters = dataclasses.field(default_factory=Counters)

  @functools.cached_property
  def prefixes(self) -> prefixes_lib.Prefixes:
    """What texts begin with, read once."""
    return prefixes_lib.Prefixes(
      self.model, self.params, self.tokenizer.pad_id, self._lengths()
    )

  @property
  def limit(self) -> int:
    """Tokens that a prompt may have: `max_tokens`, or what the model reads."""
    return min(
      self.max_tokens,
      self.model.config.max_positions - _LABEL_ROOM,
      max(self.buckets, default=self.max_tokens),
    )

  def fits(self, text: str, room: int = 0) -> bool:
    """Whether a prompt is within `limit`, with `room` tokens to spare."""
    limit = self.limit - room
    # No vocabulary has more tokens than ASCII letters, BOS and a mark aside.
    if text.isascii() and len(text) + _LABEL_ROOM <= limit:
      return True
    return len(self.tokenizer.encode(text)) <= limit

  def score_texts(
    self,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    ids: Sequence[str] | None = None,
  ) -> np.ndarray:
    """Log-probability of each label string right after each text.

    Tokens that all texts begin with are read once, for the next call too, and
    those that two texts go on with (the post of a pair, shown in both orders)
    once for the two. Texts go in batches of similar length, each split over
    the mesh that is set. With several processes all pass the same texts and
    get all results; each feeds its share of every batch.

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
    ids = ids or [f'row {i}' for i in range(len(texts))]
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

  def write(
    self,
    texts: Sequence[str],
    *,
    max_tokens: int,
    sampling: SamplingConfig,
    seed: int = 0,
    ids: Sequence[str] | None = None,
  ) -> list[str]:
    """Goes on with each text, up to its end token or `max_tokens`.

    What a text gets depends on the seed, its id and the text itself, not on
    the texts beside it. Several processes work as in `score_texts`.

    Args:
      texts: n prompts, each at most `limit` - `max_tokens` tokens.
      max_tokens: of a continuation.
      sampling: how tokens are chosen.
      seed: of the draws.
      ids: names of the rows; default 'row 0', 'row 1', ...

    Raises:
      ValueError: a prompt is too long; names the row.
    """
    ids = ids or [f'row {i}' for i in range(len(texts))]
    start = time.monotonic()
    rows = self.tokenizer.encode_batch(texts)
    for name, row in zip(ids, rows, strict=True):
      if len(row) > self.limit - max_tokens:
        raise ValueError(
          f'{name}: its prompt has {len(row)} tokens, which leaves less than '
          f'{max_tokens} of the {self.limit} that the labeler reads; shorten '
          'it or raise max_tokens'
        )
    generate = _make_generate(
      self.model,
      max_tokens,
      sampling,
      self.tokenizer.eos_ids,
      self.tokenizer.pad_id,
    )
    row_keys = [
      zlib.crc32(f'{name}\n{text}'.encode()) & 0x7FFFFFFF
      for name, text in zip(ids, texts, strict=True)
    ]
    result, before = [''] * len(texts), self.counters.written
    order = sorted(range(len(texts)), key=lambda i: (len(rows[i]), i))
    size = self._count(1, even=True)
    for at in range(0, len(order), size):
      part = order[at : at + size]
      filled = part + part[-1:] * (size - len(part))
      for i, tokens in self._write(rows, filled, row_keys, generate, seed):
        result[i] = self.tokenizer.decode(tokens)
        self.counters.written += len(tokens) if i in part else 0
    self.counters.tokens += sum(map(len, rows)) + self.counters.written - before
    self.counters.seconds += time.monotonic() - start
    return result

  def _write(self, rows, numbers, row_keys, generate, seed):
    """One batch: (row number, tokens of its continuation) of each row."""
    mesh = jax.sharding.get_mesh()
    processes = 1 if mesh.empty else jax.process_count()
    longest = max(len(rows[i]) for i in numbers)
    length = transforms.bucket_length(longest, self._lengths())
    mine = numbers[jax.process_index() % processes :: processes]
    tokens, mask = transforms.left_pad(
      [rows[i] for i in mine], length, self.tokenizer.pad_id
    )
    arrays = (
      np.array(mine, np.int32),
      np.array([row_keys[i] for i in mine], np.int32),
      types.PromptBatch(tokens, mask),
    )
    if not mesh.empty:
      arrays = sharding.shard_batch(arrays, mesh)
    where, keys, batch = arrays
    rollout = generate(self.params, batch, jax.random.key(seed), keys)
    found = sharding.to_host(
      (where, rollout.response_tokens, rollout.response_mask)
    )
    ends = self.tokenizer.eos_ids
    for i, row, real in zip(*found, strict=True):
      yield int(i), [t for t in row[real].tolist() if t not in ends]

  def _encode(
    self, texts: Sequence[str], labels: tuple[str, ...], ids: Sequence[str]
  ) -> tuple[list[list[int]], dict[Any, list[int]]]:
    """(ids of each row up to its labels, rows by the tokens of the labels).

    The boundary is found on the last line of a text, once for all texts that
    end in the same line, and checked on each whole text with one label; a
    text where it differs gets its own.
    """
    encode = self.tokenizer.encode
    joint = self.tokenizer.encode_batch([text + labels[0] for text in texts])
    by_ending: dict[str, score.LabelTokens] = {}
    rows, groups = [], {}
    for i, (text, row) in enumerate(zip(texts, joint, strict=True)):
      ending = text.rpartition('\n')[2]
      if ending and ending not in by_ending:
        by_ending[ending] = score.labels_to_tokens(encode, ending, labels)
      found = by_ending.get(ending)
      if found is None or not _ends_in(row, found.tokens[0]):
        found = score.labels_to_tokens(encode, text, labels)
      row = row[: len(row) - len(found.tokens[0])]
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
        prefix = self.prefixes.get(rows[same[0]][:start])
        trees = packing.trees(rows, same, start, self._lengths()[-1])
        trees.sort(key=lambda t: -packing.tree_length(rows, t, start))
        for size in sorted({len(tree.members) for tree in trees}):
          alike = [tree for tree in trees if len(tree.members) == size]
          count = self._count(size)
          for at in range(0, len(alike), count):
            part = alike[at : at + count]
            filled = part + part[-1:] * (count - len(part))
            yield filled, start, prefix, label_tokens

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

  def _count(self, size: int, even: bool = False) -> int:
    """Trees of `size` texts in one batch; they must divide over the mesh."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty or (size == 1 and not even):
      return -(-self.batch_size // size)
    parts = sharding.row_parts(mesh)
    return -(-self.batch_size // (size * parts)) * parts

  def _lengths(self) -> tuple[int, ...]:
    return self.buckets or transforms.fine_buckets(self.limit)


def load(
  path: str,
  *,
  mesh=None,
  rules=None,
  dtype: str = 'float32',
  param_dtype: str = '',
  offload: bool = False,
  max_tokens: int = 4096,
  batch_size: int = 64,
) -> InMeshLabeler:
  """The labeler of a model path, its parameters on `mesh`.

  Args:
    path: as in `models.locate`.
    mesh, rules: where the parameters go.
    dtype: of the computation.
    param_dtype, offload: of the parameters, see `hf.load`; '' = as in the file.
    max_tokens, batch_size: see `InMeshLabeler`.
  """
  folder = locate.resolve(path)
  model, params = hf.load(
    folder, dtype=param_dtype or None, offload=offload, mesh=mesh, rules=rules
  )
  return InMeshLabeler(
    model=with_options(model, dtype=dtype),
    params=params,
    tokenizer=tokenizer_lib.load_tokenizer(folder),
    max_tokens=max_tokens,
    batch_size=batch_size,
    identity=f'{path}@{locate.fingerprint(folder, param_dtype)}',
  )


@functools.lru_cache(maxsize=8)
def _make_generate(model, max_tokens, sampling, eos_ids, pad_id):
  """Compiled once for each way of writing."""
  return decode.make_generate(
    model,
    max_new_tokens=max_tokens,
    sampling=sampling,
    eos_ids=tuple(eos_ids),
    pad_id=pad_id,
  )


def _read(result: np.ndarray, output: tuple[Any, Any] | None) -> None:
  """Waits for one batch and files its rows; those that repeat are equal."""
  if output is not None:
    # By number, since the mesh may hold the processes' rows in any order.
    numbers, logprobs = sharding.to_host(output)
    result[numbers] = logprobs


def _ends_in(row: list[int], tokens: tuple[int, ...]) -> bool:
  """Whether these tokens come last, after at least one other."""
  size = len(tokens)
  return len(row) > size and tuple(row[-size:]) == tokens


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
