"""A labeler of random weights over the tiny world's tokenizer."""

import jax
import pytest

from rlaif_jax import models
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.labeler.in_mesh import InMeshLabeler
from rlaif_jax.models import locate


@pytest.fixture(scope='session')
def labeler():
  """Two Llama layers; prompts are padded to 128 or 256 tokens."""
  tokenizer = load_tokenizer(locate.resolve('tiny:tokenizer'))
  model = models.build(
    dict(
      model_type='llama',
      vocab_size=tokenizer.vocab_size,
      hidden_size=16,
      intermediate_size=16,
      num_hidden_layers=2,
      num_attention_heads=2,
      max_position_embeddings=512,
      rms_norm_eps=1e-5,
      tie_word_embeddings=True,
    )
  )
  params = jax.jit(model.init)(jax.random.key(0))
  # As initialised, every label would be as likely whatever the text.
  params['embed'] = jax.tree.map(lambda x: 4.0 * x, params['embed'])
  params['layers'] = jax.tree.map(lambda x: 2.0 * x, params['layers'])
  return InMeshLabeler(
    model, params, tokenizer, max_tokens=256, batch_size=8, buckets=(128, 256)
  )
