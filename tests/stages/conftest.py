"""What several tests of stages share."""

import functools

import jax
import pytest

from rlaif_jax import models
from rlaif_jax.models import hf
from rlaif_jax.training.checkpoint import Checkpointer


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """folder(width, layers) of a random model of 64 tokens."""

  @functools.cache
  def make(width, layers):
    path = tmp_path_factory.mktemp('model')
    model = models.build(
      dict(
        model_type='llama',
        vocab_size=64,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
      )
    )
    hf.save(path, model, jax.jit(model.init)(jax.random.key(0)))
    return path

  return make


@pytest.fixture(scope='module')
def small(folder):
  return folder(width=16, layers=2)


@pytest.fixture(scope='session')
def stored():
  """stored(workdir) -> names of the arrays in the newest checkpoint."""

  def names(workdir):
    with Checkpointer(workdir / 'checkpoints') as checkpointer:
      step = checkpointer.latest_step()
      tree = checkpointer._manager.item_metadata(step).tree
    return {
      jax.tree_util.keystr(path, simple=True, separator='.')
      for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    }

  return names
