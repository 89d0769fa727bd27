"""Full-scale configs: their meshes fill their slices, their batches divide."""

import math

import pytest

from configs import full
from rlaif_jax.plan import shapes
from rlaif_jax.stages import _options, pipeline


@pytest.mark.parametrize('model, topology', full.MESHES)
def test_meshes_and_batches(model, topology):
  c = full.get_config(f'model={model},topology={topology}')
  pipeline.check_steps(c)
  chips = math.prod(int(n) for n in topology.partition(':')[2].split('x'))
  assert math.prod(c.mesh.to_dict().values()) == chips
  rows = c.mesh.data * c.mesh.fsdp
  for step in c.steps.values():
    _options.check_batch(step, rows)
    if 'num_microbatches' in step:
      assert step.batch_size // step.num_microbatches % rows == 0
  # The plan knows the shapes of what will be trained and of what labels.
  assert shapes.hf_config(c.steps.sft.model.path) == shapes.hf_config(model)
  assert shapes.hf_config(c.steps.labels_ai.labeler.path)


def test_unknown_models_are_told():
  with pytest.raises(ValueError, match='there are: gemma2_2b'):
    full.get_config('model=gpt5')
