"""core/kl.py: known values, exact means on a small categorical, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import kl

_P_LOGITS = jnp.array([0.3, -0.5, 1.1, 0.0])
_Q_LOGITS = jnp.array([-0.2, 0.4, 0.6, 0.1])
_FUNCTIONS = {'k1': kl.k1, 'k2': kl.k2, 'k3': kl.k3}


def _forward(p_logits, q_logits):
  log_p, log_q = jax.nn.log_softmax(p_logits), jax.nn.log_softmax(q_logits)
  return jnp.sum(jnp.exp(log_p) * (log_p - log_q))


def test_by_hand():
  logp, ref = jnp.log(jnp.array([0.5])), jnp.log(jnp.array([0.25]))
  np.testing.assert_allclose(kl.k1(logp, ref), [np.log(2)], rtol=1e-6)
  np.testing.assert_allclose(kl.k2(logp, ref), [np.log(2) ** 2 / 2], rtol=1e-6)
  np.testing.assert_allclose(kl.k3(logp, ref), [np.log(2) - 0.5], rtol=1e-6)


@pytest.mark.parametrize('name', ['k1', 'k3'])
def test_the_mean_of_k1_and_of_k3_is_kl(name):
  log_p, log_q = map(jax.nn.log_softmax, (_P_LOGITS, _Q_LOGITS))
  mean = jnp.sum(jnp.exp(log_p) * _FUNCTIONS[name](log_p, log_q))
  np.testing.assert_allclose(mean, _forward(_P_LOGITS, _Q_LOGITS), rtol=1e-5)


def test_k2_is_near_kl_for_near_distributions_and_k2_k3_are_not_negative():
  log_p = jax.nn.log_softmax(_P_LOGITS)
  log_q = jax.nn.log_softmax(_P_LOGITS + 0.01 * _Q_LOGITS)
  mean = jnp.sum(jnp.exp(log_p) * kl.k2(log_p, log_q))
  exact = np.sum(np.exp(log_p) * (np.float64(log_p) - np.float64(log_q)))
  np.testing.assert_allclose(mean, exact, rtol=0.05)
  assert (kl.k2(log_p, log_q) >= 0).all()
  assert (kl.k3(log_p, log_q) >= 0).all()


@pytest.mark.parametrize('name', ['k1', 'k2', 'k3'])
def test_mean_gradient_as_a_loss(name):
  """k1: none. k2: of KL(p || q). k3: of KL(q || p)."""
  log_q = jax.nn.log_softmax(_Q_LOGITS)

  def of_samples(p_logits):
    log_p = jax.nn.log_softmax(p_logits)
    weights = jax.lax.stop_gradient(jnp.exp(log_p))  # samples, not a function
    return jnp.sum(weights * _FUNCTIONS[name](log_p, log_q))

  expected = {
    'k1': jnp.zeros_like,
    'k2': jax.grad(lambda p: _forward(p, _Q_LOGITS)),
    'k3': jax.grad(lambda p: _forward(_Q_LOGITS, p)),
  }[name](_P_LOGITS)
  got = jax.grad(of_samples)(_P_LOGITS)
  np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize('name', kl.ESTIMATORS)
def test_sequence_kl_sums_real_tokens(name):
  logp = jnp.array([[-1.0, -2.0, 0.0], [-0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
  ref = jnp.array([[-1.5, -1.0, -jnp.inf], [-0.5, -9e9, 0.0], [9.0, 9.0, 9.0]])
  mask = jnp.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
  expected = {
    'k1': [0.5 - 1.0, 0.0, 0.0],
    'k2': [0.125 + 0.5, 0.0, 0.0],
    'k3': [np.exp(-0.5) - 1 + 0.5 + np.exp(1.0) - 1 - 1.0, 0.0, 0.0],
  }[name]

  def total(logp):
    return jnp.sum(kl.sequence_kl(logp, ref, mask, name))

  got = kl.sequence_kl(logp, ref, mask, name)
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  grad = jax.grad(total)(logp)
  assert np.isfinite(grad).all()
  np.testing.assert_array_equal(grad[~mask], 0.0)


def test_token_kl_is_zero_at_padding_and_names_the_choices():
  logp, ref = jnp.ones((1, 2)), jnp.zeros((1, 2))
  mask = jnp.array([[True, False]])
  np.testing.assert_array_equal(kl.token_kl(logp, ref, mask), [[1.0, 0.0]])
  with pytest.raises(ValueError, match="'k4'; use one of k1, k2, k3"):
    kl.token_kl(logp, ref, mask, 'k4')


@pytest.mark.parametrize(
  ('found', 'expected'),
  [
    (6.0, 0.05),  # at the target
    (6.6, 0.05 * (1 + 0.1 * 0.0512)),
    (60.0, 0.05 * (1 + 0.2 * 0.0512)),  # the error counts up to a fifth
    (5.4, 0.05 * (1 - 0.1 * 0.0512)),
    (-3.0, 0.05 * (1 - 0.2 * 0.0512)),
  ],
)
def test_adaptive_coefficient(found, expected):
  for run in (kl.adapt_coefficient, jax.jit(kl.adapt_coefficient)):
    got = run(jnp.float32(0.05), jnp.float32(found), 512, target=6.0)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
