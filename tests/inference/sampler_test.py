"""The Sampler protocol is all that an engine of another kind needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core.types import PromptBatch, Rollout
from rlaif_jax.inference import compact, decode
from rlaif_jax.inference.sampler import Sampler
from rlaif_jax.inference.sampling import SamplingConfig

R, EOS, PAD = 6, 3, 0


class HostSampler:
  """Row by row without a cache, as something outside of JAX might do it.

  It draws from cumulative sums with NumPy, by the keys' numbers.
  """

  def __init__(self, model):
    self.forward = jax.jit(model.apply)

  def __call__(self, params, prompts, key, row_ids=None):
    rows = range(len(prompts.tokens))
    row_ids = rows if row_ids is None else row_ids
    tokens = np.full((len(rows), R), PAD, np.int32)
    logprobs = np.zeros((len(rows), R), np.float32)
    mask = np.zeros((len(rows), R), bool)
    for row, row_id in zip(rows, row_ids, strict=True):
      text = list(np.asarray(prompts.tokens[row])[prompts.mask[row]])
      start = len(text)
      row_key = jax.random.fold_in(key, row_id)
      for t in range(R):
        read = np.zeros((1, prompts.tokens.shape[1] + R), np.int32)
        read[0, : len(text)] = text
        logits = self.forward(params, read).logits[0, len(text) - 1]
        logits = np.asarray(logits, np.float64)
        numbers = jax.random.uniform(jax.random.fold_in(row_key, t), (2,))
        sums = np.cumsum(np.exp(logits))
        # All words are of one block, which the first number is for.
        token = int(np.searchsorted(sums, numbers[1] * sums[-1]))
        text.append(token)
        tokens[row, t], mask[row, t] = token, True
        logprobs[row, t] = logits[token] - np.log(np.exp(logits).sum())
        if token == EOS:
          break
      assert len(text) - start == mask[row].sum()
    return Rollout(prompts.tokens, prompts.mask, tokens, mask, logprobs)


def ours(module):
  def make(model) -> Sampler:
    return module.make_generate(
      model,
      max_new_tokens=R,
      sampling=SamplingConfig(),
      eos_ids=(EOS,),
      pad_id=PAD,
    )

  return make


@pytest.fixture(scope='module')
def prompts():
  rng = np.random.default_rng(0)
  tokens = rng.integers(4, 24, (4, 4)).astype(np.int32)
  tokens[1] = tokens[0]  # one prompt in two rows
  mask = np.arange(4)[None] >= np.array([[0], [0], [2], [1]])
  return PromptBatch(np.where(mask, tokens, 0), mask)


@pytest.mark.parametrize('make', [ours(decode), ours(compact)])
def test_samplers_give_the_same(tiny, prompts, make):
  model, params = tiny
  ids = np.array([4, 7, 5, 1], np.int32)
  for seed in (0, 1):
    key = jax.random.key(seed)
    one = make(model)(params, prompts, key, ids)
    two = HostSampler(model)(params, prompts, key, ids)
    np.testing.assert_array_equal(one.response_tokens, two.response_tokens)
    np.testing.assert_array_equal(one.response_mask, two.response_mask)
    np.testing.assert_allclose(one.logprobs, two.logprobs, atol=1e-5)


@pytest.mark.parametrize('make', [ours(decode), ours(compact), HostSampler])
def test_what_callers_rely_on(tiny, prompts, make):
  model, params = tiny
  sampler = make(model)
  first, other = (
    sampler(params, prompts, jax.random.key(seed)) for seed in (0, 1)
  )
  # One prompt twice, and one key after another, give different responses.
  first, other = (np.asarray(x.response_tokens) for x in (first, other))
  assert (first[0] != first[1]).any()
  assert (first != other).any(axis=1).all()
  # New parameters are used at once.
  flat = jax.tree.map(jnp.zeros_like, params)
  found = sampler(flat, prompts, jax.random.key(0))
  real = np.asarray(found.response_mask)
  np.testing.assert_allclose(
    np.asarray(found.logprobs)[real], -np.log(24), rtol=1e-5
  )
