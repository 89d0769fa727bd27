"""Matrix products and attention with gradients written out.

What autodiff makes of them is right, but it asks for transposed copies of
activations, and it keeps attention probabilities [B, H, T, S] from the forward
pass for the backward pass. Here kernels get their gradients from operands as
they lie, and probabilities are computed again from the log of their sum, as in
FlashAttention (arXiv 2205.14135, App. B): a third less time for a training step
on CPU, and memory that grows with T and not with T * S. Results of products
carry the name `SAVED`, so that a layer can keep these for its backward pass and
compute norms and activations, which are cheap, again.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax.models import cache

# Finite, so that a row with nothing to look at gets a uniform average (which
# no real token reads) and not NaN; next to other scores it weighs 0.
MASKED = -1e30
SAVED = 'product'  # for jax.checkpoint_policies
_BLOCK = 64  # queries, at least, that are worth a product of their own


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def contract(
  x: Float[Array, '...'],
  kernel: Float[Array, '...'] | Int[Array, '...'],
  axes: int,
  out_dtype: str | None = None,
) -> Float[Array, '...']:
  """x [..., *inputs] times kernel [*inputs, *outputs] -> [..., *outputs].

  Args:
    x: activations.
    kernel: cast to the type of x; integers get no gradient.
    axes: how many axes `inputs` are.
    out_dtype: of the result and of the sum inside; None: as x.
  """
  return jnp.tensordot(
    x, kernel.astype(x.dtype), axes=axes, preferred_element_type=out_dtype
  )


def _contract_forward(x, kernel, axes, out_dtype):
  out = checkpoint_name(contract(x, kernel, axes, out_dtype), SAVED)
  return out, (x, kernel)


def _contract_backward(axes, out_dtype, saved, grad):
  del out_dtype  # `grad` has it
  x, kernel = saved
  rows = tuple(range(x.ndim - axes))
  outputs = tuple(range(len(rows), grad.ndim))
  to_x = jax.lax.dot_general(
    grad,
    kernel.astype(x.dtype).astype(grad.dtype),
    ((outputs, tuple(range(axes, kernel.ndim))), ((), ())),
  ).astype(x.dtype)
  if not jnp.issubdtype(kernel.dtype, jnp.inexact):
    return to_x, None
  wide = x.astype(grad.dtype)
  if x.size <= grad.size:
    to_kernel = jax.lax.dot_general(wide, grad, ((rows, rows), ((), ())))
  else:
    # The first operand is what XLA transposes, with what makes it: for CPU the
    # smaller one, and not the activations of a feed-forward part.
    to_kernel = jax.lax.dot_general(grad, wide, ((rows, rows), ((), ())))
    if cache.platform() == 'cpu':
      # Or the transposition below is put into a product that takes 1.6 times
      # as long.
      to_kernel = jax.lax.optimization_barrier(to_kernel)
    to_kernel = jnp.moveaxis(to_kernel, range(-axes, 0), range(axes))
  return to_x, to_kernel.astype(x.dtype).astype(kernel.dtype)


contract.defvjp(_contract_forward, _contract_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def attention(
  query: Float[Array, 'B K G T h'],
  key: Float[Array, '...'],
  value: Float[Array, '...'],
  allowed: Bool[Array, 'B T S'],
  scale: Float[Array, ''],
  softcap: float | None = None,
  order: str = 'bksh',
) -> Float[Array, 'B K G T h']:
  """Softmax attention of K groups of G query heads, softmax in float32.

  As many queries as keys are taken to be the same tokens, of which none looks
  at later ones: most of what `allowed` then hides is not computed at all. A
  query that may look at nothing gets an average of values, which no real token
  reads.

  Args:
    query: rows and heads first, so that all contractions are plain products.
    key: shared by the G heads of its group.
    value: as `key`.
    allowed: which key each query may look at.
    scale: of the scores; gets no gradient.
    softcap: bounds the scores, see `capped`.
    order: the axes of key and value, as a permutation of 'bksh'.
  """
  return _attend(query, key, value, allowed, scale, softcap, order)[0]


def causal_blocks(queries: int, keys: int) -> list[tuple[int, int, int]]:
  """(first query, end of queries, end of the keys that they may look at).

  Up to four blocks, which leave out three eighths of the scores.
  """
  if queries != keys:
    return [(0, queries, keys)]
  count = max(min(4, queries // _BLOCK), 1)
  ends = [queries * (i + 1) // count for i in range(count)]
  return [
    (start, end, end) for start, end in zip([0, *ends], ends, strict=False)
  ]


def _attend(query, key, value, allowed, scale, softcap, order):
  """(result, (highest score, sum of exponentials) [B, K, G, T, 1])."""
  axis = order.index('s')
  parts = []
  for start, end, seen in causal_blocks(query.shape[3], key.shape[axis]):
    found = scores(
      query[:, :, :, start:end], first(key, seen, axis), scale, softcap, order
    )
    visible = allowed[:, None, None, start:end, :seen]
    found = jnp.where(visible, found, MASKED)
    top = found.max(-1, keepdims=True)
    probs = jnp.exp(found - top)
    total = probs.sum(-1, keepdims=True)
    probs = (probs / total).astype(query.dtype)
    out = jnp.einsum(f'bkgts,{order}->bkgth', probs, first(value, seen, axis))
    parts.append((out, (top, total)))
  return in_a_row(parts, 3)


def first(x: Array, count: int, axis: int) -> Array:
  """The first `count` slots along an axis."""
  return jax.lax.slice_in_dim(x, 0, count, axis=axis)


def in_a_row(parts: list, axis: int):
  """Trees of arrays, joined along an axis."""
  return jax.tree.map(lambda *x: jnp.concatenate(x, axis), *parts)


def scores(
  query: Float[Array, 'B K G T h'],
  key: Float[Array, '...'],
  scale: Float[Array, ''],
  softcap: float | None,
  order: str,
  lie: str = 'bkgts',
) -> Float[Array, '...']:
  """Scores before masking, float32, with axes in the order of `lie`.

  `order` names the axes of key; without a 'b' in it, all rows share one.
  """
  found = jnp.einsum(
    f'bkgth,{order}->{lie}', query, key, preferred_element_type=jnp.float32
  )
  return capped(found * scale, softcap)


def _attention_forward(query, key, value, allowed, scale, softcap, order):
  out, sums = checkpoint_name(
    _attend(query, key, value, allowed, scale, softcap, order), SAVED
  )
  return out, (query, key, value, allowed, scale, out, sums)


def _attention_backward(softcap, order, saved, grad):
  query, key, value, allowed, scale, out, sums = saved
  axis = order.index('s')
  count = key.shape[axis]
  # sum_s p_s dp_s = grad . out, [B, K, G, T, 1].
  mean = _sum_of_last(grad.astype(jnp.float32) * out)
  to_query, to_key, to_value = [], 0.0, 0.0
  for start, end, seen in causal_blocks(query.shape[3], count):
    part, part_grad, part_mean, top, total = (
      x[:, :, :, start:end] for x in (query, grad, mean, *sums)
    )
    part_key, part_value = (first(x, seen, axis) for x in (key, value))
    visible = allowed[:, None, None, start:end, :seen]
    found = scores(part, part_key, scale, softcap, order)
    probs = jnp.exp(jnp.where(visible, found, MASKED) - top) / total
    to_probs = jnp.einsum(
      f'bkgth,{order}->bkgts',
      part_grad,
      part_value,
      preferred_element_type=jnp.float32,
    )
    to_scores = jnp.where(visible, probs * (to_probs - part_mean), 0.0)
    if softcap is not None:
      to_scores *= 1.0 - jnp.square(found / softcap)
    to_scores = (to_scores * scale).astype(query.dtype)
    to_query.append(jnp.einsum(f'bkgts,{order}->bkgth', to_scores, part_key))
    to_key += _to_keys(part, to_scores, count)
    to_value += _to_keys(part_grad, probs.astype(grad.dtype), count)
  return (
    in_a_row(to_query, 3),
    jnp.einsum(f'bkhs->{order}', to_key.astype(key.dtype)),
    jnp.einsum(f'bkhs->{order}', to_value.astype(value.dtype)),
    None,
    None,
  )


def _sum_of_last(x: Float[Array, '... h']) -> Float[Array, '... 1']:
  """Sum over the last axis; on CPU a product, which is ten times as fast."""
  if cache.platform() == 'cpu':
    return x @ jnp.ones((x.shape[-1], 1), x.dtype)
  return x.sum(-1, keepdims=True)


def _to_keys(queries, weights, count: int) -> Float[Array, 'B K h S']:
  """What some queries give the keys that they see; 0 to all after those.

  Lies so that no weights [T, S] have to be transposed.
  """
  found = jnp.einsum(
    'bkgth,bkgts->bkhs', queries, weights, preferred_element_type=jnp.float32
  )
  after = count - found.shape[-1]
  return jnp.pad(found, [(0, 0), (0, 0), (0, 0), (0, after)])


attention.defvjp(_attention_forward, _attention_backward)


def capped(x: Array, limit: float | None) -> Array:
  """`x` bounded smoothly to +-limit, as in Gemma 2; None leaves it."""
  return x if limit is None else limit * jnp.tanh(x / limit)
