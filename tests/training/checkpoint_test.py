import logging
import pathlib
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rlaif_jax.training import checkpoint


def make_state(value):
  return {
    'w': jnp.arange(12.0).reshape(4, 3) * value,
    'half': jnp.full((5,), value, jnp.bfloat16),
    'step': jnp.int32(value),
    'key': jax.random.key(value),
    'count': value,
  }


def plain(tree):
  def leaf(x):
    if isinstance(x, jax.Array) and jnp.issubdtype(
      x.dtype, jax.dtypes.prng_key
    ):
      x = jax.random.key_data(x)
    return np.asarray(x).tolist()

  return jax.tree.map(leaf, tree)


def save_steps(directory, steps, **options):
  with checkpoint.Checkpointer(directory, **options) as checkpointer:
    for step in steps:
      checkpointer.save(step, make_state(step))


def restore(directory, **options):
  with checkpoint.Checkpointer(directory) as checkpointer:
    return checkpointer.restore(
      checkpoint.abstract_like(make_state(0)), **options
    )


def test_round_trip_of_arrays_keys_and_numbers(tmp_path):
  save_steps(tmp_path, [3])
  step, state = restore(tmp_path)
  assert step == 3
  assert plain(state) == plain(make_state(3))
  assert state['half'].dtype == jnp.bfloat16
  assert type(state['count']) is int
  assert jax.random.uniform(state['key']) == jax.random.uniform(
    jax.random.key(3)
  )


def test_nothing_to_restore(tmp_path):
  assert restore(tmp_path / 'new') is None


def test_saving_is_cheap_and_survives_donation(tmp_path):
  donate = jax.jit(lambda s: {**s, 'w': s['w'] + 1}, donate_argnums=0)
  arrays = {k: v for k, v in make_state(1).items() if k != 'count'}
  with checkpoint.Checkpointer(tmp_path, keep_latest=4) as checkpointer:
    checkpointer.save(1, arrays)  # the first also imports and compiles
    checkpointer.wait()
    start = time.perf_counter()
    checkpointer.save(2, arrays)
    blocked = time.perf_counter() - start
    arrays = donate(donate(arrays))
    _, restored = checkpointer.restore(checkpoint.abstract_like(arrays))
  assert blocked < 0.3
  np.testing.assert_array_equal(restored['w'], make_state(1)['w'])


def test_keeps_the_latest_and_the_best(tmp_path):
  scores = {1: 0.1, 2: 0.9, 3: 0.8, 4: float('nan'), 5: None, 6: 0.3}
  for mode, best in (('max', 2), ('min', 1)):
    directory = tmp_path / mode
    options = dict(keep_latest=1, best_metric='reward', best_mode=mode)
    with checkpoint.Checkpointer(directory, **options) as checkpointer:
      for step, score in scores.items():
        metrics = {} if score is None else {'reward': score}
        checkpointer.save(step, make_state(step), metrics)
      checkpointer.wait()
      assert checkpointer.all_steps() == [best, 6]
    # The best is still known after a restart.
    with checkpoint.Checkpointer(directory, **options) as checkpointer:
      assert checkpointer.best_step() == best
      checkpointer.save(7, make_state(7), {'reward': 0.5})
      checkpointer.wait()
      assert checkpointer.all_steps() == [best, 7]
      abstract = checkpoint.abstract_like(make_state(0))
      assert checkpointer.restore(abstract, best=True)[0] == best


def test_without_a_best_metric_only_the_latest_are_kept(tmp_path):
  save_steps(tmp_path, [1, 2, 3], keep_latest=2)
  with checkpoint.Checkpointer(tmp_path) as checkpointer:
    assert checkpointer.all_steps() == [2, 3]
    assert checkpointer.best_step() is None


