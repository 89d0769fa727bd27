"""Gemma 3, text only: Gemma 2 with q/k norms and a rope for local layers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlaif_jax.models import families, gemma2, llama, rope
from rlaif_jax.models.config import ModelConfig, Rope
from rlaif_jax.models.tensors import Tensor

CAUSAL_LM = 'Gemma3ForCausalLM'
CLASSIFIER = 'Gemma3TextForSequenceClassification'
PREFIX = 'model.'
IGNORED = llama.IGNORED

_ATTENTION = 'model.layers.{}.self_attn.'

NAME_MAP = {
  **gemma2.NAME_MAP,
  'layers/attention/query_norm/scale': Tensor(_ATTENTION + 'q_norm.weight'),
  'layers/attention/key_norm/scale': Tensor(_ATTENTION + 'k_norm.weight'),
}

_DEFAULTS = {
  'num_key_value_heads': 4,
  'head_dim': 256,
  'max_position_embeddings': 131072,
  'tie_word_embeddings': True,
}


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
  """ModelConfig of a Gemma 3 text config.json, of transformers 4 or 5.

  Raises:
    ValueError: attention in both directions, soft caps on scores, other layer
      types, or a rope that is scaled in local layers.
  """
  # transformers reads this key and then does not use it.
  families.refuse(config, 'attn_logit_softcapping')
  pattern = config.get('sliding_window_pattern', 6)
  kinds = [
    families.SLIDING if (i + 1) % pattern else families.FULL
    for i in range(config['num_hidden_layers'])
  ]
  plain = {
    k: v
    for k, v in config.items()
    if k not in ('rope_parameters', 'rope_scaling')
  }
  everywhere, local = _ropes({**_DEFAULTS, **config})
  return dataclasses.replace(
    gemma2.shared_from_hf({**_DEFAULTS, **plain}),
    family='gemma3_text',
    qk_norm='shared',
    rope=everywhere,
    local_rope=local,
    windows=families.windows(config, kinds, config.get('sliding_window', 4096)),
    logit_softcap=config.get('final_logit_softcapping'),
  )


def to_hf(c: ModelConfig) -> dict[str, Any]:
  """config.json of a Gemma 3 text model."""
  return {
    **gemma2.shared_to_hf(c),
    'rope_local_base_freq': c.local_rope.theta,
    'final_logit_softcapping': c.logit_softcap,
  }


def _ropes(config: Mapping[str, Any]) -> tuple[Rope, Rope]:
  """Rope of global layers and of those with a window."""
  found = config.get('rope_parameters') or {}
  if found and not {families.FULL, families.SLIDING} & found.keys():
    raise ValueError(
      'config.json: rope_parameters of gemma3_text lacks full_attention and '
      'sliding_attention'
    )
  everywhere = {
    **(found.get(families.FULL) or {}),
    **(config.get('rope_scaling') or {}),
  }
  local = found.get(families.SLIDING) or {}
  local = rope.from_hf(
    {'rope_parameters': local},
    theta=config.get('rope_local_base_freq') or 10_000.0,
  )
  if local.scaling != 'default':
    raise ValueError(
      f'config.json: {local.scaling} rope scaling of sliding_attention layers '
      'is not supported; supported: default'
    )
  keys = {
    'rope_parameters': everywhere,
    'max_position_embeddings': config['max_position_embeddings'],
  }
  theta = config.get('rope_theta') or 1_000_000.0
  return rope.from_hf(keys, theta=theta), local
