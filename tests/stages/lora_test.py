"""LoRA in the stages: what trains, what is shared, what is left behind."""

import json

import jax
import numpy as np
import pytest

from rlaif_jax import convert
from rlaif_jax.models import hf, lora, peft, with_options
from rlaif_jax.stages import reward, rl, sft
from rlaif_jax.training.metrics import read_metrics

ADAPTERS = {'lora_a', 'lora_b'}
HEAD = {'kernel', 'bias'}


def largest(first, second):
  """The largest difference between two trees."""
  differences = jax.tree.map(lambda a, b: np.abs(a - b).max(), first, second)
  return max(jax.tree.leaves(differences))


def tiny(c, model, **overrides):
  """A stage's config, cut down; the tiny world's data and rank 2."""
  block = c.policy if 'policy' in c else c.model
  block.path, block.lora.rank = model, 2
  c.max_prompt, c.max_response, c.batch_size, c.num_steps = 80, 48, 4, 2
  c.optimizer.name, c.optimizer.learning_rate = 'adam', 1e-2
  c.checkpoint.every = 2
  c.update_from_flattened_dict(overrides)
  return c


def data(block, split, size):
  block.update(name='tiny_tldr', path='', split=split, size=size)


@pytest.fixture(scope='module')
def tuned(tiny_model, tmp_path_factory, one_device):
  """The workdir of an SFT run with adapters."""
  c = tiny(sft.default_config(), tiny_model, eval_every=2)
  data(c.data, 'train', 8)
  data(c.eval_data, 'test', 4)
  workdir = tmp_path_factory.mktemp('sft')
  sft.run(c, workdir)
  return workdir


def stored(workdir, *keys):
  """Names of the parameters in a run's newest checkpoint."""
  folder = max((workdir / 'checkpoints').glob('[0-9]*'))
  meta = json.loads((folder / 'default' / '_METADATA').read_text())
  names = [
    [part['key'] for part in entry['key_metadata']]
    for entry in meta['tree_metadata'].values()
  ]
  return {n[-1] for n in names if tuple(n[: len(keys)]) == keys}


def test_sft_leaves_a_plain_model_and_its_adapters(tuned, tiny_model):
  plain, start = hf.load(tiny_model)
  model, merged = hf.load(tuned / 'model')
  assert model.config.lora is None
  assert largest(merged, start) > 1e-3
  np.testing.assert_array_equal(
    merged['embed']['tokens'], start['embed']['tokens']
  )
  found, adapters = peft.load(tuned / 'adapter', plain)
  assert (found.rank, found.alpha) == (2, 16.0)
  _, again = lora.merge(
    with_options(plain, lora=found), lora.join(start, adapters)
  )
  assert largest(again, merged) < 1e-5
  config = json.loads((tuned / 'adapter' / peft.CONFIG).read_text())
  assert config['base_model_name_or_path'] == tiny_model


def test_checkpoints_hold_adapters_and_become_models(tuned, tmp_path):
  assert stored(tuned, 'params') == ADAPTERS
  written = convert.convert(str(tuned / 'checkpoints'), str(tmp_path / 'model'))
  assert largest(hf.load(written)[1], hf.load(tuned / 'model')[1]) < 1e-6


def test_reward_model_trains_its_head_too(tiny_model, tmp_path, one_device):
  c = tiny(reward.default_config(), tiny_model, eval_every=2)
  c.model.lora.base_dtype = 'bfloat16'
  data(c.data, 'preferences', 8)
  data(c.eval_data, 'test_preferences', 4)
  reward.run(c, tmp_path)
  assert stored(tmp_path, 'params', 'trunk') == ADAPTERS
  assert stored(tmp_path, 'params', 'head') == HEAD
  _, params = hf.load_reward_model(tmp_path / 'model')
  assert params['trunk']['embed']['tokens'].dtype == 'bfloat16'
  config = json.loads((tmp_path / 'adapter' / peft.CONFIG).read_text())
  assert config['task_type'] == 'SEQ_CLS'


def rl_config(model, **overrides):
  c = tiny(rl.default_config(), model, max_response=6, **overrides)
  c.value_optimizer = c.optimizer
  c.reward.name, c.reward.path, c.reward.prompt = (
    'direct',
    model,
    'summary_score',
  )
  c.reward.max_tokens, c.reward.batch_size = 256, 4
  data(c.data, 'rl', 4)
  return c


def test_rl_goes_on_from_adapters(tuned, tiny_model, tmp_path, one_device):
  """KL is to where they were, be they no longer 0."""
  options = {'policy.lora.rank': 0, 'policy.lora.path': str(tuned)}
  rl.run(rl_config(tiny_model, **options), tmp_path)
  rows = read_metrics(tmp_path)
  assert abs(rows[0]['objective/kl']) < 1e-5
  assert abs(rows[1]['objective/kl']) > 1e-5
  assert all(row['val/sampler_gap'] < 1e-4 for row in rows)
  assert stored(tmp_path, 'policy', 'params') == ADAPTERS
  assert stored(tmp_path, 'value', 'params', 'trunk') == ADAPTERS
  assert stored(tmp_path, 'value', 'params', 'head') == HEAD
  before, after = (hf.load(run / 'model')[1] for run in (tuned, tmp_path))
  assert largest(before, after) > 1e-3


def test_rl_on_an_int8_base(tiny_model, tmp_path, one_device):
  """Checkpoints hold adapters alone, and become what the stage leaves."""
  c = rl_config(tiny_model, **{'policy.lora.base_dtype': 'int8'})
  rl.run(c, tmp_path / 'run')
  rows = read_metrics(tmp_path / 'run')
  assert abs(rows[0]['objective/kl']) < 1e-5
  assert abs(rows[1]['objective/kl']) > 1e-5
  assert stored(tmp_path / 'run', 'policy', 'params') == ADAPTERS
  assert stored(tmp_path / 'run', 'value', 'params', 'trunk') == ADAPTERS
  model, params = hf.load(tmp_path / 'run' / 'model')
  assert not model.config.int8
  assert {str(x.dtype) for x in jax.tree.leaves(params)} == {'bfloat16'}
  base, _ = hf.load(tiny_model)
  found, adapters = peft.load(tmp_path / 'run' / 'adapter', base)
  packed, kernels = hf.load(tiny_model, dtype='int8')
  _, again = lora.merge(
    with_options(packed, lora=found), lora.join(kernels, adapters)
  )
  jax.tree.map(np.testing.assert_array_equal, again, params)
  written = convert.convert(
    str(tmp_path / 'run' / 'checkpoints'), str(tmp_path / 'model')
  )
  jax.tree.map(np.testing.assert_array_equal, hf.load(written)[1], params)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'policy.lora.base_dtype': 'int4'}, "'int4' is not supported; supported"),
    ({'policy.lora.path': 'tuned'}, 'leave lora.rank at 0'),
    (
      {'policy.path': 'tuned', 'policy.lora.path': 'tuned'},
      'leave lora.rank at 0',
    ),
    (
      {
        'policy.path': 'tuned',
        'policy.lora.path': 'tuned',
        'policy.lora.rank': 0,
      },
      'they would count twice',
    ),
    ({'policy.lora.targets': ('q_proj',)}, 'q_proj: there is no such'),
  ],
)
def test_what_cannot_be_is_said(
  tuned, tiny_model, tmp_path, one_device, options, message
):
  options = {k: str(tuned) if v == 'tuned' else v for k, v in options.items()}
  with pytest.raises(ValueError, match=message):
    rl.run(rl_config(tiny_model, **options), tmp_path)
