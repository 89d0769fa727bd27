"""Models without weights: known shapes, folders, and where parameters go."""

import json
import math

import jax
import pytest

from rlaif_jax import models, sharding
from rlaif_jax.models import hf, locate
from rlaif_jax.plan import context, shapes

# As the models' own cards count them, in billions.
_SIZES = {
  'gemma2_2b': 2.61,
  'gemma2_9b': 9.24,
  'llama3_8b': 8.03,
  'qwen3_8b': 8.19,
}


@pytest.mark.parametrize('name', shapes.SHAPES)
def test_known_shapes_have_their_size(name):
  model = models.build(shapes.hf_config(name))
  count = sum(
    math.prod(x.shape) for x in jax.tree.leaves(model.abstract_params())
  )
  assert count / 1e9 == pytest.approx(_SIZES[name], abs=0.005)


def test_hub_ids_are_known_too():
  config = shapes.hf_config('google/gemma-2-9b-it')
  assert config == shapes.hf_config('gemma2_9b')
  config = shapes.hf_config('meta-llama/Meta-Llama-3-8B-Instruct')
  assert config == shapes.hf_config('llama3_8b')
  assert shapes.file_dtype(config) == 'bfloat16'


def test_a_folder_needs_no_weights(tmp_path, tiny_model):
  text = (locate.folder(tiny_model) / 'config.json').read_text()
  (tmp_path / 'config.json').write_text(text)
  assert shapes.hf_config(str(tmp_path)) == json.loads(text)
  with pytest.raises(FileNotFoundError, match='known shapes: gemma2_2b'):
    shapes.hf_config('nobody/nothing')


@pytest.mark.multidevice
def test_parameters_go_where_they_are_loaded_to(tiny_model):
  mesh = sharding.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
  with jax.set_mesh(mesh):
    model, params = hf.load(tiny_model)
    found = shapes.language_model(
      shapes.hf_config(tiny_model), mesh, sharding.DEFAULT_RULES
    )
  assert found.model.config == model.config
  jax.tree.map(
    lambda a, b: (
      _same(a.shape, b.shape),
      _same(a.dtype, b.dtype),
      _same(a.sharding.is_equivalent_to(b.sharding, a.ndim), True),
    ),
    params,
    found.params,
  )
  held = sum(
    x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(params)
  )
  assert context.bytes_per_chip(found.params) == held


def _same(a, b):
  assert a == b
