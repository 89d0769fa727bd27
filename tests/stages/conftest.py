"""A random model of the tiny world, small enough to run stages in seconds."""

import functools

import jax
import pytest

from rlaif_jax import models
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.models import hf, locate
from rlaif_jax.stages import common


@pytest.fixture
def one_device(monkeypatch):
  """Stages run on one device, however many the process has."""
  make_mesh = functools.partial(
    common.sharding.make_mesh, devices=jax.devices()[:1]
  )
  monkeypatch.setattr(common.sharding, 'make_mesh', make_mesh)


@pytest.fixture(scope='session')
def make_model(tmp_path_factory):
  """make_model(seed, positions) -> folder of a random two-layer Llama."""
  tokenizer = load_tokenizer(locate.resolve('tiny:tokenizer'))

  @functools.cache
  def make(seed=0, positions=512):
    model = models.build(
      dict(
        model_type='llama',
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=positions,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_id,
      )
    )
    params = jax.jit(model.init)(jax.random.key(seed))
    # As initialised, every token would be as likely whatever the text.
    params['embed'] = jax.tree.map(lambda x: 8.0 * x, params['embed'])
    params['layers'] = jax.tree.map(lambda x: 3.0 * x, params['layers'])
    path = tmp_path_factory.mktemp('models') / f'model_{seed}_{positions}'
    hf.save(path, model, params, tokenizer)
    return str(path)

  return make


@pytest.fixture(scope='session')
def tiny_model(make_model):
  """Folder of such a model."""
  return make_model()
