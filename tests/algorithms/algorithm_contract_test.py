"""Every file of algorithms/ keeps the contract in the folder's docstring."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import algorithms
from rlaif_jax.core import types


def _batch():
  mask = jnp.array([[1, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 0]], bool)
  logprobs = -jnp.arange(1.0, 13.0).reshape(4, 3) / 8
  rollout = types.Rollout(
    prompt_tokens=jnp.ones((4, 2), jnp.int32),
    prompt_mask=jnp.ones((4, 2), bool),
    response_tokens=jnp.ones((4, 3), jnp.int32),
    response_mask=mask,
    logprobs=logprobs,
  )
  arrays = {
    'scores': jnp.array([1.0, -1.0, 5.0, 0.5]),
    'ref_logprobs': logprobs - 0.3,
    'values': jnp.full((4, 3), 0.2),
  }
  return rollout, arrays


@pytest.mark.parametrize('name', algorithms.names())
def test_contract(name):
  algorithm = algorithms.load(name)
  config = algorithm.Config()
  with pytest.raises(dataclasses.FrozenInstanceError):
    setattr(config, dataclasses.fields(config)[0].name, None)
  rollout, arrays = _batch()
  targets = algorithm.targets(rollout, config=config, **arrays)
  padding = ~np.asarray(rollout.response_mask)
  assert isinstance(targets, types.Targets)
  for field in (targets.advantages, targets.returns):
    assert field.shape == padding.shape
    np.testing.assert_array_equal(field[padding], 0.0)

  def loss(logprobs, values):
    return algorithm.loss(
      logprobs,
      values,
      targets,
      rollout,
      config,
      ref_logprobs=arrays['ref_logprobs'],
    )

  (value, metrics), grads = jax.jit(
    jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
  )(rollout.logprobs, arrays['values'])
  assert value.shape == ()
  assert all(x.shape == () and np.isfinite(x) for x in metrics.values())
  for grad in grads:
    assert np.isfinite(grad).all()
    np.testing.assert_array_equal(grad[padding], 0.0)


def test_load_lists_what_there_is():
  with pytest.raises(ValueError, match='No algorithm .reinforse.*reinforce'):
    algorithms.load('reinforse')
