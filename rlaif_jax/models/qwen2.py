"""Qwen 2 and 2.5: Llama with biases on query, key and value."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlaif_jax.models import families, llama
from rlaif_jax.models.config import ModelConfig

CAUSAL_LM = 'Qwen2ForCausalLM'
CLASSIFIER = 'Qwen2ForSequenceClassification'
PREFIX = 'model.'
IGNORED = llama.IGNORED
NAME_MAP = llama.NAME_MAP

_DEFAULTS = {'num_key_value_heads': 32, 'max_position_embeddings': 32768}
_FIXED = {'attention_bias': False, 'mlp_bias': False}


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
  """ModelConfig of a Qwen 2 config.json."""
  c = llama.from_hf({**_DEFAULTS, **config, **_FIXED})
  return dataclasses.replace(
    c, family='qwen2', qkv_bias=True, windows=windows(config)
  )


def to_hf(c: ModelConfig) -> dict[str, Any]:
  """config.json of a Qwen 2."""
  keys = {k: v for k, v in llama.to_hf(c).items() if k not in _FIXED}
  return keys | windows_to_hf(c)


def windows(config: Mapping[str, Any]) -> tuple[int, ...]:
  """Window of each layer: with `use_sliding_window`, of the upper ones."""
  used = config.get('use_sliding_window', False)
  window = config.get('sliding_window', 4096) if used else None
  first = config.get('max_window_layers', 28)
  kinds = [
    families.SLIDING if window and i >= first else families.FULL
    for i in range(config['num_hidden_layers'])
  ]
  return families.windows(config, kinds, window)


def windows_to_hf(c: ModelConfig) -> dict[str, Any]:
  """The keys that `windows` reads."""
  kinds = families.layer_types(c)
  return {
    'use_sliding_window': bool(c.windows),
    'sliding_window': max(c.windows, default=None),
    'max_window_layers': (
      kinds.index(families.SLIDING) if c.windows else c.num_layers
    ),
    'layer_types': kinds,
  }
