"""Products with gradients written out, against what autodiff makes of them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.models import products


def _normal(seed, *shape, dtype=jnp.float32):
  return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


@pytest.mark.parametrize(
  'inputs,outputs', [((8,), (5,)), ((8,), (3, 4)), ((2, 4), (5,))]
)
def test_contract_equals_tensordot_in_value_and_gradients(inputs, outputs):
  x, kernel = _normal(0, 3, 6, *inputs), _normal(1, *inputs, *outputs)
  weight = _normal(2, 3, 6, *outputs)

  def plain(x, kernel):
    return (jnp.tensordot(x, kernel, axes=len(inputs)) * weight).sum()

  def ours(x, kernel):
    return (products.contract(x, kernel, len(inputs)) * weight).sum()

  chex.assert_trees_all_close(
    jax.value_and_grad(ours, (0, 1))(x, kernel),
    jax.value_and_grad(plain, (0, 1))(x, kernel),
    rtol=1e-5,
    atol=1e-5,
  )


def test_contract_keeps_types_and_sums_in_the_result_type():
  x = _normal(0, 4, 512, dtype=jnp.bfloat16)
  kernel = _normal(1, 512, 3, dtype=jnp.bfloat16)
  out = products.contract(x, kernel, 1, 'float32')
  assert out.dtype == jnp.float32
  exact = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
  np.testing.assert_allclose(out, exact, atol=1e-3)

  def loss(x, kernel):
    return products.contract(x, kernel, 1, 'float32').sum()

  to_x, to_kernel = jax.grad(loss, (0, 1))(x, kernel)
  assert to_x.dtype == to_kernel.dtype == jnp.bfloat16


def test_contract_of_an_integer_kernel_has_a_gradient_for_x_alone():
  x, kernel = _normal(0, 4, 6), jnp.arange(12, dtype=jnp.int8).reshape(6, 2)
  grad = jax.grad(lambda x: products.contract(x, kernel, 1).sum())(x)
  expected = np.broadcast_to(np.asarray(kernel, np.float32).sum(1), (4, 6))
  np.testing.assert_allclose(grad, expected)


def _plain_attention(query, key, value, allowed, scale, softcap, order):
  key, value = (jnp.einsum(f'{order}->bksh', array) for array in (key, value))
  scores = jnp.einsum('bkgth,bksh->bkgts', query, key) * scale
  if softcap is not None:
    scores = softcap * jnp.tanh(scores / softcap)
  scores = jnp.where(allowed[:, None, None], scores, -1e30)
  return jnp.einsum('bkgts,bksh->bkgth', jax.nn.softmax(scores, axis=-1), value)


@pytest.mark.parametrize('order', ['bksh', 'skbh'])
@pytest.mark.parametrize('softcap', [None, 2.0])
@pytest.mark.parametrize('slots', [7, 11])
def test_attention_equals_autodiff_in_value_and_gradients(
  order, softcap, slots, monkeypatch
):
  """With more keys than queries, and causal ones in blocks of 2, 3, 3 and 3."""
  monkeypatch.setattr(products, '_BLOCK', 2)
  batch, groups, heads, length, size = 2, 3, 2, 5 if slots == 7 else 11, 4
  query = _normal(0, batch, groups, heads, length, size)
  shape = [dict(b=batch, k=groups, s=slots, h=size)[axis] for axis in order]
  key, value = _normal(1, *shape), _normal(2, *shape)
  allowed = np.array(_normal(3, batch, length, slots) > -0.5)
  weight = np.array(_normal(4, *query.shape))
  if slots == length:
    allowed &= np.tri(length, dtype=bool)
    allowed |= np.eye(length, dtype=bool)
  else:
    allowed[0, 1] = False  # a query with nothing to look at

  def value_and_grad(attention):
    def loss(*arrays):
      out = attention(*arrays, allowed, jnp.float32(0.7), softcap, order)
      return (out * weight).sum(), out

    return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(query, key, value)

  chex.assert_trees_all_close(
    value_and_grad(products.attention),
    value_and_grad(_plain_attention),
    rtol=2e-5,
    atol=2e-5,
  )


def test_attention_keeps_no_probabilities_for_the_backward_pass():
  length = 256
  query = jax.ShapeDtypeStruct((1, 2, 1, length, 8), jnp.float32)
  key = jax.ShapeDtypeStruct((1, 2, length, 8), jnp.float32)
  allowed = jax.ShapeDtypeStruct((1, length, length), bool)
  _, pullback = jax.eval_shape(
    lambda *a: jax.vjp(
      lambda q, k, v: products.attention(q, k, v, a[3], jnp.float32(1.0)),
      *a[:3],
    ),
    query,
    key,
    key,
    allowed,
  )
  kept = [x.size for x in jax.tree.leaves(pullback) if x.dtype != bool]
  assert max(kept) <= 2 * length * 8
