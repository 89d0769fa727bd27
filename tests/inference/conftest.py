"""A tiny random model that inference tests share."""

import jax
import pytest

from rlaif_jax import models

VOCAB = 24


@pytest.fixture(scope='session')
def tiny():
  """(model, params): two Llama layers that look well beyond one token."""
  model = models.build(
    dict(
      model_type='llama',
      vocab_size=VOCAB,
      hidden_size=16,
      intermediate_size=32,
      num_hidden_layers=2,
      num_attention_heads=4,
      num_key_value_heads=2,
      max_position_embeddings=64,
      rms_norm_eps=1e-5,
      tie_word_embeddings=False,
    )
  )
  params = jax.jit(model.init)(jax.random.key(0))
  params['layers'] = jax.tree.map(lambda x: 2.0 * x, params['layers'])
  return model, params
