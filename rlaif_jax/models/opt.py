"""OPT: learned positions; the 350m one norms sums and projects embeddings."""

from collections.abc import Mapping
from typing import Any

from rlaif_jax.models import families
from rlaif_jax.models.config import ModelConfig
from rlaif_jax.models.tensors import Tensor

CAUSAL_LM = 'OPTForCausalLM'
CLASSIFIER = 'OPTForSequenceClassification'
PREFIX = 'model.'
IGNORED = ()

_DECODER = 'model.decoder.'
_LAYER = _DECODER + 'layers.{}.'
_ATTENTION = _LAYER + 'self_attn.'
_OFFSET = 2  # the position table's first rows stood for special tokens

NAME_MAP = {
  'embed/tokens': Tensor(_DECODER + 'embed_tokens.weight', 'V E'),
  'embed/positions': Tensor(_DECODER + 'embed_positions.weight', 'P D'),
  'embed/project/kernel': Tensor(_DECODER + 'project_in.weight', 'D E', 'E D'),
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
    _ATTENTION + 'out_proj.weight', 'D H*h', 'H h D'
  ),
  'layers/attention/out/bias': Tensor(_ATTENTION + 'out_proj.bias'),
  'layers/attention_norm/scale': Tensor(_LAYER + 'self_attn_layer_norm.weight'),
  'layers/attention_norm/bias': Tensor(_LAYER + 'self_attn_layer_norm.bias'),
  'layers/mlp/up/kernel': Tensor(_LAYER + 'fc1.weight', 'F D', 'D F'),
  'layers/mlp/up/bias': Tensor(_LAYER + 'fc1.bias', 'F'),
  'layers/mlp/down/kernel': Tensor(_LAYER + 'fc2.weight', 'D F', 'F D'),
  'layers/mlp/down/bias': Tensor(_LAYER + 'fc2.bias'),
  'layers/mlp_norm/scale': Tensor(_LAYER + 'final_layer_norm.weight'),
  'layers/mlp_norm/bias': Tensor(_LAYER + 'final_layer_norm.bias'),
  'final_norm/scale': Tensor(_DECODER + 'final_layer_norm.weight'),
  'final_norm/bias': Tensor(_DECODER + 'final_layer_norm.bias'),
  'project_out/kernel': Tensor(_DECODER + 'project_out.weight', 'E D', 'D E'),
  'unembedding/kernel': Tensor('lm_head.weight', 'V E', 'E V'),
}


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
  """ModelConfig of an OPT config.json."""
  heads = config['num_attention_heads']
  width = config['hidden_size']
  table_width = config.get('word_embed_proj_dim') or width
  before = config.get('do_layer_norm_before', True)
  bias = config.get('enable_bias', True)
  return ModelConfig(
    family='opt',
    vocab_size=config['vocab_size'],
    width=width,
    num_layers=config['num_hidden_layers'],
    num_heads=heads,
    num_kv_heads=heads,
    head_dim=width // heads,
    mlp_dim=config['ffn_dim'],
    max_positions=config.get('max_position_embeddings', 2048),
    activation=families.activation(config.get('activation_function', 'relu')),
    norm='layernorm',
    norm_eps=1e-5,
    norm_affine=config.get('layer_norm_elementwise_affine', True),
    norm_place='input' if before else 'sum',
    final_norm=before and not config.get('_remove_final_layer_norm', False),
    position_offset=_OFFSET,
    embed_width=None if table_width == width else table_width,
    qkv_bias=bias,
    out_bias=bias,
    mlp_bias=bias,
    tie_embeddings=config.get('tie_word_embeddings', True),
  )


def to_hf(c: ModelConfig) -> dict[str, Any]:
  """config.json of an OPT."""
  before = c.norm_place == 'input'
  return {
    'vocab_size': c.vocab_size,
    'hidden_size': c.width,
    'word_embed_proj_dim': c.hidden_width,
    'num_hidden_layers': c.num_layers,
    'num_attention_heads': c.num_heads,
    'ffn_dim': c.mlp_dim,
    'max_position_embeddings': c.max_positions,
    'activation_function': families.activation_to_hf(c.activation),
    'do_layer_norm_before': before,
    '_remove_final_layer_norm': before and not c.final_norm,
    'layer_norm_elementwise_affine': c.norm_affine,
    'enable_bias': c.qkv_bias,
    'tie_word_embeddings': c.tie_embeddings,
  }
