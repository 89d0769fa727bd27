"""Gemma 2: Gemma with norms on both sides, soft caps and windows by turns."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlaif_jax.models import families, llama
from rlaif_jax.models.config import ModelConfig
from rlaif_jax.models.tensors import Tensor

CAUSAL_LM = 'Gemma2ForCausalLM'
CLASSIFIER = 'Gemma2ForSequenceClassification'
PREFIX = 'model.'
IGNORED = llama.IGNORED

_LAYER = 'model.layers.{}.'

NAME_MAP = {
  **llama.NAME_MAP,
  'layers/attention_post_norm/scale': Tensor(
    _LAYER + 'post_attention_layernorm.weight'
  ),
  'layers/mlp_norm/scale': Tensor(_LAYER + 'pre_feedforward_layernorm.weight'),
  'layers/mlp_post_norm/scale': Tensor(
    _LAYER + 'post_feedforward_layernorm.weight'
  ),
}

_DEFAULTS = {
  'num_key_value_heads': 4,
  'head_dim': 256,
  'max_position_embeddings': 8192,
  'tie_word_embeddings': True,
}
_FIXED = {'mlp_bias': False}
_WINDOW = 4096


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
  """ModelConfig of a Gemma 2 config.json.

  Raises:
    ValueError: attention in both directions, or other layer types.
  """
  kinds = [
    families.FULL if i % 2 else families.SLIDING
    for i in range(config['num_hidden_layers'])
  ]
  return dataclasses.replace(
    shared_from_hf({**_DEFAULTS, **config}),
    family='gemma2',
    windows=families.windows(
      config, kinds, config.get('sliding_window', _WINDOW)
    ),
    attention_softcap=config.get('attn_logit_softcapping', 50.0),
    logit_softcap=config.get('final_logit_softcapping', 30.0),
  )


def to_hf(c: ModelConfig) -> dict[str, Any]:
  """config.json of a Gemma 2."""
  return {
    **shared_to_hf(c),
    'attn_logit_softcapping': c.attention_softcap,
    'final_logit_softcapping': c.logit_softcap,
  }


def shared_from_hf(config: Mapping[str, Any]) -> ModelConfig:
  """What Gemma 2 and 3 have in common."""
  families.refuse(config, 'use_bidirectional_attention')
  act = {'hidden_act': config.get('hidden_activation', 'gelu_pytorch_tanh')}
  c = llama.from_hf({**config, **_FIXED, **act})
  return dataclasses.replace(
    c,
    norm_offset=1.0,
    norm_place='both',
    embed_scale=c.width**0.5,
    attention_scale=config.get('query_pre_attn_scalar', 256) ** -0.5,
  )


def shared_to_hf(c: ModelConfig) -> dict[str, Any]:
  """The keys that `shared_from_hf` and `families.windows` read."""
  drop = {*_FIXED, 'hidden_act'}
  keys = {k: v for k, v in llama.to_hf(c).items() if k not in drop}
  act = families.activation_to_hf(c.activation)
  scalar = round(c.attention_scale**-2, 6)
  return {
    **keys,
    'hidden_activation': 'gelu_pytorch_tanh' if act == 'gelu_new' else act,
    'query_pre_attn_scalar': int(scalar) if scalar.is_integer() else scalar,
    # Needed by transformers be it used or not.
    'sliding_window': max(c.windows, default=_WINDOW),
    'layer_types': families.layer_types(c),
  }