def damage(file, how):
  data = file.read_bytes()
  if how == 'delete':
    file.unlink()
  elif how == 'truncate':
    file.write_bytes(data[: len(data) // 2])
  else:
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0x55
    file.write_bytes(flipped)


@pytest.fixture(scope='module')
def two_steps(tmp_path_factory):
  directory = tmp_path_factory.mktemp('two')
  save_steps(directory, [10, 20])
  return directory


def data_file(step_dir: pathlib.Path) -> pathlib.Path:
  files = [p for p in step_dir.glob('default/**/d/*') if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


TARGETS = {
  'data': data_file,
  'manifest': lambda d: d / 'default' / 'manifest.ocdbt',
  'metadata': lambda d: d / 'default' / '_METADATA',
  'metrics': lambda d: d / 'metrics' / 'metrics',
  'files.json': lambda d: d / 'files.json',
}


@pytest.mark.parametrize('how', ['delete', 'truncate', 'flip'])
@pytest.mark.parametrize('target', TARGETS)
def test_damaged_step_is_named_and_the_one_before_used(
  two_steps, tmp_path, caplog, target, how
):
  directory = tmp_path / 'checkpoints'
  shutil.copytree(two_steps, directory)
  damage(TARGETS[target](directory / '20'), how)
  with caplog.at_level(logging.WARNING):
    step, state = restore(directory)
  assert step == 10
  assert plain(state) == plain(make_state(10))
  assert str(directory / '20') in caplog.text
  assert 'damaged-20' in caplog.text
  assert (directory / 'damaged-20').is_dir()  # moved, not deleted
  save_steps(directory, [20])
  assert restore(directory)[0] == 20


@pytest.mark.parametrize('how', ['delete', 'truncate'])
def test_step_metadata_is_not_needed(two_steps, tmp_path, how):
  directory = tmp_path / 'checkpoints'
  shutil.copytree(two_steps, directory)
  damage(directory / '20' / '_CHECKPOINT_METADATA', how)
  step, state = restore(directory)
  assert step == 20
  assert plain(state) == plain(make_state(20))


def test_empty_and_unfinished_steps_are_not_used(two_steps, tmp_path, caplog):
  directory = tmp_path / 'checkpoints'
  shutil.copytree(two_steps, directory)
  (directory / '30').mkdir()
  (directory / '40.orbax-checkpoint-tmp').mkdir()
  assert restore(directory)[0] == 20
  assert str(directory / '30') in caplog.text


def test_all_steps_damaged_is_a_fresh_start(two_steps, tmp_path, caplog):
  directory = tmp_path / 'checkpoints'
  shutil.copytree(two_steps, directory)
  for step in ('10', '20'):
    damage(data_file(directory / step), 'truncate')
  assert restore(directory) is None
  assert caplog.text.count('is damaged') == 2


@pytest.mark.multidevice
def test_restores_onto_another_mesh(tmp_path):
  def placed(mesh_shape, spec):
    mesh = jax.make_mesh(
      mesh_shape, ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2
    )
    value = jnp.arange(64.0).reshape(8, 8)
    return {'w': jax.device_put(value, NamedSharding(mesh, spec))}

  with checkpoint.Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, placed((2, 4), PartitionSpec('data', 'fsdp')))
  target = placed((8, 1), PartitionSpec(None, 'data'))
  with checkpoint.Checkpointer(tmp_path) as checkpointer:
    _, state = checkpointer.restore(checkpoint.abstract_like(target))
  assert state['w'].sharding == target['w'].sharding
  np.testing.assert_array_equal(state['w'], target['w'])


@pytest.mark.parametrize(
  ('change', 'says'),
  [
    ({'w': jnp.zeros((4, 4))}, r'w: \(4, 3\) there, \(4, 4\) here'),
    ({'extra': jnp.zeros(2)}, r'extra: \(absent\) there, \(2,\) here'),
  ],
)
def test_another_model_is_an_error_not_damage(
  two_steps, tmp_path, change, says
):
  directory = tmp_path / 'checkpoints'
  shutil.copytree(two_steps, directory)
  abstract = checkpoint.abstract_like({**make_state(0), **change})
  with (
    checkpoint.Checkpointer(directory) as checkpointer,
    pytest.raises(ValueError, match=rf'(?s)20 does not fit .*{says}'),
  ):
    checkpointer.restore(abstract)
  assert (directory / '20').is_dir()


def test_part_of_a_checkpoint(two_steps, tmp_path):
  abstract = checkpoint.abstract_like({'w': make_state(0)['w']})
  part = checkpoint.restore_subtree(two_steps / '20', abstract)
  assert plain(part) == {'w': plain(make_state(20))['w']}
  other = {'v': abstract['w']}
  with pytest.raises(ValueError, match=r'v: \(absent\) there, \(4, 3\) here'):
    checkpoint.restore_subtree(two_steps / '20', other)
  with pytest.raises(FileNotFoundError, match='no checkpoint at'):
    checkpoint.restore_subtree(two_steps / '99', abstract)
  broken = tmp_path / '20'
  shutil.copytree(two_steps / '20', broken)
  damage(data_file(broken), 'flip')
  with pytest.raises(ValueError, match='is damaged'):
    checkpoint.restore_subtree(broken, abstract)


def test_saving_a_step_twice_is_an_error(tmp_path):
  with pytest.raises(ValueError, match='already has a checkpoint 1'):
    save_steps(tmp_path, [1, 1])


def test_failed_save_leaves_the_earlier_one(tmp_path, monkeypatch):
  checkpointer = checkpoint.Checkpointer(tmp_path)
  checkpointer.save(1, make_state(1))
  checkpointer.wait()

  def full(path, value):
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.manifest.workdir_lib, 'write_json_atomic', full)
    checkpointer.save(2, make_state(2))
    with pytest.raises(OSError, match='checkpoint 2 .* No space left'):
      checkpointer.wait()
  checkpointer.close()
  assert restore(tmp_path)[0] == 1


@pytest.mark.parametrize(
  'options', [{'keep_latest': 0}, {'keep_best': -1}, {'best_mode': 'most'}]
)
def test_bad_options(tmp_path, options):
  with pytest.raises(ValueError, match=next(iter(options))):
    checkpoint.Checkpointer(tmp_path, **options)
