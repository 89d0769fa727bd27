"""Gemma 1: Llama with a gated GELU, scaled embeddings and scales less 1."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlaif_jax.models import families, llama
from rlaif_jax.models.config import ModelConfig

CAUSAL_LM = 'GemmaForCausalLM'
CLASSIFIER = 'GemmaForSequenceClassification'
PREFIX = 'model.'
IGNORED = llama.IGNORED
NAME_MAP = llama.NAME_MAP

_DEFAULTS = {
  'num_key_value_heads': 16,
  'head_dim': 256,
  'max_position_embeddings': 8192,
  'tie_word_embeddings': True,
}
_FIXED = {'mlp_bias': False}


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
  """ModelConfig of a Gemma config.json.

  Raises:
    ValueError: attention in both directions, or two activations.
  """
  families.refuse(config, 'use_bidirectional_attention')
  act = {'hidden_act': _activation(config)}
  c = llama.from_hf({**_DEFAULTS, **config, **_FIXED, **act})
  return dataclasses.replace(
    c, family='gemma', norm_offset=1.0, embed_scale=c.width**0.5
  )


def to_hf(c: ModelConfig) -> dict[str, Any]:
  """config.json of a Gemma."""
  keys = {k: v for k, v in llama.to_hf(c).items() if k not in _FIXED}
  if c.activation == 'gelu_tanh':
    keys['hidden_act'] = 'gelu_pytorch_tanh'
  return {**keys, 'hidden_activation': keys['hidden_act']}


def _activation(config: Mapping[str, Any]) -> str:
  """The first files said 'gelu' where they meant its tanh approximation."""
  act = config.get('hidden_act') or 'gelu_pytorch_tanh'
  act = 'gelu_pytorch_tanh' if act == 'gelu' else act
  other = config.get('hidden_activation') or act
  if families.activation(other) != families.activation(act):
    raise ValueError(
      f'config.json: gemma has hidden_act {act!r} and hidden_activation '
      f'{other!r}; set both to the one that is meant'
    )
  return act
