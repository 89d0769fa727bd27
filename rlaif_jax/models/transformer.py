"""The decoder that every family shares.

Layers are one scanned body with parameters stacked [L, ...] under 'layers', so
compile time does not grow with depth; `unroll` puts several of them into each
turn of the loop. The cache rides in the scan's carry and each layer updates its
part in place. For decoding steps they may be written out instead, each with
parameters and a cache of its own; see steps.py.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax import sharding
from rlaif_jax.core import types
from rlaif_jax.models import (
  embedding,
  kernels,
  layers,
  linear,
  products,
  rope,
  sight,
  steps,
)
from rlaif_jax.models.config import ModelConfig

# Share of a forward pass that is worth a second way through the scanned body,
# which takes longer to compile.
_WORTH = 1 / 16


@flax.struct.dataclass
class Context:
  """What all layers of one forward pass share."""

  own: sight.Sight | kernels.Causal
  prefix: types.Cache | None
  prefix_sight: sight.Sight | None
  rope_table: tuple[Array, Array] | None
  local_rope_table: tuple[Array, Array] | None  # of layers with a window
  index: Int[Array, '']  # cache slot of the first token
  reads: Int[Array, 'B I'] | None  # the only slots that anybody looks at
  fresh: bool = flax.struct.field(pytree_node=False)  # nothing cached yet


class Block(nn.Module):
  """One layer: attention and feed-forward, normed as `norm_place` says."""

  config: ModelConfig
  rules: tuple = ()

  @nn.compact
  def __call__(
    self, carry: Any, layer: tuple[Array, Array], context: Context
  ) -> tuple[Any, None]:
    """Scan body: carry (x [B, T, D], cache buffers), layer (number, window).

    The last layer gives what is read alone, in the first slots of x.
    """
    if context.reads is None:
      return self._layer(*carry, layer, context), None

    run = nn.remat(Block._layer, prevent_cse=False, policy=_policy(self.config))

    def last(block, x, buffers):
      y, buffers = run(block, x, buffers, layer, context, context.reads)
      return jnp.concatenate([y, x[:, y.shape[1] :]], axis=1), buffers

    def others(block, x, buffers):
      return run(block, x, buffers, layer, context)

    is_last = layer[0] == self.config.num_layers - 1
    return nn.cond(is_last, last, others, self, *carry), None

  def _layer(
    self,
    x: Float[Array, 'B T D'],
    buffers: Any,
    layer: tuple[Array, Array],
    context: Context,
    reads: Int[Array, 'B I'] | None = None,
  ) -> tuple[Array, Any]:
    """(x after this layer, of `reads` alone if given; cache buffers)."""
    _, window = layer
    c = self.config
    seen = sight.of_some(context.own.within(window), reads)
    prefix = context.prefix
    if prefix is not None:
      near = sight.of_some(context.prefix_sight.within(window), reads)
      prefix = (prefix.keys, prefix.values, near)

    def rotate(heads, at=None):
      table, local = context.rope_table, context.local_rope_table
      if local is not None:
        table = jax.tree.map(
          lambda a, b: jnp.where(window == 0, a, b), table, local
        )
      table = jax.tree.map(lambda a: sight.take(a, at), table)
      return heads if table is None else rope.rotate(heads, table)

    normed = self._norm_input('attention', x)
    y, buffers = layers.Attention(c, self.rules, name='attention')(
      normed,
      seen,
      rotate,
      buffers,
      layer,
      context.index,
      prefix,
      reads,
      context.fresh,
    )
    x, normed = (sight.take(a, reads) for a in (x, normed))
    mlp = layers.Mlp(c, self.rules, name='mlp')
    if c.parallel:
      if not c.shared_norm:
        normed = self._norm_input('mlp', x)
      x += y + mlp(normed)
    else:
      x = self._join('attention', x, y)
      x = self._join('mlp', x, mlp(self._norm_input('mlp', x)))
    return _constrain_stream(x, self.rules), buffers

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


class Decoder(nn.Module):
  """Embedding, scanned layers, final norm and unembedding."""

  config: ModelConfig
  rules: tuple = ()

  def setup(self):
    """Declares the parts; the names are those of the parameter tree."""
    c = self.config
    self.embed = embedding.Embedding(c)
    self.layers = self._scanned() if c.tile is None else self._written_out()
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
    reads: Int[Array, 'B I'] | None = None,
    fresh: bool = False,
  ) -> types.ModelOutput:
    """See `LanguageModel.apply`."""
    c = self.config
    own = order = None
    if cache is None and prefix is None and ends is None:
      own = kernels.choose(c, tokens.shape[1])
    if own is not None and mask is not None:
      # Put back below, before anybody looks.
      order = kernels.real_first(mask)
      tokens, mask = (sight.take(x, order) for x in (tokens, mask))
      positions = (
        positions if positions is None else sight.take(positions, order)
      )
    # Kernels want as many queries as keys.
    early = own is None and _leaves_out(c, reads, tokens)
    if ends is not None:
      mask = ends > jnp.arange(tokens.shape[1])[None]
    mask = jnp.ones(tokens.shape, bool) if mask is None else mask
    valid, index, rank = sight.slots(mask, cache)
    if own is None:
      at = (mask, jnp.zeros_like(index)) if fresh else (valid, index)
      own, rank = sight.of_own(rank, *at, ends, any(c.windows))
    before = None
    if prefix is not None:
      rank += jnp.sum(prefix.mask, dtype=jnp.int32)
      before = sight.of_prefix(rank, prefix.mask, any(c.windows))
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
      reads=reads if early else None,
      fresh=fresh,
    )
    buffers = None if cache is None else (cache.keys, cache.values)
    x, buffers = self._through_layers(x, buffers, context)
    if early:
      x = x[:, : reads.shape[1]]
    hidden = self.final_norm(x) if c.final_norm else x
    if c.embed_width is not None:
      hidden = self.project_out(hidden)
    if order is not None:
      hidden = sight.take(hidden, jnp.argsort(order, axis=1))
    hidden = sight.take(hidden, None if early else reads)
    if cache is not None:
      cache = types.Cache(*buffers, valid, index + tokens.shape[1])
    return types.ModelOutput(
      logits=self.unembed(hidden) if logits else None,
      hidden=hidden,
      cache=cache,
    )

  def _scanned(self) -> nn.Module:
    """All layers as one body."""
    c = self.config
    return nn.scan(
      nn.remat(Block, prevent_cse=False, policy=_policy(c)),
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(0, nn.broadcast),
      length=c.num_layers,
      unroll=c.unroll,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )(c, self.rules)

  def _written_out(self) -> list[nn.Module]:
    """Layers one by one, 'layers_0' and so on."""
    return [
      Block(self.config, self.rules) for _ in range(self.config.num_layers)
    ]

  def _through_layers(self, x: Array, buffers: Any, context: Context):
    """(x after all layers, cache buffers)."""
    c = self.config
    windows = np.array(c.windows or (0,) * c.num_layers, np.int32)
    if c.tile is None:
      layers = (jnp.arange(c.num_layers), jnp.asarray(windows))
      return self.layers((x, buffers), layers, context)[0]
    own = list(zip(*buffers, strict=True))
    for i, block in enumerate(self.layers):
      layer = (jnp.int32(i), jnp.int32(windows[i]))
      (x, own[i]), _ = block((x, own[i]), layer, context)
    return x, tuple(zip(*own, strict=True))

  def unembed(self, hidden: Float[Array, '... D']) -> Float[Array, '... V']:
    """Float32 logits of final hidden states."""
    c = self.config
    if c.tie_embeddings:
      table = self.embed.tokens.astype(hidden.dtype)
      if c.tile is not None:
        logits = steps.unembed(hidden, table)
      else:
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


def _policy(c: ModelConfig):
  """What a layer keeps for its backward pass."""
  # A third less memory than keeping all, and no slower.
  keep = jax.checkpoint_policies.save_only_these_names(products.SAVED)
  return None if c.remat else keep


def _leaves_out(
  c: ModelConfig, reads: Int[Array, 'B I'] | None, tokens: Int[Array, 'B T']
) -> bool:
  """Whether the last layer, at `reads` alone, spares much of the pass.

  On one device: with weights spread over several, what either way sends and
  holds costs more than it spares.
  """
  if reads is None or not sharding.on_one_device():
    return False
  spared = 1 - reads.shape[1] / tokens.shape[1]
  return spared / c.num_layers >= _WORTH


def _constrain_stream(x: Float[Array, 'B T D'], rules: Any) -> Array:
  """The residual stream: rows split, width whole."""
  return sharding.constrain(x, 'batch', 'length', 'width', rules=rules)
