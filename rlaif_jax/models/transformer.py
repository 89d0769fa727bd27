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
from rlaif_jax.models import layers, rope
from rlaif_jax.models.config import ModelConfig


@flax.struct.dataclass
class Context:
  """What all layers of one forward pass share."""

  allowed: Bool[Array, 'B T S']
  distance: Int[Array, 'B T S'] | None  # real tokens from key to query
  rope_table: tuple[Array, Array] | None
  index: Int[Array, '']  # cache slot of the first token


class Block(nn.Module):
  """One layer: attention and feed-forward, each normed before."""

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
    allowed = context.allowed
    if context.distance is not None:
      allowed &= (window == 0) | (context.distance < window)

    def rotate(heads):
      table = context.rope_table
      return heads if table is None else rope.rotate(heads, table)

    y, buffers = layers.Attention(c, self.rules, name='attention')(
      layers.Norm(c, name='attention_norm')(x),
      allowed,
      rotate,
      buffers,
      number,
      context.index,
    )
    x += y
    x += layers.Mlp(c, self.rules, name='mlp')(
      layers.Norm(c, name='mlp_norm')(x)
    )
    x = _constrain_stream(x, self.rules)
    return (x, buffers), None


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
      (c.vocab_size, c.width),
      dtype,
    )
    if c.rope is None:
      self.positions = self.param(
        'positions',
        nn.with_logical_partitioning(init, ('position', 'embed_table')),
        (c.max_positions, c.width),
        dtype,
      )

  def __call__(
    self, tokens: Int[Array, 'B T'], positions: Int[Array, 'B T']
  ) -> Float[Array, 'B T D']:
    """Looks rows up; an id outside its table gives NaN, never a wrong row."""
    dtype = jnp.dtype(self.config.dtype)
    x = jnp.take(self.tokens, tokens, axis=0, mode='fill').astype(dtype)
    if self.config.rope is None:
      rows = jnp.take(self.positions, positions, axis=0, mode='fill')
      x += rows.astype(dtype)
    return x


class Decoder(nn.Module):
  """Embedding, scanned layers, final norm and unembedding."""

  config: ModelConfig
  rules: tuple = ()

  def setup(self):
    """Declares the parts; the names are those of the parameter tree."""
    c = self.config
    body = nn.remat(Block, prevent_cse=False) if c.remat else Block
    self.embed = Embedding(c)
    self.layers = nn.scan(
      body,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(0, nn.broadcast),
      length=c.num_layers,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )(c, self.rules)
    self.final_norm = layers.Norm(c)
    if not c.tie_embeddings:
      self.unembedding = layers.Linear(
        c,
        (c.width,),
        (c.vocab_size,),
        ('embed', 'vocab'),
        out_dtype='float32',
      )

  def __call__(
    self,
    tokens: Int[Array, 'B T'],
    mask: Bool[Array, 'B T'] | None = None,
    positions: Int[Array, 'B T'] | None = None,
    cache: types.Cache | None = None,
    logits: bool = True,
  ) -> types.ModelOutput:
    """See `LanguageModel.apply`."""
    c = self.config
    mask = jnp.ones(tokens.shape, bool) if mask is None else mask
    valid, index, rank = _slots(mask, cache)
    positions = rank if positions is None else positions
    x = self.embed(tokens, positions)
    # What padding holds must not matter, be it an id outside the vocabulary.
    x = jnp.where(mask[..., None], x, 0)
    x = _constrain_stream(x, self.rules)
    context = Context(
      allowed=masking.attention_mask(
        index + jnp.arange(tokens.shape[1]), jnp.arange(valid.shape[1]), valid
      ),
      distance=_distance(rank, valid) if any(c.windows) else None,
      rope_table=c.rope and rope.angles(c.rope, c.head_dim, positions),
      index=index,
    )
    numbers = jnp.arange(c.num_layers)
    windows = jnp.asarray(np.array(c.windows or (0,) * c.num_layers, np.int32))
    buffers = None if cache is None else (cache.keys, cache.values)
    (x, buffers), _ = self.layers((x, buffers), (numbers, windows), context)
    hidden = self.final_norm(x)
    if cache is not None:
      cache = types.Cache(*buffers, valid, index + tokens.shape[1])
    return types.ModelOutput(
      logits=self.unembed(hidden) if logits else None,
      hidden=hidden,
      cache=cache,
    )

  def unembed(self, hidden: Float[Array, '... D']) -> Float[Array, '... V']:
    """Float32 logits of final hidden states."""
    if self.config.tie_embeddings:
      table = self.embed.tokens.astype(hidden.dtype)
      logits = jnp.einsum(
        '...d,vd->...v', hidden, table, preferred_element_type=jnp.float32
      )
    else:
      logits = self.unembedding(hidden)
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


def _distance(
  rank: Int[Array, 'B T'], valid: Bool[Array, 'B S']
) -> Int[Array, 'B T S']:
  """Real tokens from each key to each query.

  Windows count real tokens, so padding between them does not matter.
  """
  return rank[:, :, None] - masking.positions(valid)[:, None, :]


def _constrain_stream(x: Float[Array, 'B T D'], rules: Any) -> Array:
  """The residual stream: rows split, width whole."""
  return sharding.constrain(x, 'batch', 'length', 'width', rules=rules)
