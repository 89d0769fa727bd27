"""What label prompts share: a prefix for all, a tree for some, on the host.

All prompts begin with the same instructions and examples, and the two orders
of a pair go on with the same post. Both are found in the token ids of whole
texts: wherever a tokenizer merges across a boundary of the template, the ids
differ and nothing is shared there.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from rlaif_jax.inference import score

_WORTH = 16  # tokens that must be shared, or their rows stay apart

Ids = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Tree:
  """Rows that one tree of tokens holds.

  Attributes:
    members: their numbers; one, or two that share what they begin with.
    split: how many tokens of a row, its prefix included, are shared.
  """

  members: tuple[int, ...]
  split: int


def clusters(
  rows: Sequence[Ids], members: Sequence[int], full: int
) -> list[tuple[int, list[int]]]:
  """Splits rows by what they begin with: [(length of the prefix, members)].

  Rows that fill a batch of their own and share much more than the others do
  (those that kept their exemplars, say) are a cluster. Members come sorted by
  their ids; a prefix leaves at least one token of each row, and is 0 where
  there is nothing worth sharing.

  Args:
    rows: token ids.
    members: numbers of the rows to split.
    full: rows that fill a batch.
  """
  found = []
  todo = [sorted(members, key=lambda i: list(rows[i]))] if members else []
  while todo:
    ordered = todo.pop()
    start = _shared(rows, ordered)
    rest = []
    after = [rows[i][start] for i in ordered]
    for token in dict.fromkeys(after):
      same = [i for i, a in zip(ordered, after, strict=True) if a == token]
      more = _shared(rows, same) - start
      if len(same) >= full and more >= _WORTH:
        todo.append(same)
      else:
        rest += same
    if rest:
      found.append((prefix_length(rows, rest), rest))
  return found


def prefix_length(rows: Sequence[Ids], ordered: Sequence[int]) -> int:
  """Tokens that some rows, sorted by their ids, begin with.

  At least one token of each row is left; 0 where nothing is worth sharing.
  """
  shared = _shared(rows, ordered) if len(ordered) > 1 else 0
  return shared if shared >= _WORTH else 0


def trees(
  rows: Sequence[Ids], ordered: Sequence[int], start: int, longest: int
) -> list[Tree]:
  """Pairs rows of a cluster that share much after its prefix.

  A pair's tree holds what both share once. It must be worth it: at least half
  of what either row has to itself, since the two see nothing of each other.

  Args:
    rows: token ids.
    ordered: numbers of the rows, sorted by their ids.
    start: length of the cluster's prefix.
    longest: tokens after the prefix that a tree may have.
  """
  splits = [_shared(rows, pair) for pair in itertools.pairwise(ordered)]
  found, at = [], 0
  while at < len(ordered):
    pair, split = ordered[at : at + 2], splits[at] if at < len(splits) else 0
    # Whose neighbour is even closer waits for that one.
    closer = at + 1 < len(splits) and splits[at + 1] > split
    own = max(len(rows[i]) - split for i in pair)
    tree = Tree(tuple(pair), split)
    worth = split - start >= max(_WORTH, own / 2)
    if not worth or closer or tree_length(rows, tree, start) > longest:
      tree = Tree((ordered[at],), start)
    found.append(tree)
    at += len(tree.members)
  return found


def tree_length(rows: Sequence[Ids], tree: Tree, start: int) -> int:
  """Tokens of a tree after the prefix, those of labels aside."""
  own = sum(len(rows[i]) - tree.split for i in tree.members)
  return tree.split - start + own


def pack(
  rows: Sequence[Ids],
  batch: Sequence[Tree],
  start: int,
  labels: tuple[tuple[int, ...], ...],
  length: int,
  pad_id: int,
) -> score.LabelBatch:
  """Lays trees out as arrays, padded at the right.

  Args:
    rows: token ids.
    batch: B trees of M members each.
    start: length of the prefix, which is left out.
    labels: tokens of the labels that are to be scored.
    length: T, enough for every tree and M times `score.label_room(labels)`.
    pad_id: fills the padding.
  """
  inner = list(score.inner_nodes(labels))
  members = len(batch[0].members)
  tokens = np.full((len(batch), length), pad_id, np.int32)
  ends = np.zeros((len(batch), length), np.int32)
  at = np.zeros((len(batch), members, len(inner)), np.int32)
  for b, tree in enumerate(batch):
    first = rows[tree.members[0]]
    end = tree.split - start
    tokens[b, :end] = first[start : tree.split]
    shared = end
    for m, i in enumerate(tree.members):
      own = rows[i][tree.split :]
      begin, end = end, end + len(own)
      tokens[b, begin:end] = own
      # The labels' own beginnings follow the row, each a branch of its own.
      at[b, m] = end - 1 + np.arange(len(inner))
      for slot, (token, size) in zip(at[b, m], inner[1:], strict=False):
        tokens[b, slot + 1] = token
        ends[b, slot + 1] = slot + 1 + size
      ends[b, begin:end] = end + len(inner) - 1
      end += len(inner) - 1
    ends[b, :shared] = end
  return score.LabelBatch(tokens, ends, at)


def _shared(rows: Sequence[Ids], ordered: Sequence[int]) -> int:
  """Tokens that sorted rows begin with together, less one each at least."""
  first, last = rows[ordered[0]], rows[ordered[-1]]
  most = min(len(first), len(last)) - 1
  differ = np.not_equal(first[:most], last[:most])
  return int(differ.argmax()) if differ.any() else most
