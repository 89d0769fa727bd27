"""The decoder that every family shares.

Layers are one scanned body with parameters stacked [L, ...] under 'layers', so
compile time does not grow with depth. The cache rides in the scan's carry and
each layer updates its part in place.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax import sharding
from rlaif_jax.core import masking, types
from rlaif_jax.models import kernels, layers, linear, products, rope
from rlaif_jax.models.config import ModelConfig


@flax.struct.dataclass
class Sight:
  """Which keys a query may look at."""

  allowed: Bool[Array, '#B #T S']
  distance: Int[Array, 'B T S'] | None  # real tokens from key to query

  def within(self, window: Int[Array, '']) -> Bool[Array, '#B #T S']:
    """Those not further than a layer's window; 0 sees all."""
    if self.distance is None:
      return self.allowed
    return self.allowed & ((window == 0) | (self.distance < window))


@flax.struct.dataclass
class Context:
  """What all layers of one forward pass share."""

  own: Sight | kernels.Causal
  prefix: types.Cache | None
  prefix_sight: Sight | None
  rope_table: tuple[Array, Array] | None
  local_rope_table: tuple[Array, Array] | None  # of layers with a window
  index: Int[Array, '']  # cache slot of the first token


class Block(nn.Module):
  """One layer: attention and feed-forward, normed as `norm_place` says."""

  config: ModelConfig
  rules: tuple = ()

  @nn.compact
  def __call__(
    self, carry: Any, layer: tuple[Array, Array], context: Context
  ) -> tuple[Any, None]:
    """Scan body: carry (x [B, T, D], cache buffers), layer (number, window)."""
    x, buffers = carry
    number, window = layer
    c = self.config
    prefix = context.prefix
    if prefix is not None:
      seen = context.prefix_sight.within(window)
      prefix = (prefix.keys, prefix.values, seen)

    def rotate(heads):
      table, local = context.rope_table, context.local_rope_table
      if local is not None:
        table = jax.tree.map(
          lambda a, b: jnp.where(window == 0, a, b), table, local
        )
      return heads if table is None else rope.rotate(heads, table)

    normed = self._norm_input('attention', x)
    y, buffers = layers.Attention(c, self.rules, name='attention')(
      normed,
      context.own.within(window),
      rotate,
      buffers,
      number,
      context.index,
      prefix,
    )
    mlp = layers.Mlp(c, self.rules, name='mlp')
    if c.parallel:
      if not c.shared_norm:
        normed = self._norm_input('mlp', x)
      x += y + mlp(normed)
    else:
      x = self._join('attention', x, y)
      x = self._join('mlp', x, mlp(self._norm_input('mlp', x)))
    x = _constrain_stream(x, self.rules)
    return (x, buffers), None

  def _norm_input(self, branch: str, x: Array) -> Array:
    """What a branch reads."""
    if self.config.norm_place not in ('input', 'both'):
      return x
    return layers.Norm(self.config, name=f'{branch}_norm')(x)

  def _join(self, branch: str, x: Array, y: Array) -> Array:
    """The residual stream `x` with what a branch gave."""
    place = self.config.norm_place
    if place in ('output', 'both'):
      y = layers.Norm(self.config, name=f'{branch}_post_norm')(y)
    x += y
    if place == 'sum':
      x = layers.Norm(self.config, name=f'{branch}_norm')(x)
    return x


