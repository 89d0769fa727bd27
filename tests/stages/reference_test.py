"""References that are held otherwise than what is trained."""

import jax
import numpy as np
import pytest

from rlaif_jax import models, sharding
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.models import hf, int8, weights
from rlaif_jax.stages import common, preference, rl
from rlaif_jax.training.metrics import read_metrics

CLOCK = ('time/', 'perf/')
MODULES = {'rl': rl, 'preference': preference}


def make_config(name, model, **overrides):
  """Two steps on the tiny world."""
  c = MODULES[name].default_config()
  c.policy.path = model
  split = {'rl': 'rl', 'preference': 'preferences'}[name]
  c.data.update(name='tiny_tldr', path='', split=split, size=8)
  c.batch_size, c.num_steps, c.max_prompt, c.max_response = 8, 2, 80, 6
  c.optimizer.update(name='adam', learning_rate=1e-3, warmup_steps=0)
  if name == 'rl':
    c.reward.name = 'length'
    c.value_optimizer.learning_rate = 1e-3
  else:
    c.eval_data.update(
      name='tiny_tldr', path='', split='test_preferences', size=4
    )
    c.max_response = 48
  c.update_from_flattened_dict(overrides)
  return c


def run(name, path, model, **overrides):
  MODULES[name].run(make_config(name, model, **overrides), path)
  return [
    {k: v for k, v in row.items() if not k.startswith(CLOCK)}
    for row in read_metrics(path)
  ]


@pytest.mark.parametrize('name', ['rl', 'preference'])
@pytest.mark.parametrize(
  'devices', [1, pytest.param(8, marks=pytest.mark.multidevice)]
)
def test_in_host_memory(tiny_model, tmp_path, monkeypatch, name, devices):
  """Nothing but the place is another."""
  chosen = jax.devices()[:devices]
  make = sharding.make_mesh
  monkeypatch.setattr(sharding, 'make_mesh', lambda c: make(c, chosen))
  shape = {'mesh.fsdp': 2 if devices == 8 else 1}
  here = run(name, tmp_path / 'here', tiny_model, **shape)
  there = run(
    name, tmp_path / 'there', tiny_model, reference_offload=True, **shape
  )
  assert here == there
  _, one = hf.load(tmp_path / 'here' / 'model')
  _, other = hf.load(tmp_path / 'there' / 'model')
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope='module')
def rounded(make_model, tmp_path_factory):
  """rounded(dtype) -> (model folder, the same with what weights become)."""

  def make(dtype):
    path = make_model(1)
    model, params = hf.load(path, dtype=dtype)
    leaves = weights.flatten(params)
    for name in [n for n in leaves if n.endswith(int8.SCALE)]:
      kernel = name.replace(int8.SCALE, 'kernel')
      leaves[kernel] = int8.unpack(leaves[kernel], leaves.pop(name))
    leaves = {k: x.astype(np.float32) for k, x in leaves.items()}
    folder = tmp_path_factory.mktemp('models') / dtype
    hf.save(
      folder,
      models.with_options(model, int8=False),
      weights.unflatten(leaves),
      load_tokenizer(path),
    )
    return path, str(folder)

  return make


@pytest.mark.parametrize('name', ['rl', 'preference'])
@pytest.mark.parametrize('dtype', ['bfloat16', 'int8'])
def test_smaller(tiny_model, rounded, tmp_path, one_device, name, dtype):
  """As a reference whose weights in float32 are the rounded ones."""
  key = {'rl': 'objective/kl', 'preference': 'loss/preference'}[name]
  path, same = rounded(dtype)
  exact, found, expected = (
    run(name, tmp_path / str(i), tiny_model, **flags)
    for i, flags in enumerate(
      (
        {'reference': path},
        {'reference': path, 'reference_param_dtype': dtype},
        {'reference': same},
      )
    )
  )
  exact, found, expected = (rows[0][key] for rows in (exact, found, expected))
  assert abs(found - expected) < 0.02 * abs(found - exact)


def frozen_and_state(name, config, tmp_path):
  mesh = sharding.make_mesh()
  with jax.set_mesh(mesh):
    s = common.Session(tmp_path, config, mesh, sharding.DEFAULT_RULES)
    loaded = common.load_policy(config.policy, s)
    if name == 'preference':
      return loaded, *preference.split_models(s, loaded)
    txs = dict.fromkeys(
      ('policy', 'value'), common.make_optimizer(config.optimizer, 1)
    )
    _, state, frozen = rl.init_state(s, loaded, txs, jax.random.key(0))
    return loaded, frozen, state.policy.params


@pytest.mark.parametrize('name', ['rl', 'preference'])
def test_nothing_is_held_twice(tiny_model, tmp_path, one_device, name):
  """What was loaded is trained itself where no reference keeps it."""
  config = make_config(
    name, tiny_model, reference_param_dtype='int8', reference_offload=True
  )
  loaded, frozen, trained = frozen_and_state(name, config, tmp_path)
  for one, other in zip(
    *map(jax.tree.leaves, (loaded.params, trained)), strict=True
  ):
    assert one.unsafe_buffer_pointer() == other.unsafe_buffer_pointer()
  query = frozen.reference_params()['layers']['attention']['query']['kernel']
  assert query.dtype == np.int8
  assert query.sharding.memory_kind == 'pinned_host'
  assert frozen.base == {}


@pytest.mark.parametrize('name', ['rl', 'preference'])
@pytest.mark.parametrize(
  'flag', [{'reference_offload': True}, {'reference_param_dtype': 'bfloat16'}]
)
def test_not_with_lora(tiny_model, tmp_path, name, flag):
  config = make_config(name, tiny_model, **flag, **{'policy.lora.rank': 2})
  with pytest.raises(ValueError, match=r'set policy\.lora\.base_dtype'):
    MODULES[name].run(config, tmp_path)


@pytest.mark.parametrize('key', ['reference_param_dtype', 'reward.param_dtype'])
def test_unknown_type(tiny_model, tmp_path, key):
  config = make_config('rl', tiny_model, **{key: 'int4'})
  with pytest.raises(ValueError, match=rf"config\.{key}='int4'.*bfloat16"):
    rl.run(config, tmp_path)
