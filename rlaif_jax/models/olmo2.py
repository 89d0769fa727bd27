"""OLMo 2: Llama normed after each branch, and over all queries and keys."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlaif_jax.models import llama
from rlaif_jax.models.config import ModelConfig
from rlaif_jax.models.tensors import Tensor

CAUSAL_LM = 'Olmo2ForCausalLM'
CLASSIFIER = 'Olmo2ForSequenceClassification'
PREFIX = 'model.'
IGNORED = llama.IGNORED

_LAYER = 'model.layers.{}.'

NAME_MAP = {
  **llama.NAME_MAP,
  'layers/attention/query_norm/scale': Tensor(
    _LAYER + 'self_attn.q_norm.weight', 'H*h', 'H h'
  ),
  'layers/attention/key_norm/scale': Tensor(
    _LAYER + 'self_attn.k_norm.weight', 'K*h', 'K h'
  ),
  'layers/attention_post_norm/scale': Tensor(
    _LAYER + 'post_attention_layernorm.weight'
  ),
  'layers/mlp_post_norm/scale': Tensor(
    _LAYER + 'post_feedforward_layernorm.weight'
  ),
}

_DEFAULTS = {'rms_norm_eps': 1e-5}
_FIXED = {'mlp_bias': False}


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
  """ModelConfig of an OLMo 2 config.json."""
  c = llama.from_hf({**_DEFAULTS, **config, **_FIXED})
  return dataclasses.replace(
    c, family='olmo2', norm_place='output', qk_norm='joint'
  )


def to_hf(c: ModelConfig) -> dict[str, Any]:
  """config.json of an OLMo 2."""
  return {k: v for k, v in llama.to_hf(c).items() if k not in _FIXED}