class Embedding(nn.Module):
  """Token table, and position table where there is no rotary embedding."""

  config: ModelConfig

  def setup(self):
    """Declares the tables."""
    c = self.config
    init = nn.initializers.normal(0.02)
    dtype = jnp.dtype(c.param_dtype)
    self.tokens = self.param(
      'tokens',
      nn.with_logical_partitioning(init, ('vocab_table', 'embed_table')),
      (c.vocab_size, c.hidden_width),
      dtype,
    )
    if c.rope is None:
      self.positions = self.param(
        'positions',
        nn.with_logical_partitioning(init, ('position', 'embed_table')),
        (c.max_positions + c.position_offset, c.width),
        dtype,
      )
    if c.embed_width is not None:
      self.project = linear.Linear(
        c, (c.embed_width,), (c.width,), ('embed_table', 'embed')
      )

  def __call__(
    self, tokens: Int[Array, 'B T'], positions: Int[Array, 'B T']
  ) -> Float[Array, 'B T D']:
    """Looks rows up; an id outside its table gives NaN, never a wrong row."""
    c = self.config
    dtype = jnp.dtype(c.dtype)
    x = jnp.take(self.tokens, tokens, axis=0, mode='fill').astype(dtype)
    if c.embed_scale is not None:
      x *= jnp.asarray(c.embed_scale, dtype)
    if c.embed_width is not None:
      x = self.project(x)
    if c.rope is None:
      rows = positions + c.position_offset
      rows = jnp.take(self.positions, rows, axis=0, mode='fill')
      x += rows.astype(dtype)
    return x


class Decoder(nn.Module):
  """Embedding, scanned layers, final norm and unembedding."""

  config: ModelConfig
  rules: tuple = ()

  def setup(self):
    """Declares the parts; the names are those of the parameter tree."""
    c = self.config
    # A third less memory than keeping all, and no slower.
    keep = jax.checkpoint_policies.save_only_these_names(products.SAVED)
    policy = None if c.remat else keep
    body = nn.remat(Block, prevent_cse=False, policy=policy)
    self.embed = Embedding(c)
    self.layers = nn.scan(
      body,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(0, nn.broadcast),
      length=c.num_layers,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )(c, self.rules)
    if c.final_norm:
      self.final_norm = layers.Norm(c)
    if c.embed_width is not None:
      self.project_out = linear.Linear(
        c, (c.width,), (c.embed_width,), ('embed', 'embed_table')
      )
    if not c.tie_embeddings:
      self.unembedding = linear.Linear(
        c,
        (c.hidden_width,),
        (c.vocab_size,),
        ('embed', 'vocab'),
        c.unembed_bias,
        out_dtype='float32',
      )
    elif c.unembed_bias:
      self.unembedding = linear.Bias(c, 'vocab')

  def __call__(
    self,
    tokens: Int[Array, 'B T'],
    mask: Bool[Array, 'B T'] | None = None,
    positions: Int[Array, 'B T'] | None = None,
    cache: types.Cache | None = None,
    logits: bool = True,
    ends: Int[Array, 'B T'] | None = None,
    prefix: types.Cache | None = None,
  ) -> types.ModelOutput:
    """See `LanguageModel.apply`."""
    c = self.config
    own = order = None
    if cache is None and prefix is None and ends is None:
      own = kernels.choose(c, tokens.shape[1])
    if own is not None and mask is not None:
      # Put back below, before anybody looks.
      order = kernels.real_first(mask)
      tokens, mask = (_take(x, order) for x in (tokens, mask))
      positions = positions if positions is None else _take(positions, order)
    if ends is not None:
      mask = ends > jnp.arange(tokens.shape[1])[None]
    mask = jnp.ones(tokens.shape, bool) if mask is None else mask
    valid, index, rank = _slots(mask, cache)
    if own is None:
      own, rank = _own_sight(rank, valid, index, ends, any(c.windows))
    before = None
    if prefix is not None:
      rank += jnp.sum(prefix.mask, dtype=jnp.int32)
      before = _prefix_sight(rank, prefix.mask, any(c.windows))
    positions = rank if positions is None else positions
    x = self.embed(tokens, positions)
    # What padding holds must not matter, be it an id outside the vocabulary.
    x = jnp.where(mask[..., None], x, 0)
    x = _constrain_stream(x, self.rules)
    context = Context(
      own=own,
      prefix=prefix,
      prefix_sight=before,
      rope_table=c.rope and rope.angles(c.rope, c.head_dim, positions),
      local_rope_table=c.local_rope
      and rope.angles(c.local_rope, c.head_dim, positions),
      index=index,
    )
    numbers = jnp.arange(c.num_layers)
    windows = jnp.asarray(np.array(c.windows or (0,) * c.num_layers, np.int32))
    buffers = None if cache is None else (cache.keys, cache.values)
    (x, buffers), _ = self.layers((x, buffers), (numbers, windows), context)
    hidden = self.final_norm(x) if c.final_norm else x
    if c.embed_width is not None:
      hidden = self.project_out(hidden)
    if order is not None:
      hidden = _take(hidden, jnp.argsort(order, axis=1))
    if cache is not None:
      cache = types.Cache(*buffers, valid, index + tokens.shape[1])
    return types.ModelOutput(
      logits=self.unembed(hidden) if logits else None,
      hidden=hidden,
      cache=cache,
    )

  def unembed(self, hidden: Float[Array, '... D']) -> Float[Array, '... V']:
    """Float32 logits of final hidden states."""
    c = self.config
    if c.tie_embeddings:
      table = self.embed.tokens.astype(hidden.dtype)
      logits = jnp.einsum(
        '...d,vd->...v', hidden, table, preferred_element_type=jnp.float32
      )
      if c.unembed_bias:
        logits = self.unembedding(logits)
    else:
      logits = self.unembedding(hidden)
    logits = products.capped(logits, c.logit_softcap)
    if logits.ndim == 3:
      logits = sharding.constrain(
        logits, 'batch', 'length', 'vocab', rules=self.rules
      )
    return logits


