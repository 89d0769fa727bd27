"""What defines one decoder: a frozen, hashable description."""

import dataclasses
import json
from typing import Literal, get_args

import jax.numpy as jnp

Activation = Literal['gelu', 'gelu_tanh', 'relu', 'silu', 'tanh']
AttentionKernel = Literal['auto', 'xla', 'splash', 'cudnn']

# The projections of a layer, by their names in the parameter tree.
PROJECTIONS = ('query', 'key', 'value', 'out', 'gate', 'up', 'down')


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
class Lora:
  """Low-rank adapters beside projections (Hu et al. 2021, arXiv 2106.09685).

  A projection x W becomes x W + (x A) B * alpha / rank.

  Attributes:
    rank: size of the axis between A and B.
    alpha: see above.
    targets: which of `PROJECTIONS` have one, wherever a family has them.
  """

  rank: int
  alpha: float = 16.0
  targets: tuple[str, ...] = PROJECTIONS

  def __post_init__(self):
    if self.rank < 1:
      raise ValueError(f'a LoRA adapter of rank {self.rank}; it must be >= 1')
    unknown = sorted(set(self.targets) - set(PROJECTIONS))
    if unknown or not self.targets:
      raise ValueError(
        f'LoRA targets {", ".join(unknown) or "()"}: there is no such '
        f'projection; there are: {", ".join(PROJECTIONS)}'
      )

  @property
  def scale(self) -> float:
    """What (x A) B is multiplied with."""
    return self.alpha / self.rank


@dataclasses.dataclass(frozen=True)
class Origin:
  """What a Hugging Face folder said, kept to be written back unchanged.

  JSON texts, so that it is hashable; it has no effect on what is computed.
  """

  config: str = '{}'
  generation: str = '{}'
  prefixed: bool = True  # whether keys carry the family's prefix
  renamed: tuple[tuple[str, str], ...] = ()  # (our name of a key, its own)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Architecture of a decoder and how to run it.

  Shapes use the axis legend of core/types.py. Fields from `dtype` on change how
  it runs, not what it is.

  `norm_place` says where a branch f (attention, feed-forward) is normed:
  'input' x + f(norm(x)), 'output' x + norm(f(x)), 'both' x + norm(f(norm(x))),
  'sum' norm(x + f(x)).

  `qk_norm` norms queries and keys before they are rotated: 'shared' each head
  by itself with one scale [h] for all, 'per_head' each with its own scale
  [H, h] and no bias, 'joint' all heads together, scale [H, h].
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
  norm_affine: bool = True  # norms have a scale (and, layernorm, a bias)
  norm_offset: float = 0.0  # added to every scale: Gemma stores it less 1
  norm_place: Literal['input', 'output', 'both', 'sum'] = 'input'
  final_norm: bool = True
  parallel: bool = False  # attention and feed-forward read the same input
  shared_norm: bool = False  # the parallel ones also share its norm
  qk_norm: Literal['shared', 'per_head', 'joint'] | None = None
  rope: Rope | None = None  # None: learned absolute positions
  local_rope: Rope | None = None  # of layers with a window; None: as `rope`
  position_offset: int = 0  # first row of the position table that is used
  embed_width: int | None = None  # of the token table, if projected to `width`
  embed_scale: float | None = None  # of what is looked up in the token table
  qkv_bias: bool = False
  out_bias: bool = False
  mlp_bias: bool = False
  tie_embeddings: bool = False
  unembed_bias: bool = False
  attention_scale: float | None = None  # None: head_dim ** -0.5
  attention_scale_by_layer: bool = False  # over 1 + the layer's number
  attention_softcap: float | None = None  # c: scores become c * tanh(score / c)
  logit_softcap: float | None = None  # the same for logits
  windows: tuple[int, ...] = ()  # per layer, 0 = global; () = all global
  dtype: str = 'float32'  # of activations
  param_dtype: str = 'float32'  # of new parameters
  remat: bool = False  # recompute each layer in the backward pass
  unroll: int = 1  # layers in each turn of the loop over them
  # Of whole rows; 'auto' is by platform, see kernels.py.
  attention: AttentionKernel = 'auto'
  cache_layout: str | None = None  # a permutation of 'bskh'; None: by platform
  cache_dtype: str | None = None  # None: as activations; 'int8' is smaller
  # Decoding has its weights whole along fsdp, and not put together anew for
  # every token.
  gather: bool = False
  lora: Lora | None = None  # adapters beside the projections
  int8: bool = False  # kernels of projections are as models/int8.py has them
  tile: int | None = None  # written out and tiled, as models/steps.py has them
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
    if self.parallel and self.norm_place != 'input':
      raise ValueError(
        f'parallel branches are normed at their input, not {self.norm_place!r}'
      )
    if sorted(self.cache_layout or 'bskh') != sorted('bskh'):
      raise ValueError(
        f"cache_layout={self.cache_layout!r}; use a permutation of 'bskh'"
      )
    if self.attention not in get_args(AttentionKernel):
      raise ValueError(
        f'attention={self.attention!r}; use one of '
        f'{", ".join(get_args(AttentionKernel))}'
      )
    if self.cache_dtype == 'int8':
      others = ()
    else:
      others = (self.cache_dtype or self.dtype,)
    for name in (self.dtype, self.param_dtype, *others):
      if not jnp.issubdtype(jnp.dtype(name), jnp.floating):
        raise ValueError(f'{name} is not a floating-point type')

  @property
  def hidden_width(self) -> int:
    """Width of the final hidden states, which the unembedding reads."""
    return self.embed_width or self.width

  @property
  def eos_ids(self) -> tuple[int, ...]:
    """End-of-text ids its folder declared; () if none."""
    for text in (self.origin.generation, self.origin.config):
      ids = json.loads(text).get('eos_token_id')
      if ids is not None:
        return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()
