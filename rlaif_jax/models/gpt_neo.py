"""GPT-Neo: local and global attention by turns, scores not scaled."""

from collections.abc import Mapping
from typing import Any

from rlaif_jax.models import families
from rlaif_jax.models.config import ModelConfig
from rlaif_jax.models.tensors import Tensor

CAUSAL_LM = 'GPTNeoForCausalLM'
CLASSIFIER = 'GPTNeoForSequenceClassification'
PREFIX = 'transformer.'
IGNORED = (r'h\.\d+\.attn\.attention\.(masked_)?bias',)  # the causal mask

_LAYER = 'transformer.h.{}.'
_ATTENTION = _LAYER + 'attn.attention.'

NAME_MAP = {
  'embed/tokens': Tensor('transformer.wte.weight', 'V D'),
  'embed/positions': Tensor('transformer.wpe.weight', 'P D'),
  'layers/attention_norm/scale': Tensor(_LAYER + 'ln_1.weight'),
  'layers/attention_norm/bias': Tensor(_LAYER + 'ln_1.bias'),
  'layers/attention/query/kernel': Tensor(
    _ATTENTION + 'q_proj.weight', 'H*h D', 'D H h'
  ),
  'layers/attention/key/kernel': Tensor(
    _ATTENTION + 'k_proj.weight', 'K*h D', 'D K h'
  ),
  'layers/attention/value/kernel': Tensor(
    _ATTENTION + 'v_proj.weight', 'K*h D', 'D K h'
  ),
  'layers/attention/out/kernel': Tensor(
    _ATTENTION + 'out_proj.weight', 'D H*h', 'H h D'
  ),
  'layers/attention/out/bias': Tensor(_ATTENTION + 'out_proj.bias'),
  'layers/mlp_norm/scale': Tensor(_LAYER + 'ln_2.weight'),
  'layers/mlp_norm/bias': Tensor(_LAYER + 'ln_2.bias'),
  'layers/mlp/up/kernel': Tensor(_LAYER + 'mlp.c_fc.weight', 'F D', 'D F'),
  'layers/mlp/up/bias': Tensor(_LAYER + 'mlp.c_fc.bias', 'F'),
  'layers/mlp/down/kernel': Tensor(_LAYER + 'mlp.c_proj.weight', 'D F', 'F D'),
  'layers/mlp/down/bias': Tensor(_LAYER + 'mlp.c_proj.bias'),
  'final_norm/scale': Tensor('transformer.ln_f.weight'),
  'final_norm/bias': Tensor('transformer.ln_f.bias'),
  'unembedding/kernel': Tensor('lm_head.weight', 'V D', 'D V'),
}


def from_hf(config: Mapping[str, Any]) -> ModelConfig:
  """ModelConfig of a GPT-Neo config.json.

  Raises:
    ValueError: an attention type other than global and local.
  """
  heads = config['num_heads']
  width = config['hidden_size']
  return ModelConfig(
    family='gpt_neo',
    vocab_size=config['vocab_size'],
    width=width,
    num_layers=config['num_layers'],
    num_heads=heads,
    num_kv_heads=heads,
    head_dim=width // heads,
    mlp_dim=config.get('intermediate_size') or 4 * width,
    max_positions=config.get('max_position_embeddings', 2048),
    activation=families.activation(
      config.get('activation_function', 'gelu_new')
    ),
    norm='layernorm',
    norm_eps=config.get('layer_norm_epsilon', 1e-5),
    out_bias=True,
    mlp_bias=True,
    tie_embeddings=config.get('tie_word_embeddings', True),
    attention_scale=1.0,
    windows=_windows(config),
  )


def to_hf(c: ModelConfig) -> dict[str, Any]:
  """config.json of a GPT-Neo."""
  kinds = ['local' if w else 'global' for w in c.windows]
  return {
    'vocab_size': c.vocab_size,
    'hidden_size': c.width,
    'num_layers': c.num_layers,
    'num_heads': c.num_heads,
    'intermediate_size': c.mlp_dim,
    'max_position_embeddings': c.max_positions,
    'activation_function': families.activation_to_hf(c.activation),
    'layer_norm_epsilon': c.norm_eps,
    'tie_word_embeddings': c.tie_embeddings,
    'attention_types': [[[kind], 1] for kind in kinds],
    'attention_layers': kinds,
    'window_size': max(c.windows) or 256,
  }


def _windows(config: Mapping[str, Any]) -> tuple[int, ...]:
  """Window of each layer from `attention_types`, [[[kind, ...], times], ...].

  The default is transformers': global and local by turns.
  """
  layers = config['num_layers']
  kinds = [
    kind
    for pattern, times in config.get('attention_types') or ()
    for _ in range(times)
    for kind in pattern
  ]
  if config.get('attention_types') is None:
    kinds = (['global', 'local'] * layers)[:layers]
  if unknown := sorted(set(kinds) - {'global', 'local'}):
    raise ValueError(
      f'config.json: attention type {", ".join(unknown)} is not supported; '
      'supported: global, local'
    )
  if len(kinds) != layers:
    raise ValueError(
      f'config.json: attention_types names {len(kinds)} layers, num_layers is '
      f'{layers}'
    )
  window = config.get('window_size', 256)
  return tuple(window if kind == 'local' else 0 for kind in kinds)
