"""core/preference.py: loops over the formulas, numbers by hand, identities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import losses, preference

L1 = np.array([-12.0, -3.5, -20.0, -7.0, -5.0])
L2 = np.array([-10.0, -6.0, -21.0, -7.5, -40.0])
Q1 = np.array([-11.0, -4.0, -18.0, -7.0, -6.0])
Q2 = np.array([-11.5, -5.0, -22.0, -9.0, -10.0])
N1, N2 = np.array([6.0, 3, 9, 4, 1]), np.array([5.0, 4, 7, 4, 8])
P = np.array([1.0, 0.0, 0.7, 0.5, 0.2])
WEIGHT = np.array([1.0, 1.0, 2.0, 1.0, 0.0])
KL = 0.8


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def _nll(x):
  return np.log1p(np.exp(-x))


def _odds(mean):
  p = np.exp(mean)
  return np.log(p / (1 - p))


# Each row's loss and implicit rewards, written from the papers for two texts
# of which the better is known; the twin below weighs both ways by the label.


def _dpo(lw, ll, qw, ql, nw, nl, beta=0.3):
  return _nll(beta * ((lw - qw) - (ll - ql))), beta * (lw - qw)


def _simpo(lw, ll, qw, ql, nw, nl, beta=2.5, gamma=1.4):
  return _nll(beta * lw / nw - beta * ll / nl - gamma), beta * lw / nw


def _orpo(lw, ll, qw, ql, nw, nl, beta=0.25):
  ratio = _nll(_odds(lw / nw) - _odds(ll / nl))
  return -lw / nw + beta * ratio, beta * lw / nw


def _cpl(lw, ll, qw, ql, nw, nl, alpha=0.2, bias=0.5):
  good, bad = alpha * lw, bias * alpha * ll
  return -np.log(np.exp(good) / (np.exp(good) + np.exp(bad))), alpha * lw


def _cpl_kl(lw, ll, qw, ql, nw, nl, alpha=0.2, bias=0.5):
  good, bad = alpha * (lw - qw), bias * alpha * (ll - ql)
  loss = -np.log(np.exp(good) / (np.exp(good) + np.exp(bad)))
  return loss, alpha * (lw - qw)


def _kto(lw, ll, qw, ql, nw, nl, beta=0.3, good=1.5, bad=0.75):
  gain = good * (1 - _sigmoid(beta * ((lw - qw) - KL)))
  pain = bad * (1 - _sigmoid(beta * (KL - (ll - ql))))
  return (gain + pain) / 2, beta * (lw - qw)


_TWINS = {
  'dpo': _dpo,
  'simpo': _simpo,
  'orpo': _orpo,
  'cpl': _cpl,
  'cpl_kl': _cpl_kl,
  'kto': _kto,
}


def _ipo_rows(l1, l2, p, tau=0.4):
  """Where labels are hard: (h_w - 1 / (2 tau))^2."""
  h = (l1 - Q1) - (l2 - Q2)
  return (h - (2 * p - 1) / (2 * tau)) ** 2


def _rows(name, l1, l2, p):
  """(loss of each pair, rewards of the firsts, of the seconds) by loops."""
  if name == 'ipo':
    return _ipo_rows(l1, l2, p), 0.4 * (l1 - Q1), 0.4 * (l2 - Q2)
  out, rewards = np.zeros(len(l1)), np.zeros((2, len(l1)))
  for i in range(len(l1)):
    twin = _TWINS[name]
    first, rewards[0, i] = twin(l1[i], l2[i], Q1[i], Q2[i], N1[i], N2[i])
    second, rewards[1, i] = twin(l2[i], l1[i], Q2[i], Q1[i], N2[i], N1[i])
    out[i] = p[i] * first + (1 - p[i]) * second
  return out, *rewards


def _mean(rows, weight):
  return sum(w * x for w, x in zip(weight, rows, strict=True)) / sum(weight)


def _call(name, l1, l2, p=P, weight=WEIGHT, n1=N1, n2=N2, q1=Q1, q2=Q2):
  """The loss under test, its options those of the twin."""
  l1, l2, p, n1, n2, q1, q2 = map(jnp.asarray, (l1, l2, p, n1, n2, q1, q2))
  weight = None if weight is None else jnp.asarray(weight)
  lengths = functools.partial(lambda f, **o: f(l1, l2, n1, n2, p, weight, **o))
  refs = functools.partial(lambda f, **o: f(l1, l2, q1, q2, p, weight, **o))
  return {
    'dpo': lambda: refs(preference.dpo, beta=0.3),
    'ipo': lambda: refs(preference.ipo, tau=0.4),
    'simpo': lambda: lengths(preference.simpo, beta=2.5, gamma=1.4),
    'orpo': lambda: lengths(preference.orpo, beta=0.25),
    'cpl': lambda: preference.cpl(l1, l2, p, weight, alpha=0.2),
    'cpl_kl': lambda: preference.cpl(
      l1, l2, p, weight, ref_logps_1=q1, ref_logps_2=q2, alpha=0.2
    ),
    'kto': lambda: preference.kto(
      l1, l2, q1, q2, p, jnp.float32(KL), weight,
      beta=0.3, desirable=1.5, undesirable=0.75,
    ),
  }[name]()  # fmt: skip


NAMES = ('dpo', 'ipo', 'simpo', 'orpo', 'cpl', 'cpl_kl', 'kto')


@pytest.mark.parametrize('name', NAMES)
def test_equals_loops(name, slope):
  loss, metrics = _call(name, L1, L2)
  rows, rewards_1, rewards_2 = _rows(name, L1, L2, P)
  np.testing.assert_allclose(loss, _mean(rows, WEIGHT), rtol=1e-5)

  decided = WEIGHT * (P != 0.5)
  chosen = np.where(P > 0.5, rewards_1, rewards_2)
  rejected = np.where(P > 0.5, rewards_2, rewards_1)
  expected = {
    'rewards/chosen': chosen,
    'rewards/rejected': rejected,
    'rewards/margins': chosen - rejected,
    'rewards/accuracies': chosen > rejected,
    'logps/chosen': np.where(P > 0.5, L1, L2),
    'logps/rejected': np.where(P > 0.5, L2, L1),
  }
  for key, value in expected.items():
    np.testing.assert_allclose(
      metrics[key], _mean(value, decided), rtol=1e-5, err_msg=key
    )

  def total(l1, l2):
    return _call(name, l1, l2)[0]

  grads = jax.grad(total, argnums=(0, 1))(jnp.asarray(L1), jnp.asarray(L2))
  twins = (
    slope(lambda x: _mean(_rows(name, x, L2, P)[0], WEIGHT), L1),
    slope(lambda x: _mean(_rows(name, L1, x, P)[0], WEIGHT), L2),
  )
  for grad, twin in zip(grads, twins, strict=True):
    np.testing.assert_allclose(grad, twin, atol=1e-5)
  jitted = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(L1, L2)
  np.testing.assert_allclose(jitted[0], loss, rtol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), jitted[1], grads
  )


@pytest.mark.parametrize('name', NAMES)
def test_swapping_the_pair_mirrors_it(name):
  one = _call(name, L1, L2)
  two = _call(name, L2, L1, 1 - P, n1=N2, n2=N1, q1=Q2, q2=Q1)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    one,
    two,
  )


@pytest.mark.parametrize('name', NAMES)
def test_rows_without_weight_count_for_nothing(name):
  """What they hold, and whether they are there at all."""
  keep = WEIGHT > 0
  short = _call(
    name, L1[keep], L2[keep], P[keep], WEIGHT[keep],
    N1[keep], N2[keep], Q1[keep], Q2[keep],
  )  # fmt: skip
  long = _call(name, L1, L2)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), long, short
  )
  loss, metrics = _call(name, L1, L2, weight=0 * WEIGHT)
  assert loss == 0.0
  assert all(float(v) == 0.0 for k, v in metrics.items() if k != 'objective/kl')
  even, _ = _call(name, L1, L2, weight=None)
  ones, _ = _call(name, L1, L2, weight=np.ones(5))
  assert even == ones


@pytest.mark.parametrize('name', NAMES)
def test_references_get_no_gradient(name):
  def total(q1, q2):
    return _call(name, L1, L2, q1=q1, q2=q2)[0]

  for grad in jax.grad(total, argnums=(0, 1))(jnp.asarray(Q1), jnp.asarray(Q2)):
    np.testing.assert_array_equal(grad, 0.0)


@pytest.mark.parametrize('name', NAMES)
def test_extreme_rows_are_finite(name):
  """Certain responses, hopeless ones, and empty ones."""
  ends = np.array([0.0, -1e4, 0.0, -1e4, 0.0])
  one = np.ones(5)
  lengths = np.array([1.0, 1, 0, 1, 0])

  def total(l1, l2):
    return _call(
      name, l1, l2, np.array([1.0, 0, 1, 0.5, 0]), one, lengths, lengths
    )[0]

  value, grads = jax.value_and_grad(total, argnums=(0, 1))(
    jnp.asarray(ends), jnp.asarray(ends[::-1].copy())
  )
  assert np.isfinite(value)
  assert all(np.isfinite(grad).all() for grad in grads)


# -- by hand, and how they hang together --------------------------------------


def test_dpo_by_hand():
  """h = ln 3 / b, so s(b h) = 3/4: the loss is ln(4/3), its slope -b/4."""
  beta = 0.5
  l1 = jnp.array([np.log(3) / beta - 2.0])
  rest = (jnp.array([-2.0]),) * 3

  def total(l1):
    return preference.dpo(l1, *rest, jnp.ones(1), beta=beta)

  (loss, metrics), grad = jax.value_and_grad(total, has_aux=True)(l1)
  np.testing.assert_allclose(loss, np.log(4 / 3), rtol=1e-6)
  np.testing.assert_allclose(grad, [-0.125], rtol=1e-5)
  np.testing.assert_allclose(metrics['rewards/chosen'], np.log(3), rtol=1e-6)
  np.testing.assert_allclose(metrics['rewards/rejected'], 0.0, atol=1e-6)
  # A soft label: 0.75 ln(4/3) + 0.25 ln 4, the entropy of it: no slope.
  soft = functools.partial(preference.dpo, beta=beta)
  args = (*rest, jnp.full(1, 0.75))
  loss, grad = jax.value_and_grad(lambda x: soft(x, *args)[0])(l1)
  expected = 0.75 * np.log(4 / 3) + 0.25 * np.log(4)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  np.testing.assert_allclose(grad, [0.0], atol=1e-6)


def test_smoothing_is_cdpo():
  """-(1 - e) log s(b h) - e log s(-b h), and soft labels are moved too."""
  args = tuple(map(jnp.asarray, (L1, L2, Q1, Q2)))
  h = 0.1 * ((L1 - Q1) - (L2 - Q2))
  loss, _ = preference.dpo(*args, jnp.ones(5), smoothing=0.2)
  expected = np.mean(0.8 * _nll(h) + 0.2 * _nll(-h))
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  soft, _ = preference.dpo(*args, jnp.full(5, 0.7), smoothing=0.2)
  same, _ = preference.dpo(*args, jnp.full(5, 0.7 * 0.8 + 0.3 * 0.2))
  np.testing.assert_allclose(soft, same, rtol=1e-6)


def test_ipo_of_a_soft_label_is_that_of_drawn_hard_ones():
  """In its gradient; the values differ by a constant."""
  args = tuple(map(jnp.asarray, (L2, Q1, Q2)))

  def total(l1, p):
    return preference.ipo(l1, *args, jnp.full(5, p), tau=0.3)[0]

  slope_at = jax.grad(total)
  mixed = 0.7 * slope_at(jnp.asarray(L1), 1.0)
  mixed += 0.3 * slope_at(jnp.asarray(L1), 0.0)
  np.testing.assert_allclose(slope_at(jnp.asarray(L1), 0.7), mixed, rtol=1e-5)


def test_cpl_of_whole_responses_is_dpo():
  l1, l2, q1, q2, p = map(jnp.asarray, (L1, L2, Q1, Q2, P))
  cpl = preference.cpl(
    l1, l2, p, ref_logps_1=q1, ref_logps_2=q2, alpha=0.1, bias=1.0
  )
  dpo = preference.dpo(l1, l2, q1, q2, p, beta=0.1)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), cpl, dpo
  )


def test_kto_by_hand():
  """At the reference point both halves are 1/2; KL below 0 counts as 0."""
  x = jnp.array([0.5])
  zeros = jnp.zeros(1)
  loss, metrics = preference.kto(
    x, x, zeros, zeros, jnp.ones(1), jnp.float32(0.5), beta=3.0, undesirable=2.0
  )
  np.testing.assert_allclose(loss, (0.5 + 2 * 0.5) / 2, rtol=1e-6)
  np.testing.assert_allclose(metrics['objective/kl'], 0.5)
  below, metrics = preference.kto(
    zeros, zeros, zeros, zeros, jnp.ones(1), jnp.float32(-4.0)
  )
  np.testing.assert_allclose(below, 0.5, rtol=1e-6)
  assert metrics['objective/kl'] == 0.0
  grad = jax.grad(
    lambda kl: preference.kto(x, x, zeros, zeros, jnp.ones(1), kl)[0]
  )(0.5)
  assert grad == 0.0  # the reference point is not learned


def test_orpo_names_its_parts():
  loss, metrics = _call('orpo', L1, L2)
  total = metrics['loss/nll'] + 0.25 * metrics['loss/odds_ratio']
  np.testing.assert_allclose(loss, total, rtol=1e-6)


def test_a_pair_of_equals_is_not_accurate():
  for name in NAMES:
    same = _call(name, L1, L1, np.ones(5), np.ones(5), N1, N1, Q1, Q1)[1]
    assert same['rewards/accuracies'] == 0.0, name


def test_dpo_at_the_start_is_log_two_and_has_the_reward_losses_form():
  zeros = jnp.zeros(5)
  loss, _ = preference.dpo(zeros, zeros, zeros, zeros, jnp.asarray(P))
  np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
  rewards = 0.3 * (L1 - Q1), 0.3 * (L2 - Q2)
  as_rewards, _ = losses.soft_preference(
    *map(jnp.asarray, rewards), jnp.asarray(P), jnp.asarray(WEIGHT)
  )
  np.testing.assert_allclose(_call('dpo', L1, L2)[0], as_rewards, rtol=1e-5)
