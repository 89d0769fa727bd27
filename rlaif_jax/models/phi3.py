"""Phi-3 and Phi-4: Llama with fused projections. Longrope is not supported."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlaif_jax.models import llama
from rlaif_jax.models.config import ModelConfig
from rlaif_jax.models.tensors import Tensor

CAUSAL_LM = 'Phi3ForCausalLM'
CLASSIFIER = 'Phi3ForSequenceClassification'
PREFIX = 'model.'
IGNORED = llama.IGNORED
# transformers would put 32000 there, be it beyond the vocabulary.
NULL_KEYS = ('eos_token_id', 'pad_token_id')

_QKV = 'model.layers.{}.self_attn.qkv_proj.weight'
_GATE_UP = 'model.layers.{}.mlp.gate_up_proj.weight'
_HEADS = 'H*h+K*h+K*h D'

NAME_MAP = {
  **llama.NAME_MAP,
  'layers/attention/query/kernel': Tensor(_QKV, _HEADS, 'D H h', part=0),
  'layers/attention/key/kernel': Tensor(_QKV, _HEADS, 'D K h', part=1),
  'layers/attention/value/kernel': Tensor(_QKV, _HEADS, 'D K h', part=2),
  'layers/mlp/gate/kernel': Tensor(_GATE_UP, '2*F D', 'D F', part=0),
  'layers/mlp/up/kernel': Tensor(_GATE_UP, '2*F D', 'D F', part=1),
}

_DEFAULTS = {'max_position_embeddings': 4096, 'rms_norm_eps': 1e-5}
_FIXED = {'attention_bias': False, 'mlp_bias': False}


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
  """ModelConfig of a Phi-3 config.json."""
  c = llama.from_hf({**_DEFAULTS, **config, **_FIXED})
  window = config.get('sliding_window')
  windows = (window,) * c.num_layers if window else ()
  return dataclasses.replace(c, family='phi3', windows=windows)


def to_hf(c: ModelConfig) -> dict[str, Any]:
  """config.json of a Phi-3."""
  keys = {k: v for k, v in llama.to_hf(c).items() if k not in _FIXED}
  return {**keys, 'sliding_window': c.windows[0] if c.windows else None}