def _slots(
  mask: Bool[Array, 'B T'], cache: types.Cache | None
) -> tuple[Bool[Array, 'B S'], Int[Array, ''], Int[Array, 'B T']]:
  """Valid key slots, slot of the first token, and rank of each token.

  The rank is the number of real tokens before it in its row, cached ones
  included; it serves as position and for window distances.
  """
  rank = masking.positions(mask)
  if cache is None:
    return mask, jnp.zeros((), jnp.int32), rank
  seen = jnp.sum(cache.mask, axis=1, dtype=jnp.int32)
  valid = jax.lax.dynamic_update_slice(
    cache.mask, mask, (jnp.zeros((), jnp.int32), cache.index)
  )
  # Not seen + rank: a row whose tokens are all padding so far stays at 0.
  count = jnp.cumsum(mask, axis=1, dtype=jnp.int32) + seen[:, None]
  return valid, cache.index, jnp.maximum(count - 1, 0)


def _own_sight(
  rank: Int[Array, 'B T'],
  valid: Bool[Array, 'B S'],
  index: Int[Array, ''],
  ends: Int[Array, 'B T'] | None,
  windowed: bool,
) -> tuple[Sight, Int[Array, 'B T']]:
  """What tokens see of their own row, and the rank of each.

  Distances count real tokens, so padding between them does not matter.
  """
  slots = jnp.arange(rank.shape[1])
  allowed = masking.attention_mask(
    index + slots, jnp.arange(valid.shape[1]), valid
  )
  key_rank = masking.positions(valid)
  if ends is not None:
    allowed &= slots[None, :, None] < ends[:, None, :]
    count = jnp.sum(allowed, axis=2, dtype=jnp.int32)
    rank = key_rank = jnp.maximum(count - 1, 0)
  distance = rank[:, :, None] - key_rank[:, None, :] if windowed else None
  return Sight(allowed, distance), rank


def _prefix_sight(
  rank: Int[Array, 'B T'], mask: Bool[Array, '1 P'], windowed: bool
) -> Sight:
  """What tokens see of the prefix; their rank counts it too."""
  distance = rank[:, :, None] - masking.positions(mask)[:, None, :]
  return Sight(mask[:, None], distance if windowed else None)


def _take(x: Array, order: Int[Array, 'B T']) -> Array:
  """Slots of each row of x [B, T, ...] in another order."""
  order = order.reshape(order.shape + (1,) * (x.ndim - 2))
  return jnp.take_along_axis(x, order, axis=1)


def _constrain_stream(x: Float[Array, 'B T D'], rules: Any) -> Array:
  """The residual stream: rows split, width whole."""
  return sharding.constrain(x, 'batch', 'length', 'width', rules=rules)
