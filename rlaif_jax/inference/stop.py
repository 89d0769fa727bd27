"""Stop strings: responses that end with a text, whatever tokens spell it.

The strings become one automaton over characters (Aho and Corasick 1975), and
it becomes a table over tokens: where a row is in them is one number, looked up
with each token on the device. So a string is found where a vocabulary spells
it in one token, in three, or as the end and the beginning of longer ones.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Array, Bool, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Table:
  """The automaton: place 0 is the beginning, the last place is the end."""

  following: jax.Array  # [N, V] int32; the place after a token

  def follow(
    self, place: Int[Array, ' B'], token: Int[Array, ' B']
  ) -> Int[Array, ' B']:
    """The place of each row after one more token."""
    return self.following[place, token]

  def found(self, place: Int[Array, ' B']) -> Bool[Array, ' B']:
    """Whether a row has had one of the strings."""
    return place == self.following.shape[0] - 1


def make(strings: Sequence[str], pieces: Sequence[str]) -> Table:
  """The table of some strings.

  Args:
    strings: what ends a response; it stays part of it, see `cut`.
    pieces: the text that each of the V tokens adds, from `pieces_of`.

  Raises:
    ValueError: no string, or an empty one.
  """
  if not strings or not all(strings):
    raise ValueError(f'stop strings {tuple(strings)!r}: none, or an empty one')
  after, other = _automaton(strings)
  places = np.arange(len(other), dtype=np.int32)
  following = np.empty((len(other), len(pieces)), np.int32)
  for token, piece in enumerate(pieces):
    column = places
    for character in piece:
      column = after.get(character, other)[column]
    following[:, token] = column
  return Table(following)


def pieces_of(
  decode_batch: Callable[[list[list[int]]], list[str]], vocab_size: int
) -> list[str]:
  """The text that each token adds where another one comes before it.

  A token that is a part of a character adds what the decoder shows for it, so
  a string with such characters is found only where they are whole tokens.

  Args:
    decode_batch: rows of ids to texts, `Tokenizer.decode_batch`.
    vocab_size: V; ids that the tokenizer does not have add nothing.
  """
  alone = decode_batch([[i] for i in range(vocab_size)])
  anchor = next((i for i, x in enumerate(alone) if x.isalnum()), 0)
  start = alone[anchor]
  joined = decode_batch([[anchor, i] for i in range(vocab_size)])
  return [
    text[len(start) :] if text.startswith(start) else single
    for text, single in zip(joined, alone, strict=True)
  ]


def cut(text: str, strings: Sequence[str]) -> str:
  """`text` up to the first of the strings in it."""
  ends = [text.find(string) for string in strings]
  return text[: min((end for end in ends if end >= 0), default=len(text))]


def _automaton(
  strings: Sequence[str],
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """(character -> [N] next places, the same of any other character).

  A place is the longest beginning of a string that the text ends with.
  """
  begun = {s[:i] for s in strings for i in range(len(s))}
  names = sorted(begun, key=len)
  end = len(names)
  number = {name: i for i, name in enumerate(names)}

  def after(name: str, character: str) -> int:
    text = name + character
    if any(text.endswith(string) for string in strings):
      return end
    while text not in number:
      text = text[1:]
    return number[text]

  table = {
    character: np.array([after(n, character) for n in names] + [end], np.int32)
    for character in sorted(set(''.join(strings)))
  }
  other = np.zeros(end + 1, np.int32)
  other[end] = end
  return table, other
