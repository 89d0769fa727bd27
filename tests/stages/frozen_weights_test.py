"""How a block wants weights held reaches what loads its models."""

import jax
import numpy as np
import pytest

from rlaif_jax import sharding
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.models import int8, weights
from rlaif_jax.stages import _judges, _labelers, _rewards, common, revise

HELD = {'param_dtype': 'int8', 'offload': True}
BLOCKS = {
  'labeler': _labelers.config,
  'judge': _judges.config,
  'reviser': lambda: revise.default_config().reviser,
}


def assert_held(params):
  leaves = weights.flatten(params)
  packed = [path for path in leaves if path.endswith(int8.SCALE)]
  assert packed
  for path in packed:
    kernel = leaves[path.replace(int8.SCALE, 'kernel')]
    assert kernel.dtype == np.int8
    assert kernel.sharding.memory_kind == 'pinned_host'


@pytest.fixture
def mesh():
  found = sharding.make_mesh({'data': 1}, jax.devices()[:1])
  with jax.set_mesh(found):
    yield found


@pytest.mark.parametrize('name', BLOCKS)
def test_labelers(tiny_model, mesh, name):
  s = common.Session(None, None, mesh, sharding.DEFAULT_RULES)
  plain = _labelers.load(BLOCKS[name](), tiny_model, s)
  block = BLOCKS[name]()
  block.update(HELD)
  held = _labelers.load(block, tiny_model, s)
  assert_held(held.params)
  assert plain.params['embed']['tokens'].dtype == np.float32
  # Answers of the one are not those of the other.
  assert held.identity != plain.identity


@pytest.mark.parametrize(
  'name', ['direct', 'pairwise', 'reward_model', 'ensemble', 'gated', 'judge']
)
def test_rewards(tiny_model, tiny_reward_model, mesh, name):
  block = _judges.config() if name == 'judge' else _rewards.config()
  asks = name in ('direct', 'pairwise')
  block.path = tiny_model if asks else tiny_reward_model
  block.name = 'reward_model' if name == 'judge' else name
  block.update(HELD)
  if name == 'pairwise':
    block.prompt = 'summary_base'
  if name == 'ensemble':
    block.options = {'others': (tiny_reward_model,)}
  if name == 'gated':
    block.options = {'safety': tiny_reward_model, 'tag': 'unsafe'}
  where = dict(
    policy_tokenizer=load_tokenizer(tiny_model),
    mesh=mesh,
    rules=sharding.DEFAULT_RULES,
  )
  if name == 'judge':
    models = [_judges.reward_model.make(block, **where)]
  else:
    reward = _rewards.make(block, **where)
    models = {
      'ensemble': lambda: reward.models,
      'gated': lambda: [reward.helpful, reward.safety],
      'reward_model': lambda: [reward],
    }.get(name, lambda: [reward.labeler])()
  assert models
  for model in models:
    assert_held(model.params)
