"""Attention to a prefix that all rows share, against a loop over rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.models import shared


def _normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def _loop(query, own, prefix, scale, softcap):
  """One query at a time, in float64."""
  query, *own = (np.asarray(x) for x in (query, *own))
  prefix = [np.asarray(x) for x in prefix]
  out = np.zeros(query.shape)
  for b, k, g, t in np.ndindex(query.shape[:4]):
    keys, values = (
      np.concatenate([prefix[i][0, k], own[i][b, k]]).astype(np.float64)
      for i in (0, 1)
    )
    seen = np.concatenate([prefix[2][0, t], own[2][b, t]])
    found = keys @ query[b, k, g, t] * scale
    if softcap is not None:
      found = softcap * np.tanh(found / softcap)
    weights = np.where(seen, np.exp(found - found[seen].max()), 0)
    out[b, k, g, t] = weights @ values / weights.sum()
  return out


# From 128 own tokens on, queries go in blocks.
@pytest.mark.parametrize('length', [1, 24, 128, 200])
@pytest.mark.parametrize('softcap', [None, 3.0])
def test_prefix_and_own_keys_are_one_softmax(length, softcap):
  query = _normal(0, 3, 2, 2, length, 4)
  own = [_normal(i, 3, 2, length, 4) for i in (1, 2)]
  own.append(
    jnp.tril(jax.random.bernoulli(jax.random.key(3), 0.8, (3, length, length)))
  )
  prefix = [_normal(i, 1, 2, 8, 4) for i in (4, 5)]
  prefix.append(jnp.arange(8)[None, None] > 2)
  prefix[2] = jnp.broadcast_to(prefix[2], (1, length, 8))
  got = jax.jit(shared.attention, static_argnums=(4, 5))(
    query, tuple(own), tuple(prefix), jnp.float32(0.5), softcap, ('bksh',) * 2
  )
  expected = _loop(query, own, prefix, 0.5, softcap)
  np.testing.assert_allclose(got, expected, atol=1e-5)
