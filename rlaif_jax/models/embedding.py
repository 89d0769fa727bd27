"""What tokens and their positions become at the bottom of a decoder."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlaif_jax.models import linear
from rlaif_jax.models.config import ModelConfig


class Embedding(nn.Module):
  """Token table, and position table where there is no rotary embedding."""

  config: ModelConfig

  def setup(self):
    """Declares the tables."""
    c = self.config
    init = nn.initializers.normal(0.02)
    shape, axes = (
      (c.vocab_size, c.hidden_width),
      ('vocab_table', 'embed_table'),
    )
    self.tokens = linear.param(self, 'tokens', init, shape, axes)
    if c.rope is None:
      shape = (c.max_positions + c.position_offset, c.width)
      axes = ('position', 'embed_table')
      self.positions = linear.param(self, 'positions', init, shape, axes)
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
