"""Mistral: Llama with a sliding window in every layer, or in none."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlaif_jax.models import families, llama
from rlaif_jax.models.config import ModelConfig

CAUSAL_LM = 'MistralForCausalLM'
CLASSIFIER = 'MistralForSequenceClassification'
PREFIX = 'model.'
IGNORED = llama.IGNORED
NAME_MAP = llama.NAME_MAP

_DEFAULTS = {'num_key_value_heads': 8, 'max_position_embeddings': 131072}
_FIXED = {'attention_bias': False, 'mlp_bias': False}


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
  """ModelConfig of a Mistral config.json.

  Raises:
    ValueError: layers of several types (that is Ministral).
  """
  families.refuse(config, 'layer_types')
  c = llama.from_hf({**_DEFAULTS, **config, **_FIXED})
  window = config.get('sliding_window', 4096)
  windows = (window,) * c.num_layers if window else ()
  return dataclasses.replace(c, family='mistral', windows=windows)


def to_hf(c: ModelConfig) -> dict[str, Any]:
  """config.json of a Mistral."""
  keys = {k: v for k, v in llama.to_hf(c).items() if k not in _FIXED}
  return {**keys, 'sliding_window': c.windows[0] if c.windows else None}
