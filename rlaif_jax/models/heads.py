"""A language model's trunk with one scalar per token: rewards and values."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax.core import masking, types
from rlaif_jax.models import LanguageModel


@dataclasses.dataclass(frozen=True)
class ScalarModel:
  """Reward or value model without its parameters.

  Parameters are {'trunk': the language model's without its unembedding,
  'head': {'kernel': [D], 'bias': []}}. Hashable, as the trunk is.
  """

  trunk: LanguageModel

  @property
  def config(self) -> Any:
    """The trunk's ModelConfig."""
    return self.trunk.config

  def init(self, key: types.Key) -> types.Params:
    """All new parameters."""
    trunk_key, head_key = jax.random.split(key)
    return self.init_from(self.trunk.init(trunk_key), head_key)

  def init_from(
    self, trunk_params: types.Params, key: types.Key, *, zeros: bool = False
  ) -> types.Params:
    """Puts a new head on a trained trunk.

    Args:
      trunk_params: a language model's parameters; an unembedding is left out.
      key: for the head.
      zeros: the head starts at 0, else N(0, 1 / (D + 1)) as in
        lm-human-preferences; the bias is 0 in both cases.
    """
    width = self.config.hidden_width
    dtype = jnp.dtype(self.config.param_dtype)
    kernel = jnp.zeros((width,), dtype)
    if not zeros:
      kernel = jax.random.normal(key, (width,), dtype) * (width + 1) ** -0.5
    return {
      'trunk': trunk_part(trunk_params),
      'head': {'kernel': kernel, 'bias': jnp.zeros((), dtype)},
    }

  def param_axes(self) -> types.Params:
    """Logical axis names of every parameter, a tree of tuples."""
    return {
      'trunk': trunk_part(self.trunk.param_axes()),
      'head': {'kernel': ('norm',), 'bias': ()},
    }

  def abstract_params(self) -> types.Params:
    """Shapes and types of the parameters, a tree of ShapeDtypeStructs."""
    return jax.eval_shape(lambda: self.init(jax.random.key(0)))

  def values(
    self,
    params: types.Params,
    tokens: Int[Array, 'B T'],
    *,
    mask: Bool[Array, 'B T'] | None = None,
    positions: Int[Array, 'B T'] | None = None,
    ends: Int[Array, 'B T'] | None = None,
    reads: Int[Array, 'B I'] | None = None,
  ) -> Float[Array, 'B I']:
    """The scalar at every token, float32; at padding it means nothing.

    `reads` names the slots that are wanted, by default all T; the others are as
    `LanguageModel.apply` has them.
    """
    hidden = self.trunk.apply(
      params['trunk'],
      tokens,
      mask=mask,
      positions=positions,
      ends=ends,
      logits=False,
      reads=reads,
    ).hidden
    return self.project(params, hidden)

  def apply(
    self,
    params: types.Params,
    tokens: Int[Array, 'B T'],
    *,
    mask: Bool[Array, 'B T'] | None = None,
  ) -> Float[Array, ' B']:
    """The scalar at the last real token of each row, float32."""
    mask = jnp.ones(tokens.shape, bool) if mask is None else mask
    last = masking.last_real(mask)[:, None]
    return self.values(params, tokens, mask=mask, reads=last)[:, 0]

  def project(
    self, params: types.Params, hidden: Float[Array, '... D']
  ) -> Float[Array, '...']:
    """The scalar at what a trunk gave, float32; only the head is read."""
    head = params['head']
    kernel = head['kernel'].astype(jnp.float32)
    return hidden.astype(jnp.float32) @ kernel + head['bias'].astype(
      jnp.float32
    )


def trunk_part(params: types.Params) -> types.Params:
  """The part of a language model's parameters that a trunk has.

  Takes any tree of that shape (axes, shardings), too.
  """
  return {k: v for k, v in params.items() if k != 'unembedding'}
