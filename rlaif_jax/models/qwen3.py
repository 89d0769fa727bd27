"""Qwen 3: Llama with a norm on each head's queries and keys."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlaif_jax.models import llama, qwen2
from rlaif_jax.models.config import ModelConfig
from rlaif_jax.models.tensors import Tensor

CAUSAL_LM = 'Qwen3ForCausalLM'
CLASSIFIER = 'Qwen3ForSequenceClassification'
PREFIX = 'model.'
IGNORED = llama.IGNORED

_ATTENTION = 'model.layers.{}.self_attn.'

NAME_MAP = {
  **llama.NAME_MAP,
  'layers/attention/query_norm/scale': Tensor(_ATTENTION + 'q_norm.weight'),
  'layers/attention/key_norm/scale': Tensor(_ATTENTION + 'k_norm.weight'),
}

_DEFAULTS = {
  'num_key_value_heads': 32,
  'head_dim': 128,
  'max_position_embeddings': 32768,
}
_FIXED = {'mlp_bias': False}


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
  """ModelConfig of a Qwen 3 config.json."""
  c = llama.from_hf({**_DEFAULTS, **config, **_FIXED})
  return dataclasses.replace(
    c, family='qwen3', qk_norm='shared', windows=qwen2.windows(config)
  )


def to_hf(c: ModelConfig) -> dict[str, Any]:
  """config.json of a Qwen 3."""
  keys = {k: v for k, v in llama.to_hf(c).items() if k not in _FIXED}
  return keys | qwen2.windows_to_hf(c)
