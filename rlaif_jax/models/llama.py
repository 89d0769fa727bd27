"""Llama 1 to 3, and everything that saved itself as one."""

from collections.abc import Mapping
from typing import Any

from rlaif_jax.models import families, rope
from rlaif_jax.models.config import ModelConfig
from rlaif_jax.models.tensors import Tensor

CAUSAL_LM = 'LlamaForCausalLM'
CLASSIFIER = 'LlamaForSequenceClassification'
PREFIX = 'model.'
IGNORED = (r'layers\.\d+\.self_attn\.rotary_emb\.inv_freq',)

_ATTENTION = 'model.layers.{}.self_attn.'
_MLP = 'model.layers.{}.mlp.'

NAME_MAP = {
  'embed/tokens': Tensor('model.embed_tokens.weight', 'V D'),
  'layers/attention_norm/scale': Tensor(
    'model.layers.{}.input_layernorm.weight'
  ),
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
  'layers/attention/out/kernel': Tensor(
    _ATTENTION + 'o_proj.weight', 'D H*h', 'H h D'
  ),
  'layers/attention/out/bias': Tensor(_ATTENTION + 'o_proj.bias'),
  'layers/mlp_norm/scale': Tensor(
    'model.layers.{}.post_attention_layernorm.weight'
  ),
  'layers/mlp/gate/kernel': Tensor(_MLP + 'gate_proj.weight', 'F D', 'D F'),
  'layers/mlp/gate/bias': Tensor(_MLP + 'gate_proj.bias', 'F'),
  'layers/mlp/up/kernel': Tensor(_MLP + 'up_proj.weight', 'F D', 'D F'),
  'layers/mlp/up/bias': Tensor(_MLP + 'up_proj.bias', 'F'),
  'layers/mlp/down/kernel': Tensor(_MLP + 'down_proj.weight', 'D F', 'F D'),
  'layers/mlp/down/bias': Tensor(_MLP + 'down_proj.bias'),
  'final_norm/scale': Tensor('model.norm.weight'),
  'unembedding/kernel': Tensor('lm_head.weight', 'V D', 'D V'),
}


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
  """ModelConfig of a Llama config.json, of transformers 4 or 5."""
  heads = config['num_attention_heads']
  attention_bias = config.get('attention_bias', False)
  return ModelConfig(
    family='llama',
    vocab_size=config['vocab_size'],
    width=config['hidden_size'],
    num_layers=config['num_hidden_layers'],
    num_heads=heads,
    num_kv_heads=config.get('num_key_value_heads') or heads,
    head_dim=config.get('head_dim') or config['hidden_size'] // heads,
    mlp_dim=config['intermediate_size'],
    max_positions=config.get('max_position_embeddings', 2048),
    activation=families.activation(config.get('hidden_act', 'silu')),
    gated_mlp=True,
    norm_eps=config.get('rms_norm_eps', 1e-6),
    rope=rope.from_hf(config),
    qkv_bias=attention_bias,
    out_bias=attention_bias,
    mlp_bias=config.get('mlp_bias', False),
    tie_embeddings=config.get('tie_word_embeddings', False),
  )


def to_hf(c: ModelConfig) -> dict[str, Any]:
  """config.json of a Llama."""
  return {
    'vocab_size': c.vocab_size,
    'hidden_size': c.width,
    'num_hidden_layers': c.num_layers,
    'num_attention_heads': c.num_heads,
    'num_key_value_heads': c.num_kv_heads,
    'head_dim': c.head_dim,
    'intermediate_size': c.mlp_dim,
    'max_position_embeddings': c.max_positions,
    'hidden_act': families.activation_to_hf(c.activation),
    'rms_norm_eps': c.norm_eps,
    'attention_bias': c.qkv_bias,
    'mlp_bias': c.mlp_bias,
    'tie_word_embeddings': c.tie_embeddings,
    **rope.to_hf(c.rope),
  }
