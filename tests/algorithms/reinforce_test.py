"""algorithms/reinforce.py against numbers by hand and loops."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.algorithms import reinforce
from rlaif_jax.core import types

_MASK = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]], bool)
_LOGP = np.array([[-1.0, -2.0, -0.5], [-0.25, 9, 9], [9, 9, 9]], np.float32)
_REF = np.array([[-1.5, -1.0, -0.5], [-1.25, 7, 7], [7, 7, 7]], np.float32)
_SCORES = np.array([2.0, -1.0, 100.0], np.float32)
_VALUES = np.array([[0.5, 0, 1.0], [0.25, 8, 8], [8, 8, 8]], np.float32)


def _rollout():
  return types.Rollout(
    prompt_tokens=jnp.ones((3, 2), jnp.int32),
    prompt_mask=jnp.ones((3, 2), bool),
    response_tokens=jnp.ones((3, 3), jnp.int32),
    response_mask=jnp.asarray(_MASK),
    logprobs=jnp.asarray(_LOGP),
  )


def _targets(config, values=_VALUES):
  return reinforce.targets(
    _rollout(),
    scores=jnp.asarray(_SCORES),
    ref_logprobs=jnp.asarray(_REF),
    values=jnp.asarray(values),
    config=config,
  )


def _loss(config, logprobs=_LOGP, values=_VALUES, targets=None, **options):
  return reinforce.loss(
    jnp.asarray(logprobs),
    jnp.asarray(values),
    targets or _targets(config),
    _rollout(),
    config,
    ref_logprobs=jnp.asarray(_REF),
    **options,
  )


def _twin(config):
  """Returns by loops over the formulas of the module's docstring."""
  out = np.zeros(_MASK.shape)
  for b, length in enumerate(_MASK.sum(1)):
    kls = []
    for t in range(length):
      x = float(_LOGP[b, t] - _REF[b, t])
      k = {'k1': x, 'k2': x * x / 2, 'k3': np.exp(-x) - 1 + x}
      kls.append(k[config.kl_estimator])
    for t in range(length):
      kl = {'token': sum(kls[t:]), 'sequence': sum(kls), 'loss': 0.0}
      score = (1 - config.beta) * _SCORES[b]
      out[b, t] = score - config.beta * kl[config.kl_placement]
  return out


@pytest.mark.parametrize(
  'placement, expected',
  [
    # KL a token: 0.5, -1, 0 in row one, 1 in row two; 0.9 r is 1.8 and -0.9.
    ('token', [[1.85, 1.9, 1.8], [-1.0, 0, 0], [0, 0, 0]]),
    ('sequence', [[1.85, 1.85, 1.85], [-1.0, 0, 0], [0, 0, 0]]),
  ],
)
def test_targets_by_hand(placement, expected):
  config = reinforce.Config(beta=0.1, kl_placement=placement)
  targets = _targets(config)
  np.testing.assert_allclose(targets.returns, expected, atol=1e-6)
  advantages = np.where(_MASK, np.array(expected) - _VALUES, 0.0)
  np.testing.assert_allclose(targets.advantages, advantages, atol=1e-6)


@pytest.mark.parametrize(
  'placement, estimator',
  [
    *itertools.product(['token', 'sequence'], ['k1', 'k2', 'k3']),
    ('loss', 'k2'),
    ('loss', 'k3'),
  ],
)
@pytest.mark.parametrize('use_jit', [False, True])
def test_targets_equal_loops(placement, estimator, use_jit):
  config = reinforce.Config(
    beta=0.3, kl_placement=placement, kl_estimator=estimator
  )
  run = functools.partial(_targets, config)
  targets = (jax.jit(run) if use_jit else run)(_VALUES)
  expected = _twin(config)
  np.testing.assert_allclose(targets.returns, expected, atol=1e-5)
  expected = np.where(_MASK, expected - _VALUES, 0.0)
  np.testing.assert_allclose(targets.advantages, expected, atol=1e-5)


def test_whitened_advantages():
  advantages = _targets(reinforce.Config(whiten_advantages=True)).advantages
  real = np.asarray(advantages)[_MASK]
  np.testing.assert_allclose([real.mean(), real.var()], [0, 1], atol=1e-5)
  np.testing.assert_array_equal(np.asarray(advantages)[~_MASK], 0.0)


def test_targets_carry_no_gradient():
  def total(values, scores):
    targets = reinforce.targets(
      _rollout(),
      scores=scores,
      ref_logprobs=jnp.asarray(_REF),
      values=values,
      config=reinforce.Config(),
    )
    return jnp.sum(targets.advantages) + jnp.sum(targets.returns)

  grads = jax.grad(total, argnums=(0, 1))(
    jnp.asarray(_VALUES), jnp.asarray(_SCORES)
  )
  for grad in grads:
    np.testing.assert_array_equal(grad, 0.0)


