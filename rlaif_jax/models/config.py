"""What defines one decoder: a frozen, hashable description."""

import dataclasses
import json
from typing import Literal

import jax.numpy as jnp

Activation = Literal['gelu', 'gelu_tanh', 'relu', 'silu']


@dataclasses.dataclass(frozen=True)
class Rope:
  """Rotary position embedding, halves rotated against each other.

  `scaling` is 'default' (none), 'linear' (positions divided by `factor`) or
  'llama3' (low frequencies divided, with a smooth border in between).
  """

  theta: float = 10000.0
  fraction: float = 1.0  # of the head size that is rotated
  scaling: Literal['default', 'linear', 'llama3'] = 'default'
  factor: float = 1.0
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_max_positions: int = 8192


@dataclasses.dataclass(frozen=True)
class Origin:
  """What a Hugging Face folder said, kept to be written back unchanged.

  JSON texts, so that it is hashable; it has no effect on what is computed.
  """

  config: str = '{}'
  generation: str = '{}'
  prefixed: bool = True  # whether keys carry the family's prefix


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Architecture of a decoder and how to run it.

  Shapes use the axis legend of core/types.py. Fields from `dtype` on change how
  it runs, not what it is.
  """

  family: str  # module of rlaif_jax.models, = Hugging Face's model_type
  vocab_size: int
  width: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_dim: int
  max_positions: int
  activation: Activation = 'silu'
  gated_mlp: bool = False  # down(act(gate(x)) * up(x))
  norm: Literal['layernorm', 'rmsnorm'] = 'rmsnorm'
  norm_eps: float = 1e-6
  rope: Rope | None = None  # None: learned absolute positions
  qkv_bias: bool = False
  out_bias: bool = False
  mlp_bias: bool = False
  tie_embeddings: bool = False
  attention_scale: float | None = None  # None: head_dim ** -0.5
  windows: tuple[int, ...] = ()  # per layer, 0 = global; () = all global
  dtype: str = 'float32'  # of activations
  param_dtype: str = 'float32'  # of new parameters
  remat: bool = False  # recompute each layer in the backward pass
  cache_layout: str | None = None  # a permutation of 'bskh'; None: by platform
  origin: Origin = dataclasses.field(
    default=Origin(), compare=False, repr=False
  )

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'{self.num_heads} query heads cannot share {self.num_kv_heads} '
        'key/value heads evenly'
      )
    if self.windows and len(self.windows) != self.num_layers:
      raise ValueError(
        f'{len(self.windows)} attention windows for {self.num_layers} layers'
      )
    if sorted(self.cache_layout or 'bskh') != sorted('bskh'):
      raise ValueError(
        f"cache_layout={self.cache_layout!r}; use a permutation of 'bskh'"
      )
    for name in (self.dtype, self.param_dtype):
      if not jnp.issubdtype(jnp.dtype(name), jnp.floating):
        raise ValueError(f'{name} is not a floating-point type')

  @property
  def eos_ids(self) -> tuple[int, ...]:
    """End-of-text ids its folder declared; () if none."""
    for text in (self.origin.generation, self.origin.config):
      ids = json.loads(text).get('eos_token_id')
      if ids is not None:
        return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()
