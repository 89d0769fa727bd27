"""algorithms/ppo.py against loops, and its KL controller."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.algorithms import ppo


def _twin(batch, config, beta=None):
  """(advantages, returns) by loops over the module's docstring."""
  beta = config.beta if beta is None else beta
  rewards, mask = np.zeros(batch.mask.shape), batch.mask
  for b, length in enumerate(batch.lengths):
    for t in range(length):
      rewards[b, t] = -beta * (batch.old[b, t] - batch.ref[b, t])
      if t == length - 1:
        rewards[b, t] += batch.scores[b]
  if config.whiten_rewards:
    rewards /= np.sqrt(rewards[mask].var() + 1e-8)
  advantages = np.zeros(mask.shape)
  for b, length in enumerate(batch.lengths):
    v = [*batch.values[b, :length], 0.0]
    d = [rewards[b, t] + config.gamma * v[t + 1] - v[t] for t in range(length)]
    decay = config.gamma * config.gae_lambda
    for t in range(length):
      advantages[b, t] = sum(decay ** (s - t) * d[s] for s in range(t, length))
  to_go = np.where(mask, advantages + batch.values, 0.0)
  if config.whiten_advantages:
    real = advantages[mask]
    scaled = (advantages - real.mean()) / np.sqrt(real.var() + 1e-8)
    advantages = np.where(mask, scaled, 0.0)
  return advantages, to_go


_CONFIGS = {
  'default': ppo.Config(),
  'plain': ppo.Config(beta=0.3, whiten_advantages=False),
  'discounted': ppo.Config(gamma=0.9, gae_lambda=0.5, whiten_rewards=True),
}
_each_config = pytest.mark.parametrize(
  'config', _CONFIGS.values(), ids=_CONFIGS
)


@_each_config
@pytest.mark.parametrize('use_jit', [False, True])
def test_targets_equal_loops(batch, config, use_jit):
  run = functools.partial(ppo.targets, batch.rollout, config=config)
  targets = (jax.jit(run) if use_jit else run)(**batch.arrays)
  advantages, to_go = _twin(batch, config)
  np.testing.assert_allclose(targets.advantages, advantages, atol=1e-5)
  np.testing.assert_allclose(targets.returns, to_go, atol=1e-5)
  np.testing.assert_allclose(
    targets.values, np.where(batch.mask, batch.values, 0), atol=1e-6
  )


def _loss_twin(batch, surrogate, reduce, config, now, values):
  advantages, to_go = _twin(batch, config)
  policy = reduce(
    surrogate(now, advantages, config.clip_low, config.clip_high),
    config.normalize,
  )
  terms = np.zeros(values.shape)
  for b, t in zip(*np.nonzero(batch.mask), strict=True):
    old = batch.values[b, t]
    near = min(
      max(values[b, t], old - config.value_clip), old + config.value_clip
    )
    terms[b, t] = 0.5 * max(
      (values[b, t] - to_go[b, t]) ** 2, (near - to_go[b, t]) ** 2
    )
  value = reduce(terms, config.normalize)
  return policy + config.value_coef * value, policy, value


@_each_config
@pytest.mark.parametrize('normalize', ['token_mean', 'sequence_sum'])
def test_loss_and_gradients_equal_loops(
  batch, run_loss, surrogate, reduce, slope, config, normalize
):
  config = dataclasses.replace(config, normalize=normalize)
  twin = functools.partial(_loss_twin, batch, surrogate, reduce, config)
  value, metrics, grads = run_loss(ppo, config)
  total, policy, value_part = twin(batch.now, batch.new_values)
  np.testing.assert_allclose(value, total, rtol=1e-5)
  np.testing.assert_allclose(metrics['loss/policy_avg'], policy, rtol=1e-4)
  np.testing.assert_allclose(metrics['loss/value_avg'], value_part, rtol=1e-5)
  # Both bounds are in play, or this would show little.
  assert 0 < metrics['policy/clipfrac_avg'] < 1
  assert 0 < metrics['val/clipfrac_avg'] < 1
  expected = (
    slope(lambda x: twin(x, batch.new_values)[0], batch.now),
    slope(lambda x: twin(batch.now, x)[0], batch.new_values),
  )
  for grad, want in zip(grads, expected, strict=True):
    np.testing.assert_allclose(grad, want, atol=1e-5)


