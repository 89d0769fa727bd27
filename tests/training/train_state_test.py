import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rlaif_jax.training import checkpoint, train_state
from rlaif_jax.training.optimizer import OptimizerConfig, make_optimizer
from rlaif_jax.training.train_state import RunningStats


@pytest.fixture
def mesh():
  return jax.make_mesh(
    (2, 2, 2), ('data', 'fsdp', 'tensor'), axis_types=(AxisType.Auto,) * 3
  )


SPECS = {
  'wide': PartitionSpec('fsdp', 'tensor'),  # [4, 8]
  'tall': PartitionSpec('fsdp', 'tensor'),  # [8, 4]
  'square': PartitionSpec('fsdp', 'tensor'),  # [8, 8]
  'stack': PartitionSpec(None, 'fsdp', 'tensor'),  # [2, 4, 8]
  'bias': PartitionSpec('tensor'),  # [8]
}
SHAPES = {
  'wide': (4, 8),
  'tall': (8, 4),
  'square': (8, 8),
  'stack': (2, 4, 8),
  'bias': (8,),
}


def make_params(mesh):
  return {
    key: jax.device_put(jnp.ones(shape), NamedSharding(mesh, SPECS[key]))
    for key, shape in SHAPES.items()
  }


def optimizer(name, **options):
  return make_optimizer(
    OptimizerConfig(name=name, min_dim_size_to_factor=4, **options)
  )


def specs(tree):
  return jax.tree.map(lambda x: x.sharding.spec, tree)


def places(params):
  return [
    shard.data.unsafe_buffer_pointer()
    for leaf in jax.tree.leaves(params)
    for shard in leaf.addressable_shards
  ]


@pytest.mark.multidevice
def test_parameters_are_used_as_they_are(mesh):
  """Or a stage would hold those that it loaded beside those it trains."""
  params = make_params(mesh)
  state = train_state.create(params, optimizer('adamw'), mesh)
  assert places(state.params) == places(params)
  half = {k: x.astype(jnp.bfloat16) for k, x in params.items()}
  wide = train_state.create(half, optimizer('adamw'), mesh).params
  assert specs(wide) == specs(half)
  assert {x.dtype for x in wide.values()} == {jnp.dtype('float32')}


@pytest.mark.multidevice
def test_moments_are_sharded_like_their_parameters(mesh):
  params = make_params(mesh)
  state = train_state.create(params, optimizer('adamw', weight_decay=0.1), mesh)
  adam = optax.tree.get(state.opt_state, 'ScaleByAdamState')
  assert specs(state.params) == specs(adam.mu) == specs(adam.nu) == SPECS
  assert adam.count.sharding.spec == PartitionSpec()
  assert len(state.step.sharding.device_set) == 8


@pytest.mark.multidevice
def test_factored_statistics_keep_the_axes_that_are_left(mesh):
  state = train_state.create(make_params(mesh), optimizer('adafactor'), mesh)
  factored = optax.tree.get(state.opt_state, 'FactoredState')
  P = PartitionSpec
  # v_row lacks the largest axis, v_col the second largest.
  assert specs(factored.v_row) == {
    'wide': P('fsdp'),
    'tall': P('tensor'),
    'square': P('fsdp'),
    'stack': P(None, 'fsdp'),
    'bias': P(),
  }
  assert specs(factored.v_col) == {
    'wide': P('tensor'),
    'tall': P('fsdp'),
    'square': P('tensor'),
    'stack': P(None, 'tensor'),
    'bias': P(),
  }
  unfactored = specs(factored.v)
  assert unfactored.pop('bias') == P('tensor')
  assert set(unfactored.values()) == {P()}
  shapes = jax.tree.map(jnp.shape, (factored.v_row, factored.v_col))
  assert shapes[0]['stack'] == (2, 4)
  assert shapes[1]['stack'] == (2, 8)


@pytest.mark.multidevice
@pytest.mark.parametrize('name', ['adamw', 'adafactor'])
def test_abstract_state_restores_without_a_live_one(mesh, name, tmp_path):
  params, tx = make_params(mesh), optimizer(name)
  state = train_state.create(params, tx, mesh)
  abstract = train_state.abstract_state(
    jax.eval_shape(lambda: jax.tree.map(jnp.ones, SHAPES, is_leaf=_is_shape)),
    jax.tree.map(lambda x: x.sharding, params),
    tx,
    mesh,
  )
  assert abstract == checkpoint.abstract_like(state)
  with checkpoint.Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, state)
    _, restored = checkpointer.restore(abstract)
  jax.tree.map(np.testing.assert_array_equal, restored, state)
  assert specs(restored) == specs(state)


def _is_shape(x):
  return isinstance(x, tuple)


@pytest.mark.multidevice
def test_parameters_off_the_mesh_are_replicated_on_it(mesh):
  state = train_state.create({'w': np.ones((3, 3))}, optimizer('sgd'), mesh)
  assert state.params['w'].sharding == NamedSharding(mesh, PartitionSpec())


def test_parameters_become_float32():
  params = {'w': jnp.ones((2, 2), jnp.bfloat16), 'n': jnp.int32(3)}
  state = train_state.create(params, optax.sgd(0.1))
  assert state.params['w'].dtype == jnp.float32
  assert state.params['n'].dtype == jnp.int32
  assert int(state.step) == 0


def test_running_stats_match_numpy():
  chunks = np.random.default_rng(0).normal(3.0, 2.0, (5, 4)).astype(np.float32)
  stats = RunningStats.zero()
  assert float(stats.std()) == 1.0
  for chunk in chunks:
    stats = jax.jit(RunningStats.update)(stats, chunk)
  np.testing.assert_allclose(stats.mean, chunks.mean(), rtol=1e-6)
  np.testing.assert_allclose(stats.std(), chunks.std(), rtol=1e-5)
  assert float(stats.count) == 20
