"""The parts of one decoder layer."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax import sharding
from rlaif_jax.models import cache as cache_lib
from rlaif_jax.models import kernels, products, shared, sight
from rlaif_jax.models.config import ModelConfig
from rlaif_jax.models.linear import Linear, param, spread

_TILE = 128  # slots that are cut off together

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  'gelu': lambda x: jax.nn.gelu(x, approximate=False),
  'gelu_tanh': lambda x: jax.nn.gelu(x, approximate=True),
  'relu': jax.nn.relu,
  'silu': jax.nn.silu,
  'tanh': jnp.tanh,
}


class Norm(nn.Module):
  """LayerNorm or RMSNorm over trailing axes, computed in float32.

  Attributes:
    axes: logical axes of the scale, which spans as many trailing axes.
    joint: how many trailing axes are averaged over.
    use_bias: whether a layernorm has one.
  """

  config: ModelConfig
  axes: tuple[str, ...] = ('norm',)
  joint: int = 1
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, '... D']) -> Float[Array, '... D']:
    """Normalises `x`; the type of `x` is kept."""
    c = self.config
    over = tuple(range(-self.joint, 0))
    wide = x.astype(jnp.float32)
    if c.norm == 'layernorm':
      wide -= jnp.mean(wide, axis=over, keepdims=True)
    power = jnp.mean(jnp.square(wide), axis=over, keepdims=True)
    wide *= jax.lax.rsqrt(power + c.norm_eps)
    if not c.norm_affine:
      return wide.astype(x.dtype)
    size = x.shape[-len(self.axes) :]
    one = nn.initializers.constant(1.0 - c.norm_offset)
    scale = param(self, 'scale', one, size, self.axes)
    if c.norm_offset:
      scale = scale.astype(jnp.float32) + c.norm_offset
    wide *= spread(scale, x.ndim)
    if c.norm == 'layernorm' and self.use_bias:
      bias = param(self, 'bias', nn.initializers.zeros, size, self.axes)
      wide += spread(bias, x.ndim)
    return wide.astype(x.dtype)


class Attention(nn.Module):
  """Causal attention of H query heads over K shared key/value heads."""

  config: ModelConfig
  rules: tuple = ()

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B T D'],
    allowed: Bool[Array, 'B T S'] | kernels.Causal,
    rotate: Callable[[Array], Array],
    buffers: tuple[Array, Array] | None,
    layer: tuple[Int[Array, ''], Int[Array, '']],
    index: Int[Array, ''],
    prefix: tuple[Array, Array, Array] | None = None,
    reads: Int[Array, 'B I'] | None = None,
    fresh: bool = False,
  ) -> tuple[Array, tuple[Array, Array] | None]:
    """Attends and, with a cache, writes it.

    Args:
      x: normed activations [B, T, D].
      allowed: bool [B, T, S], which key each query may look at; or the rule
        by which a kernel knows.
      rotate: position function of heads [B, T, H, h] -> the same, or of those
        at the slots of its second argument.
      buffers: stacked (keys, values) [L, ...] of the cache, or None.
      layer: its number, which is that in the cache, and its window.
      index: the cache slot of the first of the T tokens.
      prefix: stacked keys and values [L, ...] of one row that all rows
        continue, and which of them each query may look at.
      reads: the slots of the only queries, to which the masks are cut already;
        None: all.
      fresh: the cache is written only, `allowed` is [B, T, T].

    Returns:
      ([B, T, D] or [B, I, D], buffers).
    """
    c = self.config
    layer, window = layer
    query = self._project('query', sight.take(x, reads))
    key, value = self._project('key', x), self._project('value', x)
    query, key = self._norm(query, 'heads'), self._norm(key, 'kv_heads')
    query, key = rotate(query, reads), rotate(key)
    order = cache_lib.PLAIN
    if buffers is not None:
      lie = cache_lib.layout(c)
      buffers = tuple(
        cache_lib.constrain(
          cache_lib.write(b, new, layer, index, lie), lie, self.rules
        )
        for b, new in zip(buffers, (key, value), strict=True)
      )
      if not fresh:
        order = lie
        key, value = (cache_lib.read(b, layer, query.dtype) for b in buffers)
    heads = self._attend(
      query,
      (key.astype(query.dtype), value.astype(query.dtype)),
      allowed,
      (layer, window),
      prefix,
      order,
    )
    out = Linear(
      c,
      (c.num_heads, c.head_dim),
      (c.width,),
      ('heads', 'head_dim', 'embed'),
      c.out_bias,
      _residual_gain(c),
      name='out',
    )(heads)
    return out, buffers

  def _attend(self, query, own, allowed, layer, prefix, order: str) -> Array:
    """What the queries [B, I, H, h] find in `own` keys and values and `prefix`.

    Layers with a window read the end of a prefix, as far as that may reach.
    """
    c = self.config
    number, window = layer
    scale = c.head_dim**-0.5 if c.attention_scale is None else c.attention_scale
    scale = scale / (number + 1) if c.attention_scale_by_layer else scale
    options = dict(scale=scale, softcap=c.attention_softcap)
    if isinstance(allowed, kernels.Causal):
      return kernels.attend(query, *own, allowed, rules=self.rules, **options)
    options |= dict(order=order, prefix_order=cache_lib.layout(c))
    run = functools.partial(attend, query, *own, allowed, **options)
    if prefix is None:
      return run()
    read = (cache_lib.read(b, number, query.dtype) for b in prefix[:2])
    prefix = (*read, prefix[2])
    reach = _reach(c, prefix[2].shape[-1])
    if reach is None:
      return run(prefix=prefix)
    return jax.lax.cond(
      window == 0,
      lambda p: run(prefix=p),
      lambda p: run(prefix=_last_slots(c, p, reach)),
      prefix,
    )

  def _project(self, name: str, x: Array) -> Array:
    """Queries [B, T, H, h], or keys or values [B, T, K, h]."""
    c = self.config
    heads, axis = c.num_kv_heads, 'kv_heads'
    if name == 'query':
      heads, axis = c.num_heads, 'heads'
    y = Linear(
      c,
      (c.width,),
      (heads, c.head_dim),
      ('embed', axis, 'head_dim'),
      c.qkv_bias,
      name=name,
    )(x)
    return sharding.constrain(
      y, 'batch', 'length', axis, 'head_dim', rules=self.rules
    )

  def _norm(self, x: Array, axis: str) -> Array:
    """Queries or keys normed as `qk_norm` says; heads lie along `axis`."""
    kind = self.config.qk_norm
    if kind is None:
      return x
    name = 'query_norm' if axis == 'heads' else 'key_norm'
    if kind == 'shared':
      return Norm(self.config, name=name)(x)
    joint = 2 if kind == 'joint' else 1
    return Norm(
      self.config, (axis, 'head_dim'), joint, use_bias=False, name=name
    )(x)


class Mlp(nn.Module):
  """Feed-forward part: plain, or gated by a second projection."""

  config: ModelConfig
  rules: tuple = ()

  @nn.compact
  def __call__(self, x: Float[Array, 'B T D']) -> Float[Array, 'B T D']:
    """Maps every token by itself."""
    c = self.config

    def up(name):
      return Linear(
        c, (c.width,), (c.mlp_dim,), ('embed', 'mlp'), c.mlp_bias, name=name
      )(x)

    act = ACTIVATIONS[c.activation]
    hidden = act(up('gate')) * up('up') if c.gated_mlp else act(up('up'))
    hidden = sharding.constrain(
      hidden, 'batch', 'length', 'mlp', rules=self.rules
    )
    return Linear(
      c,
      (c.mlp_dim,),
      (c.width,),
      ('mlp', 'embed'),
      c.mlp_bias,
      _residual_gain(c),
      name='down',
    )(hidden)


def attend(
  query: Float[Array, 'B T H h'],
  key: Float[Array, '...'],
  value: Float[Array, '...'],
  allowed: Bool[Array, 'B T S'],
  *,
  scale: float | Array,
  softcap: float | None = None,
  order: str = cache_lib.PLAIN,
  prefix: tuple[Array, Array, Array] | None = None,
  prefix_order: str = cache_lib.PLAIN,
) -> Float[Array, 'B T H h']:
  """Attention with a float32 softmax; `order` is key's and value's axes.

  A query that may look at nothing gets the plain average of the values.
  `softcap` bounds the scores, see products.capped. `prefix` holds keys and
  values of one row, seen by all rows, and the mask of who may look at them.
  """
  b, t, heads, d = query.shape
  groups = key.shape[order.index('k')]
  query = query.reshape(b, t, groups, heads // groups, d)
  query = query.transpose(0, 2, 3, 1, 4)
  if order == cache_lib.PLAIN:
    # As plain matrix products: on CPU a fifth less time.
    order = 'bksh'
    key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)
  scale = jnp.float32(scale)
  if prefix is None:
    out = products.attention(query, key, value, allowed, scale, softcap, order)
  else:
    out = shared.attention(
      query,
      (key, value, allowed),
      tuple(x.astype(query.dtype) for x in prefix[:2]) + prefix[2:],
      scale,
      softcap,
      (order, prefix_order),
    )
  return out.transpose(0, 3, 1, 2, 4).reshape(b, t, heads, d)


def _reach(c: ModelConfig, slots: int) -> int | None:
  """Slots of a prefix that layers with a window read, if not all of them."""
  reach = -(-(max(c.windows, default=0) - 1) // _TILE) * _TILE
  return reach if 0 < reach < slots else None


def _last_slots(c: ModelConfig, prefix: tuple, count: int) -> tuple:
  """The end of (keys, values, mask) of a prefix."""
  axes = (cache_lib.layout(c).index('s'),) * 2 + (2,)
  return tuple(
    jax.lax.slice_in_dim(x, x.shape[axis] - count, None, axis=axis)
    for x, axis in zip(prefix, axes, strict=True)
  )


def _residual_gain(c: ModelConfig) -> float:
  """GPT-2's: the residual stream keeps its variance at any depth."""
  return (2 * c.num_layers) ** -0.5
