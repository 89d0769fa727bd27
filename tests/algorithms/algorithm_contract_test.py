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
  assert isinstance(algorithm.NEEDS_VALUE, bool)
  assert isinstance(algorithm.ON_POLICY, bool)
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


@pytest.mark.parametrize('name', algorithms.names())
def test_what_the_stage_reads(name):
  """How often a batch is learned from, and what is carried to the next."""
  algorithm = algorithms.load(name)
  config = algorithm.Config()
  names = ('group_size', 'inner_epochs', 'num_minibatches')
  counts = {field: algorithms.count(config, field) for field in names}
  assert all(isinstance(n, int) and n >= 1 for n in counts.values())
  if algorithm.ON_POLICY:
    assert set(counts.values()) == {1}
    return
  rollout, arrays = _batch()
  state = getattr(algorithm, 'init_state', lambda _: {})(config)
  given = dict(
    scores=arrays['scores'], ref_logprobs=arrays['ref_logprobs'], config=config
  )
  if state:
    given['state'] = state
  after, metrics = algorithm.observe(rollout, **given)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  shapes = jax.tree.map(lambda x: (x.shape, x.dtype), (state, after))
  assert shapes[0] == shapes[1]
  # What the stage's checkpoints and dashboards ask for.
  assert {
    'objective/scores', 'objective/kl', 'objective/non_score_reward',
    'objective/rlhf_reward',
  } <= metrics.keys()  # fmt: skip
  assert all(x.shape == () and np.isfinite(x) for x in metrics.values())
  targets = algorithm.targets(rollout, values=arrays['values'], **given)
  rows = len(rollout.response_mask)
  assert all(len(x) == rows for x in jax.tree.leaves(targets))


@pytest.mark.parametrize('name', algorithms.names())
def test_padding_changes_nothing(name):
  """Whatever padding holds, NaN included, in targets, loss and gradients."""
  algorithm = algorithms.load(name)
  config = algorithm.Config()
  rollout, arrays = _batch()

  def run(fill):
    def padded(x):
      return jnp.where(rollout.response_mask, x, fill)

    filled = dataclasses.replace(rollout, logprobs=padded(rollout.logprobs))
    ref_logprobs = padded(arrays['ref_logprobs'])
    values = padded(arrays['values'])
    targets = algorithm.targets(
      filled,
      scores=arrays['scores'],
      ref_logprobs=ref_logprobs,
      values=values,
      config=config,
    )

    def loss(logprobs, values):
      return algorithm.loss(
        logprobs, values, targets, filled, config, ref_logprobs=ref_logprobs
      )[0]

    return targets, jax.value_and_grad(loss, argnums=(0, 1))(
      padded(rollout.logprobs - 0.1), values
    )

  plain = run(0.0)
  for fill in (7.0, jnp.nan):
    jax.tree.map(np.testing.assert_array_equal, run(fill), plain)


def test_load_lists_what_there_is():
  with pytest.raises(ValueError, match='No algorithm .reinforse.*reinforce'):
    algorithms.load('reinforse')
