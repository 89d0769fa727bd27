import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import ngrams


def by_hand(tokens, mask, size):
  found = []
  for row, real in zip(tokens, mask, strict=True):
    row = row[real]
    grams = [tuple(row[i : i + size]) for i in range(len(row) - size + 1)]
    found.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
  return found


@pytest.mark.parametrize('size', [1, 2, 3, 5])
def test_equals_a_count_of_tuples(size):
  rng = np.random.default_rng(size)
  tokens = rng.integers(0, 2, (40, 12)).astype(np.int32)
  lengths = rng.integers(0, 13, 40)
  mask = np.arange(12) < lengths[:, None]
  found = ngrams.repeated_share(jnp.array(tokens), jnp.array(mask), size)
  np.testing.assert_allclose(found, by_hand(tokens, mask, size), atol=1e-6)
  assert max(found) > 0


def test_the_example_and_short_rows():
  tokens = jnp.array([[1, 2, 3, 1, 2, 3], [7, 7, 7, 7, 7, 7]])
  mask = jnp.array([[True] * 6, [True] * 2 + [False] * 4])
  np.testing.assert_allclose(ngrams.repeated_share(tokens, mask), [0.25, 0.0])
  np.testing.assert_array_equal(
    ngrams.repeated_share(tokens[:, :2], mask[:, :2]), [0.0, 0.0]
  )