@pytest.mark.parametrize(
  'normalize, divisor', [('sequence_sum', 3), ('token_mean', 4)]
)
def test_loss_by_hand(normalize, divisor):
  config = reinforce.Config(beta=0.1, normalize=normalize, value_coef=0.5)
  advantages = _twin(config)[_MASK] - _VALUES[_MASK]
  policy = -(_LOGP[_MASK] * advantages).sum() / divisor
  value = (advantages**2).sum() / divisor
  total, metrics = _loss(config)
  np.testing.assert_allclose(total, policy + 0.5 * value, rtol=1e-5)
  np.testing.assert_allclose(metrics['loss/policy_avg'], policy, rtol=1e-5)
  np.testing.assert_allclose(metrics['loss/value_avg'], value, rtol=1e-5)
  jitted, _ = jax.jit(lambda x: _loss(config, x))(_LOGP)
  np.testing.assert_allclose(jitted, total, rtol=1e-6)


def test_metrics_by_hand():
  entropy = jnp.where(jnp.asarray(_MASK), 2.0, jnp.nan)
  _, metrics = _loss(
    reinforce.Config(beta=0.1), scores=jnp.asarray(_SCORES), entropy=entropy
  )
  kl_k3 = np.exp(-0.5) - 0.5 + np.exp(1.0) - 2 + np.exp(-1.0)
  expected = {
    'objective/scores': (2 - 1) / 3,  # the empty row counts as 0
    'objective/kl': (-0.5 + 1) / 3,
    'objective/kl_k3': kl_k3 / 3,
    'objective/non_score_reward': -0.1 * 0.5 / 3,
    'objective/rlhf_reward': 0.9 / 3 - 0.05 / 3,
    'objective/entropy': 2.0,
  }
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize('estimator', ['k2', 'k3'])
def test_kl_as_a_loss_is_differentiable(estimator):
  config = reinforce.Config(
    beta=0.1, kl_placement='loss', kl_estimator=estimator
  )
  zero = types.Targets(
    advantages=jnp.zeros_like(_LOGP), returns=jnp.asarray(_VALUES)
  )

  def total(logprobs):
    return _loss(config, logprobs, targets=zero)[0]

  log_ratio = np.where(_MASK, _LOGP - _REF, 0.0)
  slope = log_ratio if estimator == 'k2' else 1 - np.exp(-log_ratio)
  grad = jax.grad(total)(jnp.asarray(_LOGP))
  np.testing.assert_allclose(grad, 0.1 * slope / 3, atol=1e-6)
  _, metrics = _loss(config, targets=zero)
  assert float(metrics['loss/kl_avg']) > 0


def _policy_grad(targets):
  """Gradient in the kernel of a linear policy over 4 tokens."""
  features = jax.random.normal(jax.random.key(0), (3, 3, 5))
  actions = jnp.array([[0, 1, 2], [3, 0, 0], [1, 1, 1]])

  def total(kernel):
    log_p = jax.nn.log_softmax(features @ kernel)
    chosen = jnp.take_along_axis(log_p, actions[..., None], -1)[..., 0]
    return _loss(reinforce.Config(), chosen, targets=targets)[0]

  return jax.grad(total)(jax.random.normal(jax.random.key(1), (5, 4)))


def test_a_perfect_value_leaves_the_policy_alone():
  config = reinforce.Config()
  exact = _targets(config, np.asarray(_targets(config).returns))
  np.testing.assert_array_equal(_policy_grad(exact), 0.0)
  assert np.abs(_policy_grad(_targets(config))).max() > 0.01


def test_the_value_loss_does_not_move_the_policy_or_the_reverse():
  config = reinforce.Config()
  targets = _targets(config)
  grads = jax.grad(
    lambda x, v: _loss(config, x, v, targets)[0], argnums=(0, 1)
  )(jnp.asarray(_LOGP), jnp.asarray(_VALUES))
  expected = np.where(_MASK, -np.asarray(targets.advantages) / 3, 0.0)
  np.testing.assert_allclose(grads[0], expected, atol=1e-6)
  np.testing.assert_allclose(grads[1], 2 * expected, atol=1e-6)


@pytest.mark.parametrize(
  'options, message',
  [
    ({'beta': 1.5}, 'outside'),
    ({'beta': -0.1}, 'outside'),
    ({'kl_placement': 'reward'}, 'token, sequence, loss'),
    ({'kl_estimator': 'k9'}, 'k1, k2, k3'),
    ({'normalize': 'mean'}, 'sequence_sum, token_mean'),
    ({'kl_placement': 'loss'}, "'k2' or 'k3'"),
  ],
)
def test_config_says_what_is_allowed(options, message):
  with pytest.raises(ValueError, match=message):
    reinforce.Config(**options)


def test_kl_as_a_loss_needs_the_reference():
  config = reinforce.Config(kl_placement='loss', kl_estimator='k2')
  with pytest.raises(ValueError, match='needs ref_logprobs'):
    reinforce.loss(
      jnp.asarray(_LOGP),
      jnp.asarray(_VALUES),
      _targets(config),
      _rollout(),
      config,
    )
