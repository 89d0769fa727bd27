"""Two texts as one row, against rows built by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import trees


def padded(texts, length):
  tokens = np.zeros((len(texts), length), np.int32)
  mask = np.zeros((len(texts), length), bool)
  for i, text in enumerate(texts):
    tokens[i, : len(text)], mask[i, : len(text)] = text, True
  return jnp.asarray(tokens), jnp.asarray(mask)


def join(first, second, length, width):
  return trees.join_pairs(
    *padded(first, length), *padded(second, length), width
  )


def test_by_hand():
  found = join([[5, 6, 7, 8]], [[5, 6, 9]], 5, 7)
  np.testing.assert_array_equal(found.tokens[0, :5], [5, 6, 7, 8, 9])
  np.testing.assert_array_equal(found.ends[0], [5, 5, 4, 4, 5, 0, 0])
  np.testing.assert_array_equal(found.slots_1[0, :4], [0, 1, 2, 3])
  np.testing.assert_array_equal(found.slots_2[0, :3], [0, 1, 4])


@pytest.mark.parametrize(
  'first, second',
  [
    ([5, 6, 7], [5, 6, 7]),  # one and the same
    ([5, 6, 7], [5, 6, 7, 8]),  # one begins the other
    ([5, 6, 7, 8], [5, 6, 7]),
    ([5, 6], [9, 6]),  # nothing shared
    ([5], [5]),
  ],
)
def test_edges(first, second):
  """The last token of each text is its own, whatever is shared."""
  found = join([first], [second], 6, 10)
  for text, slots in ((first, found.slots_1), (second, found.slots_2)):
    own = np.asarray(slots[0, : len(text)])
    np.testing.assert_array_equal(found.tokens[0][own], text)
    # A token sees those before it in its own text, and no others.
    ends = np.asarray(found.ends[0])
    for place in own:
      seen = [j for j in range(place + 1) if ends[j] > place]
      assert seen == [j for j in own if j <= place]
  assert found.slots_1[0, len(first) - 1] != found.slots_2[0, len(second) - 1]


def test_random_rows():
  rng = np.random.default_rng(0)
  prompts = [list(rng.integers(1, 9, rng.integers(1, 8))) for _ in range(40)]
  pairs = [
    [[*p, *rng.integers(1, 4, rng.integers(1, 6))] for p in prompts]
    for _ in range(2)
  ]
  found = join(*pairs, 14, 18)
  for i in range(40):
    for texts, slots in zip(pairs, (found.slots_1, found.slots_2), strict=True):
      own = np.asarray(slots[i, : len(texts[i])])
      np.testing.assert_array_equal(found.tokens[i][own], texts[i])
      ends = np.asarray(found.ends[i])
      for place in own:
        seen = [j for j in range(place + 1) if ends[j] > place]
        assert seen == [j for j in own if j <= place]
