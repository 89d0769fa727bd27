"""GPT-2: learned positions, one fused projection for query, key and value."""

from collections.abc import Mapping
from typing import Any

from rlaif_jax.models import families
from rlaif_jax.models.config import ModelConfig
from rlaif_jax.models.tensors import Tensor

CAUSAL_LM = 'GPT2LMHeadModel'
CLASSIFIER = 'GPT2ForSequenceClassification'
PREFIX = 'transformer.'
IGNORED = (r'h\.\d+\.attn\.(masked_)?bias',)  # the causal mask

_LAYER = 'transformer.h.{}.'
_FUSED = _LAYER + 'attn.c_attn.'

# Kernels are [in, out] here, unlike in all other families.
NAME_MAP = {
  'embed/tokens': Tensor('transformer.wte.weight', 'V D'),
  'embed/positions': Tensor('transformer.wpe.weight', 'P D'),
  'layers/attention_norm/scale': Tensor(_LAYER + 'ln_1.weight'),
  'layers/attention_norm/bias': Tensor(_LAYER + 'ln_1.bias'),
  'layers/attention/query/kernel': Tensor(
    _FUSED + 'weight', 'D 3*H*h', 'D H h', part=0
  ),
  'layers/attention/query/bias': Tensor(
    _FUSED + 'bias', '3*H*h', 'H h', part=0
  ),
  'layers/attention/key/kernel': Tensor(
    _FUSED + 'weight', 'D 3*K*h', 'D K h', part=1
  ),
  'layers/attention/key/bias': Tensor(_FUSED + 'bias', '3*K*h', 'K h', part=1),
  'layers/attention/value/kernel': Tensor(
    _FUSED + 'weight', 'D 3*K*h', 'D K h', part=2
  ),
  'layers/attention/value/bias': Tensor(
    _FUSED + 'bias', '3*K*h', 'K h', part=2
  ),
  'layers/attention/out/kernel': Tensor(
    _LAYER + 'attn.c_proj.weight', 'H*h D', 'H h D'
  ),
  'layers/attention/out/bias': Tensor(_LAYER + 'attn.c_proj.bias'),
  'layers/mlp_norm/scale': Tensor(_LAYER + 'ln_2.weight'),
  'layers/mlp_norm/bias': Tensor(_LAYER + 'ln_2.bias'),
  'layers/mlp/up/kernel': Tensor(_LAYER + 'mlp.c_fc.weight', 'D F'),
  'layers/mlp/up/bias': Tensor(_LAYER + 'mlp.c_fc.bias', 'F'),
  'layers/mlp/down/kernel': Tensor(_LAYER + 'mlp.c_proj.weight', 'F D'),
  'layers/mlp/down/bias': Tensor(_LAYER + 'mlp.c_proj.bias'),
  'final_norm/scale': Tensor('transformer.ln_f.weight'),
  'final_norm/bias': Tensor('transformer.ln_f.bias'),
  'unembedding/kernel': Tensor('lm_head.weight', 'V D', 'D V'),
}


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
  """ModelConfig of a GPT-2 config.json.

  Raises:
    ValueError: cross-attention.
  """
  families.refuse(config, 'add_cross_attention')
  heads = config['n_head']
  width = config['n_embd']
  scaled = config.get('scale_attn_weights', True)
  return ModelConfig(
    family='gpt2',
    vocab_size=config['vocab_size'],
    width=width,
    num_layers=config['n_layer'],
    num_heads=heads,
    num_kv_heads=heads,
    head_dim=width // heads,
    mlp_dim=config.get('n_inner') or 4 * width,
    max_positions=config['n_positions'],
    activation=families.activation(
      config.get('activation_function', 'gelu_new')
    ),
    norm='layernorm',
    norm_eps=config.get('layer_norm_epsilon', 1e-5),
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    tie_embeddings=config.get('tie_word_embeddings', True),
    attention_scale=None if scaled else 1.0,
    attention_scale_by_layer=config.get(
      'scale_attn_by_inverse_layer_idx', False
    ),
  )


def to_hf(c: ModelConfig) -> dict[str, Any]:
  """config.json of a GPT-2."""
  return {
    'vocab_size': c.vocab_size,
    'n_embd': c.width,
    'n_layer': c.num_layers,
    'n_head': c.num_heads,
    'n_inner': c.mlp_dim,
    'n_positions': c.max_positions,
    'activation_function': families.activation_to_hf(c.activation),
    'layer_norm_epsilon': c.norm_eps,
    'scale_attn_weights': c.attention_scale is None,
    'scale_attn_by_inverse_layer_idx': c.attention_scale_by_layer,
    'tie_word_embeddings': c.tie_embeddings,
  }
