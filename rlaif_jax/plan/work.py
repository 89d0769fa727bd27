"""Arithmetic and memory traffic of a program, by formula.

Compilers count the body of a loop once, so none of this is asked of them.
"""

import dataclasses
from typing import Any

from rlaif_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Work:
  """What one run of a program has to do, on all chips together.

  Attributes:
    flops: of the model: 2 for each weight and token forward, 4 backward, and
      the products of attention with what a token may see.
    executed: those and what is computed again in the backward pass.
    weight_reads: bytes of weights that are read, each pass over them counted,
      by all chips that share them by `tensor` together.
    repeats: how often all other arrays are read and written.
  """

  flops: float = 0.0
  executed: float = 0.0
  weight_reads: float = 0.0
  cache_reads: float = 0.0

  def __add__(self, other: 'Work') -> 'Work':
    """Both, one after the other."""
    return Work(
      *(
        getattr(self, f.name) + getattr(other, f.name)
        for f in dataclasses.fields(self)
      )
    )


def layer_weights(c: ModelConfig) -> int:
  """Weights of all layers' projections; what is looked up or normed is not."""
  heads = (2 * c.num_heads + 2 * c.num_kv_heads) * c.head_dim
  mlp = (2 + c.gated_mlp) * c.mlp_dim
  return c.num_layers * c.width * (heads + mlp)


def seen(length: int, before: int, window: int) -> int:
  """(query, key) pairs of `length` causal tokens after `before` others."""
  if not window:
    return length * before + length * (length + 1) // 2
  return sum(min(before + i + 1, window) for i in range(length))


def attention(c: ModelConfig, length: int, before: int = 0) -> float:
  """Flops of one row's scores and averages of values, all layers."""
  pairs = sum(
    seen(length, before, window) for window in c.windows or (0,) * c.num_layers
  )
  return 4.0 * pairs * c.num_heads * c.head_dim


def forward(c: ModelConfig, rows: int, length: int, unembedded: int) -> Work:
  """A forward pass; `unembedded` of each row's tokens get logits."""
  head = c.vocab_size * c.hidden_width if unembedded else 0
  layers = 2.0 * length * layer_weights(c) + attention(c, length)
  flops = rows * (layers + 2.0 * unembedded * head)
  size = _itemsize(c.dtype)
  return Work(flops, flops, size * (layer_weights(c) + head))


def training(c: ModelConfig, rows: int, length: int, unembedded: int) -> Work:
  """Forward and backward; chunks of logits, and layers with `remat`, twice."""
  once = forward(c, rows, length, unembedded)
  layers = forward(c, rows, length, 0)
  again = (once.flops - layers.flops) + (layers.flops if c.remat else 0.0)
  return Work(
    flops=3 * once.flops,
    executed=3 * once.flops + again,
    weight_reads=(3 + c.remat) * once.weight_reads,
  )


def decoding(c: ModelConfig, rows: int, prompt: int, new: int) -> Work:
  """`new` tokens after `prompt` others, one at a time, none ending early."""
  head = c.vocab_size * c.hidden_width
  steps = new - 1  # the first token comes of the prompt
  flops = rows * (
    2.0 * steps * (layer_weights(c) + head) + attention(c, steps, prompt)
  )
  size = _itemsize(c.dtype)
  slot = 2 * c.num_layers * c.num_kv_heads * c.head_dim * size
  return Work(
    flops=flops,
    executed=flops,
    weight_reads=steps * size * (layer_weights(c) + head),
    cache_reads=float(steps * rows * slot * (prompt + new)),
  )


def _itemsize(dtype: Any) -> int:
  return {'float32': 4, 'bfloat16': 2, 'float16': 2}[str(dtype)]
