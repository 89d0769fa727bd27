"""GPT-NeoX and Pythia: parallel branches, a rope on part of each head."""

from collections.abc import Mapping
from typing import Any

from rlaif_jax.models import families, rope
from rlaif_jax.models.config import ModelConfig
from rlaif_jax.models.tensors import Tensor

CAUSAL_LM = 'GPTNeoXForCausalLM'
CLASSIFIER = 'GPTNeoXForSequenceClassification'
PREFIX = 'gpt_neox.'
IGNORED = (
  r'layers\.\d+\.attention\.(masked_)?bias',  # the causal mask
  r'layers\.\d+\.attention\.rotary_emb\.inv_freq',
)
ALIASES = {'embed_out.weight': 'lm_head.weight'}

# The others have names of their own here.
_ROPE_KEYS = ('rope_parameters', 'rope_scaling', 'max_position_embeddings')

_LAYER = 'gpt_neox.layers.{}.'
_FUSED = _LAYER + 'attention.query_key_value.'

# Query, key and value lie side by side within each head.
NAME_MAP = {
  'embed/tokens': Tensor('gpt_neox.embed_in.weight', 'V D'),
  'layers/attention_norm/scale': Tensor(_LAYER + 'input_layernorm.weight'),
  'layers/attention_norm/bias': Tensor(_LAYER + 'input_layernorm.bias'),
  'layers/mlp_norm/scale': Tensor(_LAYER + 'post_attention_layernorm.weight'),
  'layers/mlp_norm/bias': Tensor(_LAYER + 'post_attention_layernorm.bias'),
  'layers/attention/query/kernel': Tensor(
    _FUSED + 'weight', 'H*3*h D', 'D H h', part=0
  ),
  'layers/attention/query/bias': Tensor(
    _FUSED + 'bias', 'H*3*h', 'H h', part=0
  ),
  'layers/attention/key/kernel': Tensor(
    _FUSED + 'weight', 'K*3*h D', 'D K h', part=1
  ),
  'layers/attention/key/bias': Tensor(_FUSED + 'bias', 'K*3*h', 'K h', part=1),
  'layers/attention/value/kernel': Tensor(
    _FUSED + 'weight', 'K*3*h D', 'D K h', part=2
  ),
  'layers/attention/value/bias': Tensor(
    _FUSED + 'bias', 'K*3*h', 'K h', part=2
  ),
  'layers/attention/out/kernel': Tensor(
    _LAYER + 'attention.dense.weight', 'D H*h', 'H h D'
  ),
  'layers/attention/out/bias': Tensor(_LAYER + 'attention.dense.bias'),
  'layers/mlp/up/kernel': Tensor(
    _LAYER + 'mlp.dense_h_to_4h.weight', 'F D', 'D F'
  ),
  'layers/mlp/up/bias': Tensor(_LAYER + 'mlp.dense_h_to_4h.bias', 'F'),
  'layers/mlp/down/kernel': Tensor(
    _LAYER + 'mlp.dense_4h_to_h.weight', 'D F', 'F D'
  ),
  'layers/mlp/down/bias': Tensor(_LAYER + 'mlp.dense_4h_to_h.bias'),
  'final_norm/scale': Tensor('gpt_neox.final_layer_norm.weight'),
  'final_norm/bias': Tensor('gpt_neox.final_layer_norm.bias'),
  'unembedding/kernel': Tensor('embed_out.weight', 'V D', 'D V'),
}


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
  """ModelConfig of a GPT-NeoX config.json, of transformers 4 or 5."""
  heads = config['num_attention_heads']
  attention_bias = config.get('attention_bias', True)
  return ModelConfig(
    family='gpt_neox',
    vocab_size=config['vocab_size'],
    width=config['hidden_size'],
    num_layers=config['num_hidden_layers'],
    num_heads=heads,
    num_kv_heads=heads,
    head_dim=config['hidden_size'] // heads,
    mlp_dim=config['intermediate_size'],
    max_positions=config.get('max_position_embeddings', 2048),
    activation=families.activation(config.get('hidden_act', 'gelu')),
    norm='layernorm',
    norm_eps=config.get('layer_norm_eps', 1e-5),
    parallel=config.get('use_parallel_residual', True),
    rope=rope.from_hf(
      {k: config[k] for k in _ROPE_KEYS if k in config},
      theta=config.get('rotary_emb_base', 10000.0),
      fraction=config.get('rotary_pct', 0.25),
    ),
    qkv_bias=attention_bias,
    out_bias=attention_bias,
    mlp_bias=True,
    tie_embeddings=config.get('tie_word_embeddings', False),
  )


def to_hf(c: ModelConfig) -> dict[str, Any]:
  """config.json of a GPT-NeoX."""
  return {
    'vocab_size': c.vocab_size,
    'hidden_size': c.width,
    'num_hidden_layers': c.num_layers,
    'num_attention_heads': c.num_heads,
    'intermediate_size': c.mlp_dim,
    'max_position_embeddings': c.max_positions,
    'hidden_act': families.activation_to_hf(c.activation),
    'layer_norm_eps': c.norm_eps,
    'use_parallel_residual': c.parallel,
    'rotary_emb_base': c.rope.theta,
    'rotary_pct': c.rope.fraction,
    'rope_scaling': rope.to_hf(c.rope)['rope_scaling'],
    'attention_bias': c.qkv_bias,
    'tie_word_embeddings': c.tie_embeddings,
  }