def test_by_hand():
  """One response of two tokens: KL 0.5 and -1, score 2, values 1 and 0."""
  config = ppo.Config(
    beta=0.1, gae_lambda=0.5, whiten_advantages=False, value_coef=0.5
  )
  rollout = ppo.types.Rollout(
    *(jnp.ones((1, 1), jnp.int32), jnp.ones((1, 1), bool)),
    *(jnp.ones((1, 2), jnp.int32), jnp.ones((1, 2), bool)),
    logprobs=jnp.array([[-1.0, -2.0]]),
  )
  values = jnp.array([[1.0, 0.0]])
  targets = ppo.targets(
    rollout,
    scores=jnp.array([2.0]),
    ref_logprobs=jnp.array([[-1.5, -1.0]]),
    values=values,
    config=config,
  )
  # r = (-0.05, 2.1), d = (-0.05 + 0 - 1, 2.1 - 0), A = (d_0 + d_1 / 2, d_1).
  np.testing.assert_allclose(targets.advantages, [[0.0, 2.1]], atol=1e-6)
  np.testing.assert_allclose(targets.returns, [[1.0, 2.1]], atol=1e-6)
  # The second token's ratio is 2, clipped to 1.2; its value moved by 1,
  # clipped to 0.2.
  loss, metrics = ppo.loss(
    jnp.array([[-1.0, -2.0 + np.log(2)]]),
    values + jnp.array([[0.0, 1.0]]),
    targets,
    rollout,
    config,
  )
  value = 0.5 * (0.0 + 1.9**2) / 2
  np.testing.assert_allclose(loss, -2.1 * 1.2 / 2 + 0.5 * value, rtol=1e-5)
  assert metrics['policy/clipfrac_avg'] == metrics['val/clipfrac_avg'] == 0.5


def test_targets_carry_no_gradient(batch):
  def total(values, scores):
    arrays = {**batch.arrays, 'values': values, 'scores': scores}
    targets = ppo.targets(batch.rollout, config=ppo.Config(), **arrays)
    return sum(jnp.sum(x) for x in jax.tree.leaves(targets))

  for grad in jax.grad(total, argnums=(0, 1))(
    batch.arrays['values'], batch.arrays['scores']
  ):
    np.testing.assert_array_equal(grad, 0.0)


def test_controller(batch):
  """It moves with KL, is what rewards are made with, and can stand still."""
  config = ppo.Config(kl_target=0.1, kl_horizon=60, whiten_advantages=False)
  given = {k: batch.arrays[k] for k in ('scores', 'ref_logprobs')}
  state = ppo.init_state(config)
  np.testing.assert_allclose(state['kl_coef'], 0.05)
  found = np.where(batch.mask, batch.old - batch.ref, 0).sum(1).mean()
  beta = 0.05
  for _ in range(2):
    state, metrics = jax.jit(
      functools.partial(ppo.observe, batch.rollout, config=config)
    )(**given, state=state)
    np.testing.assert_allclose(metrics['objective/kl'], found, rtol=1e-5)
    np.testing.assert_allclose(metrics['objective/kl_coef'], beta, rtol=1e-6)
    np.testing.assert_allclose(
      metrics['objective/non_score_reward'], -beta * found, rtol=1e-5
    )
    beta *= 1 + np.clip(found / 0.1 - 1, -0.2, 0.2) * 6 / 60
    np.testing.assert_allclose(state['kl_coef'], beta, rtol=1e-6)
  assert beta != pytest.approx(0.05, rel=0.01)
  targets = ppo.targets(
    batch.rollout, config=config, **batch.arrays, state=state
  )
  advantages, _ = _twin(batch, config, beta)
  np.testing.assert_allclose(targets.advantages, advantages, atol=1e-5)

  fixed = ppo.Config()
  after, _ = ppo.observe(
    batch.rollout, config=fixed, **given, state=ppo.init_state(fixed)
  )
  np.testing.assert_array_equal(after['kl_coef'], np.float32(0.05))


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'beta': -0.1}, 'beta=-0.1 must be a number of at least 0'),
    ({'beta': float('nan')}, 'beta=nan'),
    ({'gamma': 1.1}, 'gamma=1.1 is outside'),
    ({'gae_lambda': -1.0}, 'gae_lambda=-1.0 is outside'),
    ({'normalize': 'mean'}, 'sequence_sum, token_mean'),
    ({'inner_epochs': 0}, 'inner_epochs=0 .* at least 1'),
    ({'num_minibatches': 0}, 'num_minibatches=0 .* at least 1'),
    ({'clip_low': 1.5}, 'clip_low=1.5 is above 1'),
    ({'kl_horizon': 0.0}, 'kl_horizon'),
    ({'value_clip': -0.2}, 'value_clip'),
  ],
)
def test_config_says_what_is_allowed(options, message):
  with pytest.raises(ValueError, match=message):
    ppo.Config(**options)
