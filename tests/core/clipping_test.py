"""core/clipping.py against loops, on both sides of every bound."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import clipping, losses

# Ratios inside, below and above the bounds, for advantages of both signs.
_RATIOS = np.array([[0.5, 0.9, 1.1, 1.6], [0.5, 0.95, 1.3, 9.0], [9, 9, 9, 9]])
_MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]], bool)
_ADVANTAGES = np.array([[2.0, 1, 1, 1], [-1, -1, -3, 5], [5, 5, 5, 5]])
_OLD = -np.arange(1.0, 13).reshape(3, 4) / 5
_LOGP = _OLD + np.log(_RATIOS)
_LEVELS = clipping.RATIO_LEVELS


def _reduce(terms, mask, normalize):
  """One number from terms[b][t], by loops."""
  rows, width = mask.shape
  sums = [
    sum(terms[b, t] for t in range(width) if mask[b, t]) for b in range(rows)
  ]
  counts = mask.sum(1)
  if normalize == 'sequence_sum':
    return sum(sums) / rows
  if normalize == 'token_mean':
    return sum(sums) / max(counts.sum(), 1)
  if normalize == 'constant':
    return sum(sums) / (rows * width)
  return sum(s / max(n, 1) for s, n in zip(sums, counts, strict=True)) / rows


def _policy_twin(logp, level, normalize, low=0.2, high=0.2):
  """(loss, approximate KL, share that is clipped, mean ratio) by loops."""
  terms, kls, cut, ratios = np.zeros(logp.shape), [], [], []
  for b in range(len(logp)):
    real = [t for t in range(logp.shape[1]) if _MASK[b, t]]
    total = sum(logp[b, t] - _OLD[b, t] for t in real)
    for t in real:
      x = {
        'token': logp[b, t] - _OLD[b, t],
        'sequence_sum': total,
        'sequence_mean': total / len(real),
      }[level]
      ratio = np.exp(x)
      clipped = min(max(ratio, 1 - low), 1 + high)
      a = _ADVANTAGES[b, t]
      terms[b, t] = max(-a * ratio, -a * clipped)
      kls.append(x * x / 2)
      cut.append(-a * clipped > -a * ratio)
      ratios.append(ratio)
  loss = _reduce(terms, _MASK, normalize)
  return loss, np.mean(kls), np.mean(cut), np.mean(ratios)


def _policy(logp, **options):
  return clipping.clipped_policy_gradient(
    logp, jnp.asarray(_OLD), jnp.asarray(_ADVANTAGES), jnp.asarray(_MASK),
    **options,
  )  # fmt: skip


@pytest.mark.parametrize('bounds', [(0.2, 0.2), (0.2, 0.28), (3e-4, 4e-4)])
@pytest.mark.parametrize('level', _LEVELS)
@pytest.mark.parametrize('normalize', losses.NORMALIZERS)
def test_policy_equals_loops(level, normalize, bounds, slope):
  options = dict(clip_low=bounds[0], clip_high=bounds[1])
  fn = functools.partial(_policy, level=level, normalize=normalize, **options)
  loss, metrics = fn(jnp.asarray(_LOGP))
  expected, *others = _policy_twin(_LOGP, level, normalize, *bounds)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  names = ('policy/approxkl_avg', 'policy/clipfrac_avg', 'val/ratio')
  for name, value in zip(names, others, strict=True):
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
  grad_fn = jax.grad(lambda x: fn(x)[0])
  grad = grad_fn(jnp.asarray(_LOGP))
  twin = slope(lambda x: _policy_twin(x, level, normalize, *bounds)[0], _LOGP)
  np.testing.assert_allclose(grad, twin, atol=1e-5)
  np.testing.assert_allclose(jax.jit(fn)(_LOGP)[0], loss, rtol=1e-6)
  np.testing.assert_allclose(jax.jit(grad_fn)(_LOGP), grad, atol=1e-6)


def test_which_tokens_have_a_gradient():
  """By hand: only where the surrogate is not at its bound."""
  grad = jax.grad(lambda x: _policy(x, normalize='sequence_sum')[0])(
    jnp.asarray(_LOGP)
  )
  # Row one, A > 0: ratio 1.6 is clipped, 0.5 is not (it should come back up).
  # Row two, A < 0: 0.5 is clipped, 1.3 is not.
  expected = -_ADVANTAGES * _RATIOS / 3 * _MASK
  expected[0, 3] = expected[1, 0] = 0.0
  np.testing.assert_allclose(grad, expected, atol=1e-5)


@pytest.mark.parametrize('level', ['token', 'sequence_sum'])
def test_first_update_is_reinforce(level):
  """Where nothing has moved yet the gradient is that of -A log p."""
  rows = _ADVANTAGES[:, :1] * np.ones_like(_ADVANTAGES)

  def clipped(logp):
    return clipping.clipped_policy_gradient(
      logp, jnp.asarray(_OLD), jnp.asarray(rows), jnp.asarray(_MASK),
      level=level,
      normalize='sequence_sum' if level == 'token' else 'sequence_mean',
    )[0]  # fmt: skip

  def plain(logp):
    return losses.policy_gradient(logp, jnp.asarray(rows), jnp.asarray(_MASK))

  old = jnp.asarray(_OLD)
  np.testing.assert_allclose(
    jax.grad(clipped)(old), jax.grad(plain)(old), atol=1e-6
  )


def test_old_and_advantages_carry_no_gradient_and_padding_no_nan():
  mask = jnp.asarray(_MASK)
  filled = [
    jnp.where(mask, jnp.asarray(x), jnp.nan) for x in (_LOGP, _OLD, _ADVANTAGES)
  ]

  def loss(logp, old, advantages):
    return clipping.clipped_policy_gradient(logp, old, advantages, mask)[0]

  grads = jax.grad(loss, argnums=(0, 1, 2))(*filled)
  plain = jax.grad(lambda x: _policy(x)[0])(jnp.asarray(_LOGP))
  np.testing.assert_array_equal(grads[0], plain)
  for grad in grads[1:]:
    np.testing.assert_array_equal(grad, 0.0)


def test_a_policy_far_away_gives_no_nan():
  far = jnp.full((1, 2), 200.0)
  zeros, mask = jnp.zeros((1, 2)), jnp.ones((1, 2), bool)
  for level in _LEVELS:
    fn = functools.partial(
      clipping.clipped_policy_gradient, level=level, normalize='token_mean'
    )
    (loss, metrics), grad = jax.value_and_grad(fn, has_aux=True)(
      far, zeros, zeros, mask
    )
    assert loss == 0.0
    assert np.isfinite(list(metrics.values())).all()
    np.testing.assert_array_equal(grad, 0.0)


def test_unknown_level_lists_the_choices():
  with pytest.raises(ValueError, match='token, sequence_sum, sequence_mean'):
    _policy(jnp.asarray(_LOGP), level='row')


# -- values -------------------------------------------------------------------

_V_OLD = np.array([[0.0, 1.0, -1.0, 0.5], [2.0, 0.0, 0.0, 7], [7, 7, 7, 7]])
# Moves of 0.1 (inside) and 0.5 (outside) of both signs, towards and away.
_V = _V_OLD + np.array([[0.1, 0.5, 0.5, -0.5], [-0.5, -0.1, 0, 3], [3] * 4])
_Z = np.array([[1.0, 3.0, -2.0, -3.0], [4.0, -1.0, 0, 9], [9, 9, 9, 9]])


def _value_twin(v, normalize, clip=0.2):
  terms, cut = np.zeros(v.shape), []
  for b, t in zip(*np.nonzero(_MASK), strict=True):
    low, high = _V_OLD[b, t] - clip, _V_OLD[b, t] + clip
    near = min(max(v[b, t], low), high)
    plain, bound = (v[b, t] - _Z[b, t]) ** 2, (near - _Z[b, t]) ** 2
    terms[b, t] = 0.5 * max(plain, bound)
    cut.append(bound > plain)
  return _reduce(terms, _MASK, normalize), np.mean(cut)


def _value(v, **options):
  return clipping.clipped_value_loss(
    v, jnp.asarray(_V_OLD), jnp.asarray(_Z), jnp.asarray(_MASK), **options
  )


@pytest.mark.parametrize('normalize', losses.NORMALIZERS)
@pytest.mark.parametrize('clip', [0.2, 0.05, 10.0])
def test_value_equals_loops(normalize, clip, slope):
  fn = functools.partial(_value, normalize=normalize, clip=clip)
  loss, metrics = fn(jnp.asarray(_V))
  expected, cut = _value_twin(_V, normalize, clip)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  np.testing.assert_allclose(metrics['val/clipfrac_avg'], cut, rtol=1e-6)
  grad = jax.grad(lambda x: fn(x)[0])(jnp.asarray(_V))
  twin = slope(lambda x: _value_twin(x, normalize, clip)[0], _V)
  np.testing.assert_allclose(grad, twin, atol=1e-5)
  np.testing.assert_allclose(jax.jit(fn)(_V)[0], loss, rtol=1e-6)


def test_value_by_hand():
  """Moved 0.5 towards its return: at the bound, no gradient. Away: none."""
  mask, zeros = jnp.ones((1, 1), bool), jnp.zeros((1, 1))
  for value, loss, slope in (
    (0.5, 0.5 * 0.8**2, 0.0),  # clipped to 0.2, return 1
    (-0.5, 0.5 * 1.5**2, -1.5),  # the plain error is the larger one
    (0.1, 0.5 * 0.9**2, -0.9),  # inside
  ):
    found, grad = jax.value_and_grad(
      lambda v: clipping.clipped_value_loss(v, zeros, zeros + 1.0, mask)[0]
    )(jnp.full((1, 1), value))
    np.testing.assert_allclose(found, loss, rtol=1e-6)
    np.testing.assert_allclose(grad, [[slope]], atol=1e-6)


def test_a_clip_without_bound_is_half_the_plain_value_loss():
  loss, _ = _value(jnp.asarray(_V), clip=100.0, normalize='sequence_sum')
  plain = losses.value_loss(
    jnp.asarray(_V), jnp.asarray(_Z), jnp.asarray(_MASK)
  )
  np.testing.assert_allclose(loss, 0.5 * plain, rtol=1e-6)


def test_nothing_real_is_zero():
  mask, x = jnp.zeros((2, 3), bool), jnp.ones((2, 3))
  for normalize in losses.NORMALIZERS:
    for level in _LEVELS:
      loss, metrics = clipping.clipped_policy_gradient(
        x, 2 * x, x, mask, level=level, normalize=normalize
      )
      assert float(loss) == 0.0
      assert all(float(m) == 0.0 for m in metrics.values())
    assert float(clipping.clipped_value_loss(x, x, 2 * x, mask)[0]) == 0.0
