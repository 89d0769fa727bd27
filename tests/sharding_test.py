import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from rlaif_jax import sharding

pytestmark = pytest.mark.multidevice


@dataclasses.dataclass(frozen=True)
class FakeDevice:
  """What laying out several slices looks at."""

  id: int
  slice_index: int
  process_index: int
  platform: str = 'gpu'
  device_kind: str = 'fake'


@pytest.fixture
def mesh():
  return sharding.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})


class TestMakeMesh:
  def test_default_is_all_data(self):
    mesh = sharding.make_mesh()
    assert dict(mesh.shape) == {'data': 8, 'fsdp': 1, 'tensor': 1}
    assert mesh.axis_types == (AxisType.Auto,) * 3

  def test_fills_in_the_rest(self):
    mesh = sharding.make_mesh({'data': 1, 'fsdp': -1, 'tensor': 2})
    assert dict(mesh.shape) == {'data': 1, 'fsdp': 4, 'tensor': 2}

  def test_single_device(self):
    mesh = sharding.make_mesh({'data': 1}, jax.devices()[:1])
    assert mesh.size == 1

  @pytest.mark.parametrize(
    ('config', 'message'),
    [
      ({'model': 2}, 'unknown axis model'),
      ({'data': 3}, 'do not multiply to the 8 devices'),
      ({'data': -1, 'tensor': 3}, 'do not multiply to the 8 devices'),
      ({'data': -1, 'fsdp': -1}, 'one of them may be -1'),
      ({'data': 8, 'fsdp': 0}, 'must be positive'),
    ],
  )
  def test_bad_sizes(self, config, message):
    with pytest.raises(ValueError, match=message):
      sharding.make_mesh(config)

  def test_slices_lie_along_data(self):
    devices = [FakeDevice(i, i // 4, i // 4) for i in range(8)]
    mesh = sharding.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2}, devices)
    for i in range(2):
      assert {d.slice_index for d in mesh.devices[i].flat} == {i}
    with pytest.raises(ValueError, match='multiple of the 2 slices'):
      sharding.make_mesh({'data': 1, 'fsdp': 8}, devices)


class TestShardings:
  def test_default_rules(self, mesh):
    spec = sharding.named_sharding(mesh, 'embed', 'heads', 'head_dim').spec
    assert spec == PartitionSpec('fsdp', 'tensor', None)
    spec = sharding.named_sharding(mesh, 'batch', 'length', 'width').spec
    assert spec == PartitionSpec(('data', 'fsdp'), None, None)

  def test_rules_override_the_default_ones(self, mesh):
    rules = {'embed': None, 'mlp': ('fsdp', 'tensor')}
    spec = sharding.named_sharding(mesh, 'embed', 'mlp', rules=rules).spec
    assert spec == PartitionSpec(None, ('fsdp', 'tensor'))
    frozen = sharding.freeze_rules({'mlp': ['fsdp', 'tensor'], 'embed': None})
    assert sharding.named_sharding(mesh, 'embed', 'mlp', rules=frozen).spec == (
      spec
    )
    assert hash(frozen) == hash(sharding.freeze_rules(dict(frozen)))

  def test_tree(self, mesh):
    axes = {'a': {'kernel': ('embed', 'mlp')}, 'b': ()}
    shapes = {'a': {'kernel': jnp.zeros((4, 6))}, 'b': jnp.zeros(())}
    found = sharding.shardings(axes, shapes, mesh)
    assert found['a']['kernel'].spec == PartitionSpec('fsdp', 'tensor')
    assert found['b'].spec == PartitionSpec()

  def test_a_size_that_does_not_divide_is_named(self, mesh):
    with pytest.raises(ValueError, match=r"\['w'\].*'embed' of size 3.*fsdp=2"):
      sharding.shardings({'w': ('embed',)}, {'w': jnp.zeros(3)}, mesh)

  def test_sizes_of_the_checkpoint_are_replicated_instead(self, mesh):
    for axis in sharding.REPLICATED_IF_INDIVISIBLE:
      found = sharding.shardings([(axis,)], [jnp.zeros(3)], mesh)
      assert found[0].is_fully_replicated
    # 6 divides by tensor=2 but not by tensor * fsdp.
    found = sharding.shardings([('vocab_table',)], [jnp.zeros(6)], mesh)
    assert found[0].spec == PartitionSpec('tensor')

  def test_unknown_axis(self, mesh):
    with pytest.raises(ValueError, match='logical axis hats; known: batch'):
      sharding.named_sharding(mesh, 'hats')

  def test_one_mesh_axis_twice(self, mesh):
    with pytest.raises(ValueError, match='tensor twice'):
      sharding.named_sharding(mesh, 'mlp', 'heads')

  def test_wrong_rank(self, mesh):
    with pytest.raises(ValueError, match='do not fit'):
      sharding.shardings([('embed',)], [jnp.zeros((2, 2))], mesh)

  def test_axes_that_a_mesh_lacks_are_left_out(self):
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    spec = sharding.named_sharding(mesh, 'batch', 'mlp').spec
    assert spec == PartitionSpec('data', None)


class TestConstrain:
  def test_lays_out_under_a_mesh(self, mesh):
    with jax.set_mesh(mesh):
      x = jax.jit(lambda x: sharding.constrain(x, 'batch', 'mlp'))(
        jnp.zeros((4, 2))
      )
    assert x.sharding.spec == PartitionSpec(('data', 'fsdp'), 'tensor')

  def test_does_nothing_without_a_mesh(self):
    x = jnp.zeros((4, 2))
    assert sharding.constrain(x, 'batch', 'mlp') is x

  def test_unknown_axis_raises_with_and_without_a_mesh(self, mesh):
    with pytest.raises(ValueError, match='hats'):
      sharding.constrain(jnp.zeros(4), 'hats')
    with jax.set_mesh(mesh), pytest.raises(ValueError, match='hats'):
      sharding.constrain(jnp.zeros(4), 'hats')

  def test_a_batch_that_does_not_divide(self, mesh):
    with jax.set_mesh(mesh):
      x = jax.jit(lambda x: sharding.constrain(x, 'batch'))(jnp.zeros(1))
      y = jax.jit(lambda x: sharding.constrain(x, 'batch'))(jnp.zeros(2))
    assert x.sharding.is_fully_replicated
    assert y.sharding.spec == PartitionSpec('data')


class TestPlacement:
  def test_shard_batch_and_back(self, mesh):
    batch = {
      'tokens': np.arange(24, dtype=np.int32).reshape(8, 3),
      'step': np.int32(7),
    }
    placed = sharding.shard_batch(batch, mesh)
    assert placed['tokens'].sharding.spec == PartitionSpec(('data', 'fsdp'))
    assert placed['step'].sharding.is_fully_replicated
    back = sharding.to_host(placed)
    np.testing.assert_array_equal(back['tokens'], batch['tokens'])
    assert isinstance(back['tokens'], np.ndarray)
    assert back['step'] == 7

  def test_rows_that_do_not_divide(self, mesh):
    with pytest.raises(ValueError, match=r"\['x'\]: 6 rows.*fsdp = 4"):
      sharding.shard_batch({'x': np.zeros((6, 2))}, mesh)

  def test_replicate(self, mesh):
    placed = sharding.replicate({'x': np.ones(3), 'k': jax.random.key(0)}, mesh)
    assert placed['x'].sharding.is_fully_replicated
    assert len(placed['x'].devices()) == 8
    assert placed['k'] == jax.random.key(0)
