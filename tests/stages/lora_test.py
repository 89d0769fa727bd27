"""LoRA in the stages: what trains, what is shared, what is left behind."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import convert, models, sharding
from rlaif_jax.core.types import Rollout
from rlaif_jax.models import hf, lora, peft, with_options
from rlaif_jax.stages import common, reward, rl, sft
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


@pytest.mark.parametrize(
  ('options', 'message'),
  [
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


# -- one RL step --------------------------------------------------------------

B, P, R = 2, 4, 4


def made(config, width, layers):
  """(update, its arguments) of the RL stage for a random model."""
  model = models.build(
    dict(
      model_type='llama',
      vocab_size=64,
      hidden_size=width,
      intermediate_size=4 * width,
      num_hidden_layers=layers,
      num_attention_heads=4,
      max_position_embeddings=P + R,
      tie_word_embeddings=True,
    )
  )
  params = jax.jit(model.init)(jax.random.key(0))
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  with jax.set_mesh(mesh):
    s = common.Session(None, config, mesh, sharding.DEFAULT_RULES)
    params = sharding.replicate(params, mesh)
    block = config.policy.lora
    if block.rank:
      wanted = models.Lora(block.rank, block.alpha, block.targets)
      model, params = lora.attach(model, params, wanted, jax.random.key(1))
    txs = dict.fromkeys(
      ('policy', 'value'), common.make_optimizer(config.optimizer, 1)
    )
    loaded = common.Loaded(model, params, None, '')
    value_model, state, frozen = rl.init_state(
      s, loaded, txs, jax.random.key(2)
    )
    real = jnp.ones((B, R), bool)
    rollout = Rollout(
      prompt_tokens=jnp.arange(B * P, dtype=jnp.int32).reshape(B, P),
      prompt_mask=jnp.ones((B, P), bool),
      response_tokens=jnp.arange(B * R, dtype=jnp.int32).reshape(B, R),
      response_mask=real,
      logprobs=jnp.zeros((B, R)),
    )
    update = rl.make_update(config, model, value_model, txs)
    return update, (state, frozen, rollout, jnp.arange(B, dtype=jnp.float32))


def step_config(rank):
  c = rl.default_config()
  c.policy.lora.rank = rank
  c.batch_size, c.max_prompt, c.max_response = B, P, R
  c.optimizer.name, c.optimizer.learning_rate = 'adam', 1e-2
  return c


def test_one_step_moves_nothing_but_adapters():
  update, (state, frozen, rollout, scores) = made(step_config(2), 16, 2)
  assert frozen.policy == frozen.value == {}
  before = jax.device_get((state, frozen))
  state, metrics = update(state, frozen, rollout, scores)
  jax.tree.map(np.testing.assert_array_equal, frozen, before[1])
  assert abs(metrics['objective/kl']) < 1e-6
  policy = jax.tree.map(
    lambda a, b: np.abs(a - b).max(),
    dataclasses.replace(state.policy, opt_state=()),
    dataclasses.replace(before[0].policy, opt_state=()),
  ).params
  # A moves once B is not 0.
  for branch in policy['layers'].values():
    for projection in branch.values():
      assert projection.keys() == ADAPTERS
      assert projection['lora_b'] > 1e-3
  value = state.value.params
  assert value.keys() == {'trunk', 'head'}
  assert lora.adapters(value['trunk']).keys() == value['trunk'].keys()
  assert largest(value['head'], before[0].value.params['head']) > 1e-3


def peak_bytes(config):
  """What one update needs on the device: arguments and all it makes."""
  update, args = made(config, width=256, layers=4)
  found = update.lower(*args).compile().memory_analysis()
  return (
    found.argument_size_in_bytes
    + found.output_size_in_bytes
    + found.temp_size_in_bytes
    - found.alias_size_in_bytes
  )


def test_a_step_takes_less_than_half_the_memory(record_property):
  full, adapted = peak_bytes(step_config(0)), peak_bytes(step_config(8))
  record_property('memory_ratio', adapted / full)
  print(f'LoRA {adapted:,} / full {full:,} bytes = {adapted / full:.3f}')
  assert adapted < 0.5 * full
