"""A published checkpoint, against numbers computed from it in float64."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.models import hf


@pytest.fixture(scope='module')
def folder(shared_data):
  return shared_data / 'tinystories-656k'


@pytest.fixture(scope='module')
def cases(folder):
  return json.loads((folder / 'reference.json').read_text())['cases']


@pytest.fixture(scope='module')
def loaded(folder):
  return hf.load(folder)


def test_nll_and_last_logits(loaded, cases):
  model, params = loaded
  for case in cases:
    ids = np.array([case['prompt_ids']], np.int32)
    logits = model.apply(params, ids).logits[0]
    logprobs = jax.nn.log_softmax(logits[:-1])
    nll = -logprobs[np.arange(len(ids[0]) - 1), ids[0, 1:]]
    np.testing.assert_allclose(nll, case['prompt_token_nll'], atol=1e-3)
    top_ids, top_values = zip(*case['last_logits_top5'], strict=True)
    values, found = jax.lax.top_k(logits[-1], 5)
    assert found.tolist() == list(top_ids)
    np.testing.assert_allclose(values, top_values, atol=1e-3)
    total = np.asarray(logits[-1], np.float64).sum()
    np.testing.assert_allclose(total, case['last_logits_sum'], atol=1e-3)


def test_greedy_continuation(loaded, cases):
  model, params = loaded
  step = jax.jit(
    lambda params, ids, cache: model.apply(params, ids, cache=cache)
  )
  for case in cases:
    ids = jnp.array([case['prompt_ids']], jnp.int32)
    out = step(params, ids, model.init_cache(1, 64))
    found = []
    for _ in case['greedy_ids']:
      ids = jnp.argmax(out.logits[:, -1:], axis=-1).astype(jnp.int32)
      found.append(int(ids[0, 0]))
      out = step(params, ids, out.cache)
    assert found == case['greedy_ids']
