"""StableLM: Llama with LayerNorm, a rope on part of each head, and options."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlaif_jax.models import llama, rope
from rlaif_jax.models.config import ModelConfig
from rlaif_jax.models.tensors import Tensor

CAUSAL_LM = 'StableLmForCausalLM'
CLASSIFIER = 'StableLmForSequenceClassification'
PREFIX = 'model.'
IGNORED = llama.IGNORED

_LAYER = 'model.layers.{}.'

NAME_MAP = {
  **llama.NAME_MAP,
  'layers/attention_norm/bias': Tensor(_LAYER + 'input_layernorm.bias'),
  'layers/attention/query_norm/scale': Tensor(
    _LAYER + 'self_attn.q_layernorm.norms.{}.weight', 'h'
  ),
  'layers/attention/key_norm/scale': Tensor(
    _LAYER + 'self_attn.k_layernorm.norms.{}.weight', 'h'
  ),
  'layers/mlp_norm/bias': Tensor(_LAYER + 'post_attention_layernorm.bias'),
  'final_norm/bias': Tensor('model.norm.bias'),
}

_DEFAULTS = {
  'num_key_value_heads': 32,
  'max_position_embeddings': 4096,
  'layer_norm_eps': 1e-5,
}
_FIXED = {'attention_bias': False, 'mlp_bias': False, 'head_dim': None}


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
  """ModelConfig of a StableLM config.json."""
  config = {**_DEFAULTS, **config, **_FIXED}
  parallel = config.get('use_parallel_residual', False)
  return dataclasses.replace(
    llama.from_hf(config),
    family='stablelm',
    norm='layernorm',
    norm_eps=config['layer_norm_eps'],
    parallel=parallel,
    shared_norm=parallel,
    qk_norm='per_head' if config.get('qk_layernorm') else None,
    rope=rope.from_hf(config, fraction=0.25),
    qkv_bias=config.get('use_qkv_bias', False),
  )


def to_hf(c: ModelConfig) -> dict[str, Any]:
  """config.json of a StableLM."""
  drop = {*_FIXED, 'rms_norm_eps'}
  keys = {k: v for k, v in llama.to_hf(c).items() if k not in drop}
  return {
    **keys,
    'layer_norm_eps': c.norm_eps,
    'use_parallel_residual': c.parallel,
    'qk_layernorm': c.qk_norm is not None,
    'use_qkv_bias': c.qkv_bias,
    'partial_rotary_factor': c.rope.fraction,
  }
