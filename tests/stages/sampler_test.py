"""The `sampler` block of the RL stage."""

import jax
import numpy as np
import pytest

from rlaif_jax import models
from rlaif_jax.core.types import PromptBatch
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.models import locate
from rlaif_jax.stages import _sampler, common, rl


@pytest.fixture(scope='module')
def loaded():
  tokenizer = load_tokenizer(locate.resolve('tiny:tokenizer'))
  model = models.build(
    dict(
      model_type='llama',
      vocab_size=tokenizer.vocab_size,
      hidden_size=8,
      intermediate_size=8,
      num_hidden_layers=1,
      num_attention_heads=2,
      max_position_embeddings=32,
    )
  )
  params = jax.jit(model.init)(jax.random.key(0))
  return common.Loaded(model, params, tokenizer, '')


def rollout(loaded, **block):
  config = rl.default_config()
  config.max_response = 8
  config.sampler.update(block)
  sampler = _sampler.make(config, loaded)
  prompts = PromptBatch(
    np.arange(8, dtype=np.int32).reshape(4, 2) + 5, np.ones((4, 2), bool)
  )
  return jax.device_get(sampler(loaded.params, prompts, jax.random.key(0)))


def test_compaction_changes_no_sample(loaded):
  plain, fast = rollout(loaded), rollout(loaded, compact=True)
  np.testing.assert_array_equal(plain.response_tokens, fast.response_tokens)
  np.testing.assert_allclose(plain.logprobs, fast.logprobs, atol=1e-4)


def test_an_int8_cache_is_almost_the_same(loaded):
  """As long as draws, which it may move to another token, are the same."""
  plain = rollout(loaded)
  small = rollout(loaded, int8_cache=True)
  same = plain.response_tokens == small.response_tokens
  so_far = np.cumprod(same, axis=1).astype(bool)
  assert so_far[:, 0].all()  # nothing is read from the cache yet
  assert so_far.mean() > 0.5
  gap = np.abs(plain.logprobs - small.logprobs)[so_far]
  assert 0 < gap.max() < 0.1


def test_responses_stop_at_a_text(loaded):
  plain = rollout(loaded)
  decode = loaded.tokenizer.decode
  text = decode(plain.response_tokens[0, 3:4]).strip()
  assert text
  found = rollout(loaded, stop=(text,))
  lengths = found.response_mask.sum(1)
  assert lengths[0] <= 4
  for tokens, free, length in zip(
    found.response_tokens, plain.response_tokens, lengths, strict=True
  ):
    np.testing.assert_array_equal(tokens[:length], free[:length])
    assert (length == 8) or text in decode(free[:length])
    assert text not in decode(free[: length - 1])


def test_a_stop_text_is_no_missing_end():
  config = rl.default_config()
  config.sampler.stop, config.missing_eos_penalty = ('\n',), 1.0
  with pytest.raises(ValueError, match='missing_eos_penalty'):
    _sampler.check(config)
