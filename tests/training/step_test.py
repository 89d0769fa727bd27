import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rlaif_jax.training import step, train_state
from rlaif_jax.training.optimizer import OptimizerConfig, make_optimizer


@pytest.fixture
def batch():
  rng = np.random.default_rng(0)
  mask = rng.uniform(size=(8, 5)) < 0.5
  mask[1::4] = False  # microbatch 1 of 4 has no token at all
  return {
    'x': jnp.asarray(rng.normal(size=(8, 5, 3)), jnp.float32),
    'y': jnp.asarray(rng.normal(size=(8, 5)), jnp.float32),
    'mask': jnp.asarray(mask, jnp.float32),
  }


PARAMS = {'w': jnp.array([0.5, -1.0, 2.0])}


def row_loss(params, batch, key=None):
  loss = jnp.square(batch['x'] @ params['w'] - batch['y']).mean()
  return loss, {'loss/rows': loss}


def token_loss(params, batch, key=None):
  """A mean over tokens; NaN where there is none."""
  weight = batch['mask'].sum()
  errors = jnp.square(batch['x'] @ params['w'] - batch['y'])
  loss = (errors * batch['mask']).sum() / weight
  return loss, {'loss/tokens': loss, 'weight': weight}


@pytest.mark.parametrize('loss_fn', [row_loss, token_loss])
@pytest.mark.parametrize('num_microbatches', [2, 4, 8])
def test_accumulated_equals_the_full_batch(loss_fn, num_microbatches, batch):
  grad_fn = jax.grad(loss_fn, has_aux=True)
  full, metrics = step.accumulate(grad_fn, PARAMS, batch, 1)
  parts, averaged = step.accumulate(grad_fn, PARAMS, batch, num_microbatches)
  np.testing.assert_allclose(parts['w'], full['w'], rtol=1e-6, atol=1e-6)
  assert metrics.keys() == averaged.keys()
  assert 'weight' not in metrics
  for key in metrics:
    np.testing.assert_allclose(averaged[key], metrics[key], rtol=1e-6)


def test_no_weight_at_all_is_zero_not_nan(batch):
  batch['mask'] = jnp.zeros_like(batch['mask'])
  grads, metrics = step.accumulate(
    jax.grad(token_loss, has_aux=True), PARAMS, batch, 2
  )
  assert not np.any(grads['w'])
  assert float(metrics['loss/tokens']) == 0


def test_batch_that_does_not_divide_is_named(batch):
  with pytest.raises(ValueError, match='num_microbatches=3'):
    step.accumulate(jax.grad(row_loss, has_aux=True), PARAMS, batch, 3)


def make_state(tx, params=PARAMS):
  return train_state.create(jax.tree.map(jnp.copy, params), tx)


@pytest.mark.parametrize('num_microbatches', [1, 4])
def test_train_step_by_hand(num_microbatches, batch):
  tx = make_optimizer(
    OptimizerConfig(name='sgd', learning_rate=0.5, b1=0, clip_norm=0)
  )
  train = step.make_train_step(row_loss, tx, num_microbatches=num_microbatches)
  state, metrics = train(make_state(tx), batch, jax.random.key(0))
  grad = jax.grad(row_loss, has_aux=True)(PARAMS, batch)[0]['w']
  np.testing.assert_allclose(
    state.params['w'], PARAMS['w'] - 0.5 * grad, rtol=1e-5
  )
  norm = np.linalg.norm(grad)
  np.testing.assert_allclose(metrics['optim/grad_norm'], norm, rtol=1e-5)
  np.testing.assert_allclose(metrics['optim/update_norm'], norm / 2, rtol=1e-5)
  assert float(metrics['optim/learning_rate']) == 0.5
  assert float(metrics['loss/rows']) == pytest.approx(
    float(row_loss(PARAMS, batch)[0]), rel=1e-5
  )
  assert int(state.step) == 1


def test_microbatches_get_their_own_keys(batch):
  def loss_fn(params, batch, key):
    draw = jax.random.uniform(key)
    return draw * params['w'].sum(), {'draw': draw, 'square': draw**2}

  train = step.make_train_step(loss_fn, optax.sgd(0.1), num_microbatches=2)
  _, metrics = train(make_state(optax.sgd(0.1)), batch, jax.random.key(0))
  assert float(metrics['square'] - metrics['draw'] ** 2) > 1e-6


def test_the_state_is_donated(batch):
  tx = optax.sgd(0.1)
  train = step.make_train_step(row_loss, tx)
  state = make_state(tx)
  train(state, batch, jax.random.key(0))
  assert state.params['w'].is_deleted()


def test_optimizer_without_a_rate_reports_none(batch):
  tx = optax.sgd(0.1)
  train = step.make_train_step(row_loss, tx)
  _, metrics = train(make_state(tx), batch, jax.random.key(0))
  assert set(metrics) == {'loss/rows', 'optim/grad_norm', 'optim/update_norm'}


@pytest.mark.parametrize('enabled', [True, False])
def test_disabled_update_only_counts_the_step(enabled):
  tx = make_optimizer(OptimizerConfig(name='adamw', learning_rate=0.1))
  state = make_state(tx)
  grads = {'w': jnp.ones(3)}
  new, metrics = jax.jit(
    lambda s, on: step.apply_gradients(s, grads, tx, enabled=on)
  )(state, enabled)
  assert int(new.step) == 1
  moved = not np.array_equal(new.params['w'], state.params['w'])
  assert moved == enabled
  assert int(optax.tree.get(new.opt_state, 'mu')['w'][0] != 0) == enabled
  assert (float(metrics['optim/update_norm']) > 0) == enabled
  assert float(metrics['optim/grad_norm']) == pytest.approx(3**0.5)


@pytest.mark.multidevice
@pytest.mark.parametrize('name', ['adamw', 'adafactor'])
def test_sharded_step_keeps_shardings_and_values(name):
  mesh = jax.make_mesh(
    (4, 2), ('data', 'tensor'), axis_types=(AxisType.Auto,) * 2
  )
  tx = make_optimizer(
    OptimizerConfig(name=name, learning_rate=0.1, min_dim_size_to_factor=4)
  )
  rng = np.random.default_rng(0)
  params = {
    'w': rng.normal(size=(4, 6)).astype(np.float32),
    'b': np.zeros(6, np.float32),
  }
  batch = rng.normal(size=(8, 4)).astype(np.float32)

  def loss_fn(params, x, key):
    loss = jnp.square(x @ params['w'] + params['b'][None]).mean()
    return loss, {'loss/a': loss}

  train = step.make_train_step(loss_fn, tx, num_microbatches=2)
  specs = {'w': PartitionSpec(None, 'tensor'), 'b': PartitionSpec()}
  placed = {
    k: jax.device_put(v, NamedSharding(mesh, specs[k]))
    for k, v in params.items()
  }
  key = jax.random.key(0)
  alone = train_state.create(jax.tree.map(jnp.asarray, params), tx)
  with jax.set_mesh(mesh):
    state = train_state.create(placed, tx, mesh)
    where = jax.tree.map(lambda x: x.sharding, state)
    rows = jax.device_put(batch, NamedSharding(mesh, PartitionSpec('data')))
    for _ in range(2):
      state, metrics = train(state, rows, key)
  assert jax.tree.map(lambda x: x.sharding, state) == where
  for _ in range(2):
    alone, expected = train(alone, batch, key)
  np.testing.assert_allclose(state.params['w'], alone.params['w'], rtol=1e-5)
  np.testing.assert_allclose(metrics['loss/a'], expected['loss/a'], rtol=1e-5)
