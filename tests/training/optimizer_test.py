import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlaif_jax.training.optimizer import (
  OptimizerConfig,
  decay_mask,
  make_optimizer,
  make_schedule,
)


@pytest.mark.parametrize(
  ('schedule', 'expected'),
  [
    ('constant', [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ('linear', [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]),
    (
      'cosine',
      [0.5, 1.0, 1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0],
    ),
  ],
)
def test_schedule_by_hand(schedule, expected):
  config = OptimizerConfig(
    learning_rate=2.0, schedule=schedule, warmup_steps=2, total_steps=6
  )
  rates = [float(make_schedule(config)(i)) for i in range(7)]
  np.testing.assert_allclose(rates, 2 * np.array(expected), atol=1e-6)


@pytest.mark.parametrize('schedule', ['linear', 'cosine'])
def test_a_schedule_may_end_above_zero(schedule):
  """Straight between what it would be and the rate itself."""
  config = OptimizerConfig(
    learning_rate=2.0, schedule=schedule, warmup_steps=2, total_steps=6
  )
  high = dataclasses.replace(config, end_share=0.1)
  for i in range(2, 8):
    to_zero = float(make_schedule(config)(i))
    expected = 0.1 * 2.0 + 0.9 * to_zero
    assert float(make_schedule(high)(i)) == pytest.approx(expected)
  assert float(make_schedule(high)(6)) == pytest.approx(0.2)
  assert float(make_schedule(high)(0)) == float(make_schedule(config)(0))
  with pytest.raises(ValueError, match='end_share=2'):
    dataclasses.replace(config, end_share=2.0)


def test_constant_without_warmup():
  assert float(make_schedule(OptimizerConfig(learning_rate=0.1))(0)) == (
    pytest.approx(0.1)
  )


def one_update(config, params, grads, steps=1):
  tx = make_optimizer(config)
  state = tx.init(params)
  for _ in range(steps):
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params


def test_sgd_by_hand():
  config = OptimizerConfig(name='sgd', learning_rate=0.1, clip_norm=0, b1=0.5)
  out = one_update(config, jnp.ones(1), jnp.full(1, 2.0), steps=2)
  # Momentum: 2, then 0.5 * 2 + 2 = 3.
  np.testing.assert_allclose(out, [1 - 0.2 - 0.3], rtol=1e-6)


def test_clips_the_global_norm():
  config = OptimizerConfig(name='sgd', learning_rate=1.0, clip_norm=1.0, b1=0)
  grads = {'a': jnp.array([3.0]), 'b': jnp.array([4.0])}
  out = one_update(config, jax.tree.map(jnp.zeros_like, grads), grads)
  np.testing.assert_allclose([out['a'][0], out['b'][0]], [-0.6, -0.8], 1e-6)


def test_first_adam_step_has_the_size_of_the_rate():
  config = OptimizerConfig(name='adam', learning_rate=0.01, clip_norm=0)
  out = one_update(config, jnp.zeros(2), jnp.array([5.0, -0.1]))
  np.testing.assert_allclose(out, [-0.01, 0.01], rtol=1e-4)


def test_adamw_is_optax_adamw():
  config = OptimizerConfig(
    name='adamw', learning_rate=0.01, weight_decay=0.1, clip_norm=0, b2=0.95
  )
  params, grads = jnp.ones((2, 2)), jnp.full((2, 2), 0.3)
  tx = optax.adamw(0.01, b2=0.95, weight_decay=0.1)
  updates, _ = tx.update(grads, tx.init(params), params)
  np.testing.assert_allclose(
    one_update(config, params, grads), params + updates, rtol=1e-6
  )


@pytest.mark.parametrize('scale', [False, True])
def test_adafactor_is_optax_adafactor(scale):
  config = OptimizerConfig(
    name='adafactor',
    learning_rate=0.01,
    clip_norm=0,
    min_dim_size_to_factor=4,
    multiply_by_parameter_scale=scale,
  )
  params = {'w': jax.random.normal(jax.random.key(0), (4, 6)), 'b': jnp.ones(3)}
  grads = jax.tree.map(lambda x: jnp.cos(3 * x), params)
  tx = optax.adafactor(
    0.01, min_dim_size_to_factor=4, multiply_by_parameter_scale=scale
  )
  expected, state = params, tx.init(params)
  for _ in range(3):
    updates, state = tx.update(grads, state, expected)
    expected = optax.apply_updates(expected, updates)
  out = one_update(config, params, grads, steps=3)
  for key in params:
    np.testing.assert_allclose(out[key], expected[key], rtol=1e-5)


@pytest.mark.parametrize('name', ['adafactor', 'adamw', 'sgd'])
def test_decay_is_decoupled_and_spares_biases(name):
  config = OptimizerConfig(name=name, learning_rate=0.1, weight_decay=0.5)
  params = {'w': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
  out = one_update(config, params, jax.tree.map(jnp.zeros_like, params))
  np.testing.assert_allclose(out['w'], np.full((2, 2), 0.95), rtol=1e-5)
  np.testing.assert_array_equal(out['bias'], np.ones(2))


def test_decay_mask_knows_stacked_biases_and_norms():
  layers = jnp.zeros((2, 3))  # stacked vectors
  params = {
    'embed': layers,
    'layers': {
      'attention': {'kernel': jnp.zeros((2, 3, 3)), 'bias': layers},
      'norm_1': {'scale': layers},
      'ln_2': {'weight': layers},
      'mlp': {'b': layers, 'w': layers},
    },
    'head': {'kernel': jnp.zeros(3)},
  }
  assert decay_mask(params) == {
    'embed': True,
    'layers': {
      'attention': {'kernel': True, 'bias': False},
      'norm_1': {'scale': False},
      'ln_2': {'weight': False},
      'mlp': {'b': False, 'w': True},
    },
    'head': {'kernel': False},
  }


def test_learning_rate_is_in_the_state():
  config = OptimizerConfig(learning_rate=0.2, warmup_steps=2)
  tx, params = make_optimizer(config), jnp.ones(2)
  state = tx.init(params)
  for expected in (0.1, 0.2, 0.2):
    _, state = tx.update(params, state, params)
    assert float(optax.tree.get(state, 'learning_rate')) == (
      pytest.approx(expected)
    )


@pytest.mark.parametrize(
  ('field', 'value', 'says'),
  [
    ('name', 'adamax', 'adafactor, adamw, adam, sgd'),
    ('schedule', 'step', 'constant, cosine, linear'),
    ('learning_rate', -1.0, 'cannot be negative'),
    ('learning_rate', math.nan, 'cannot be negative'),
    ('b1', 1.0, 'must be in'),
  ],
)
def test_bad_values_are_named(field, value, says):
  with pytest.raises(ValueError, match=f'{field}=.*{says}'):
    dataclasses.replace(OptimizerConfig(), **{field: value})


def test_bad_combinations_are_named():
  with pytest.raises(ValueError, match='needs total_steps'):
    OptimizerConfig(schedule='cosine', warmup_steps=5, total_steps=5)
  with pytest.raises(ValueError, match="use 'adamw'"):
    OptimizerConfig(name='adam', weight_decay=0.1)
