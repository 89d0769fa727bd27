"""Phi-1 to Phi-2: parallel branches behind one norm, biases everywhere."""

from collections.abc import Mapping
from typing import Any

from rlaif_jax.models import families, rope
from rlaif_jax.models.config import ModelConfig
from rlaif_jax.models.tensors import Tensor

CAUSAL_LM = 'PhiForCausalLM'
CLASSIFIER = 'PhiForSequenceClassification'
PREFIX = 'model.'
IGNORED = (r'layers\.\d+\.self_attn\.rotary_emb\.inv_freq',)

_LAYER = 'model.layers.{}.'
_ATTENTION = _LAYER + 'self_attn.'

NAME_MAP = {
  'embed/tokens': Tensor('model.embed_tokens.weight', 'V D'),
  'layers/attention_norm/scale': Tensor(_LAYER + 'input_layernorm.weight'),
  'layers/attention_norm/bias': Tensor(_LAYER + 'input_layernorm.bias'),
  'layers/attention/query/kernel': Tensor(
    _ATTENTION + 'q_proj.weight', 'H*h D', 'D H h'
  ),
  'layers/attention/query/bias': Tensor(
    _ATTENTION + 'q_proj.bias', 'H*h', 'H h'
  ),
  'layers/attention/key/kernel': Tensor(
    _ATTENTION + 'k_proj.weight', 'K*h D', 'D K h'
  ),
  'layers/attention/key/bias': Tensor(_ATTENTION + 'k_proj.bias', 'K*h', 'K h'),
  'layers/attention/value/kernel': Tensor(
    _ATTENTION + 'v_proj.weight', 'K*h D', 'D K h'
  ),
  'layers/attention/value/bias': Tensor(
    _ATTENTION + 'v_proj.bias', 'K*h', 'K h'
  ),
  'layers/attention/query_norm/scale': Tensor(
    _ATTENTION + 'q_layernorm.weight'
  ),
  'layers/attention/query_norm/bias': Tensor(_ATTENTION + 'q_layernorm.bias'),
  'layers/attention/key_norm/scale': Tensor(_ATTENTION + 'k_layernorm.weight'),
  'layers/attention/key_norm/bias': Tensor(_ATTENTION + 'k_layernorm.bias'),
  'layers/attention/out/kernel': Tensor(
    _ATTENTION + 'dense.weight', 'D H*h', 'H h D'
  ),
  'layers/attention/out/bias': Tensor(_ATTENTION + 'dense.bias'),
  'layers/mlp/up/kernel': Tensor(_LAYER + 'mlp.fc1.weight', 'F D', 'D F'),
  'layers/mlp/up/bias': Tensor(_LAYER + 'mlp.fc1.bias', 'F'),
  'layers/mlp/down/kernel': Tensor(_LAYER + 'mlp.fc2.weight', 'D F', 'F D'),
  'layers/mlp/down/bias': Tensor(_LAYER + 'mlp.fc2.bias'),
  'final_norm/scale': Tensor('model.final_layernorm.weight'),
  'final_norm/bias': Tensor('model.final_layernorm.bias'),
  'unembedding/kernel': Tensor('lm_head.weight', 'V D', 'D V'),
  'unembedding/bias': Tensor('lm_head.bias', 'V'),
}


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
  """ModelConfig of a Phi config.json."""
  heads = config['num_attention_heads']
  return ModelConfig(
    family='phi',
    vocab_size=config['vocab_size'],
    width=config['hidden_size'],
    num_layers=config['num_hidden_layers'],
    num_heads=heads,
    num_kv_heads=config.get('num_key_value_heads') or heads,
    head_dim=config['hidden_size'] // heads,
    mlp_dim=config['intermediate_size'],
    max_positions=config.get('max_position_embeddings', 2048),
    activation=families.activation(config.get('hidden_act', 'gelu_new')),
    norm='layernorm',
    norm_eps=config.get('layer_norm_eps', 1e-5),
    parallel=True,
    shared_norm=True,
    qk_norm='shared' if config.get('qk_layernorm') else None,
    rope=rope.from_hf(config, fraction=0.5),
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    unembed_bias=True,
    tie_embeddings=config.get('tie_word_embeddings', False),
  )


def to_hf(c: ModelConfig) -> dict[str, Any]:
  """config.json of a Phi."""
  return {
    'vocab_size': c.vocab_size,
    'hidden_size': c.width,
    'num_hidden_layers': c.num_layers,
    'num_attention_heads': c.num_heads,
    'num_key_value_heads': c.num_kv_heads,
    'intermediate_size': c.mlp_dim,
    'max_position_embeddings': c.max_positions,
    'hidden_act': families.activation_to_hf(c.activation),
    'layer_norm_eps': c.norm_eps,
    'qk_layernorm': c.qk_norm is not None,
    'tie_word_embeddings': c.tie_embeddings,
    **rope.to_hf(c.rope),
    'partial_rotary_factor': c.rope.fraction,
  }
