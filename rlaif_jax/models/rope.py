"""Rotary position embeddings, and how Hugging Face configs describe them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rlaif_jax.models.config import Rope

SUPPORTED = ('default', 'linear', 'llama3')


def inverse_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
  """Radians per position of each rotated pair, float32 [rotated / 2].

  'llama3' follows the Llama 3.1 release: wavelengths beyond the original
  context are stretched by `factor`, short ones kept, those between blended.
  """
  dim = rotated_dim(rope, head_dim)
  inverse = rope.theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
  if rope.scaling == 'linear':
    inverse = inverse / rope.factor
  elif rope.scaling == 'llama3':
    turns = rope.original_max_positions * inverse / (2 * math.pi)
    span = rope.high_freq_factor - rope.low_freq_factor
    keep = np.clip((turns - rope.low_freq_factor) / span, 0, 1)
    inverse = keep * inverse + (1 - keep) * inverse / rope.factor
  return inverse.astype(np.float32)


def rotated_dim(rope: Rope, head_dim: int) -> int:
  """How many of a head's dimensions are rotated."""
  return int(head_dim * rope.fraction)


def angles(
  rope: Rope, head_dim: int, positions: Int[Array, 'B T']
) -> tuple[Float[Array, 'B T F'], Float[Array, 'B T F']]:
  """Cosine and sine of every position's angles, float32."""
  inverse = jnp.asarray(inverse_frequencies(rope, head_dim))
  angle = positions[..., None].astype(jnp.float32) * inverse[None, None]
  return jnp.cos(angle), jnp.sin(angle)


def rotate(
  x: Float[Array, 'B T H h'],
  table: tuple[Float[Array, 'B T F'], Float[Array, 'B T F']],
) -> Float[Array, 'B T H h']:
  """Rotates the first 2F dimensions of each head; the rest pass through."""
  cos, sin = (t[:, :, None] for t in table)
  half = cos.shape[-1]
  wide = x.astype(jnp.float32)
  first, second = wide[..., :half], wide[..., half : 2 * half]
  parts = [
    first * cos - second * sin,
    second * cos + first * sin,
    wide[..., 2 * half :],
  ]
  return jnp.concatenate(parts, axis=-1).astype(x.dtype)


def from_hf(
  config: Mapping[str, Any], *, theta: float = 10000.0, fraction: float = 1.0
) -> Rope:
  """Rope of a config.json: `rope_theta` + `rope_scaling`, or transformers 5's
  `rope_parameters`, which holds both. As there, a `rope_scaling` wins.

  Args:
    config: the file's content.
    theta: where it names none.
    fraction: likewise, of the head size that is rotated.

  Raises:
    ValueError: a scaling this project does not have, or one with keys missing.
  """
  # Old folders may carry an explicit null.
  found = config.get('rope_scaling') or config.get('rope_parameters') or {}
  kind = found.get('rope_type', found.get('type')) or 'default'
  if kind not in SUPPORTED:
    raise ValueError(
      f'config.json: rope type {kind!r} is not supported; supported: '
      f'{", ".join(SUPPORTED)}'
    )
  base = found.get('rope_theta') or config.get('rope_theta') or theta
  part = found.get('partial_rotary_factor')
  part = config.get('partial_rotary_factor') if part is None else part
  part = fraction if part is None else part
  rope = Rope(theta=float(base), fraction=float(part))
  if kind == 'default':
    return rope
  try:
    rope = dataclasses.replace(rope, scaling=kind, factor=found['factor'])
    if kind == 'linear':
      return rope
    return dataclasses.replace(
      rope,
      low_freq_factor=found['low_freq_factor'],
      high_freq_factor=found['high_freq_factor'],
      original_max_positions=_original_positions(config, found),
    )
  except KeyError as e:
    raise ValueError(f'config.json: {kind} rope scaling lacks {e}') from e


def _original_positions(
  config: Mapping[str, Any], found: Mapping[str, Any]
) -> int:
  """The context before it was stretched, where transformers looks for it."""
  key = 'original_max_position_embeddings'
  for value in (config.get(key), found.get(key)):
    if value:
      return value
  if 'max_position_embeddings' not in config:
    raise KeyError(key)
  return config['max_position_embeddings']


def to_hf(rope: Rope) -> dict[str, Any]:
  """Keys of config.json, in the form that transformers 4 and 5 both read."""
  keys: dict[str, Any] = {'rope_theta': rope.theta, 'rope_scaling': None}
  if rope.fraction != 1.0:
    keys['partial_rotary_factor'] = rope.fraction
  if rope.scaling != 'default':
    scaling = {'rope_type': rope.scaling, 'factor': rope.factor}
    if rope.scaling == 'llama3':
      scaling |= {
        'low_freq_factor': rope.low_freq_factor,
        'high_freq_factor': rope.high_freq_factor,
        'original_max_position_embeddings': rope.original_max_positions,
      }
    keys['rope_scaling'] = scaling
  return keys
