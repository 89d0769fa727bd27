"""Writes tests/models/fixtures/: tiny random checkpoints and what they compute.

Needs torch and transformers, which the tests do not:

  python tests/models/make_fixtures.py [NAME ...]

A folder `<family>_<variant>` holds what `save_pretrained` writes, and
reference.npz with three rows of ids, each run alone and without padding:
`tokens_i` [T], `logits_i` [T, V] and `greedy_i` [20] continued greedily, or
`scores` [3] for a reward model.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers as hf

FOLDER = pathlib.Path(__file__).parent / 'fixtures'
LENGTHS = (20, 13, 6)
NEW_TOKENS = 20
VOCAB = 64
IDS = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)

LLAMA = dict(
  vocab_size=VOCAB,
  hidden_size=32,
  intermediate_size=48,
  num_hidden_layers=2,
  num_attention_heads=4,
  num_key_value_heads=2,
  max_position_embeddings=64,
  **IDS,
)
LLAMA3_ROPE = dict(
  rope_type='llama3',
  rope_theta=1000.0,
  factor=8.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position_embeddings=16,
)
GPT2 = dict(
  vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, **IDS
)
GPT_NEO = dict(
  vocab_size=VOCAB,
  hidden_size=32,
  num_layers=3,
  num_heads=4,
  attention_types=[[['global', 'local'], 1], [['local'], 1]],
  window_size=4,
  intermediate_size=48,
  max_position_embeddings=64,
  **IDS,
)
GPT_NEOX = dict(
  vocab_size=VOCAB,
  hidden_size=32,
  intermediate_size=48,
  num_hidden_layers=2,
  num_attention_heads=4,
  max_position_embeddings=64,
  **IDS,
)
OPT = dict(
  vocab_size=VOCAB,
  hidden_size=32,
  ffn_dim=48,
  num_hidden_layers=2,
  num_attention_heads=4,
  max_position_embeddings=64,
  **IDS,
)
OPT_350M = dict(OPT, do_layer_norm_before=False, word_embed_proj_dim=16)
GEMMA3 = dict(
  LLAMA,
  num_hidden_layers=3,
  head_dim=12,
  query_pre_attn_scalar=24,
  sliding_window=4,
)
LINEAR_ROPE = dict(rope_type='linear', factor=4.0)


def local_and_global(**scaling):
  """Rope keys of Gemma 3 in the form of transformers 5."""
  return dict(
    sliding_attention=dict(rope_type='default', rope_theta=100.0),
    full_attention=dict(rope_type='default', rope_theta=5000.0) | scaling,
  )


def causal_lms():
  """{name: (model, config, keys of the older form or None)}."""
  return older_families() | newer_families()


def newer_families():
  """Those that the first ones of this project did not have."""
  return {
    'gpt_neox': (
      hf.GPTNeoXForCausalLM,
      hf.GPTNeoXConfig(**GPT_NEOX, rotary_pct=0.5),
      None,
    ),
    'gpt_neox_serial': (
      hf.GPTNeoXForCausalLM,
      hf.GPTNeoXConfig(
        **GPT_NEOX,
        rotary_pct=0.25,
        rotary_emb_base=50,
        use_parallel_residual=False,
        attention_bias=False,
        hidden_act='gelu_fast',
        tie_word_embeddings=True,
      ),
      dict(rotary_pct=0.25, rotary_emb_base=50, rope_scaling=None),
    ),
    'opt': (hf.OPTForCausalLM, hf.OPTConfig(**OPT), None),
    'opt_350m': (hf.OPTForCausalLM, hf.OPTConfig(**OPT_350M), None),
    'opt_bare': (
      hf.OPTForCausalLM,
      hf.OPTConfig(
        **OPT,
        enable_bias=False,
        layer_norm_elementwise_affine=False,
        activation_function='gelu',
        tie_word_embeddings=False,
      ),
      None,
    ),
    'mistral': (
      hf.MistralForCausalLM,
      hf.MistralConfig(**LLAMA, head_dim=12, sliding_window=4),
      dict(rope_theta=10000.0),
    ),
    'mistral_global': (
      hf.MistralForCausalLM,
      hf.MistralConfig(**LLAMA, sliding_window=None, tie_word_embeddings=True),
      None,
    ),
    'qwen2': (
      hf.Qwen2ForCausalLM,
      hf.Qwen2Config(**LLAMA, tie_word_embeddings=True),
      dict(
        rope_theta=10000.0,
        layer_types=...,
        sliding_window=32,
        max_window_layers=2,
      ),
    ),
    'qwen2_window': (
      hf.Qwen2ForCausalLM,
      hf.Qwen2Config(
        **LLAMA, use_sliding_window=True, sliding_window=4, max_window_layers=1
      ),
      None,
    ),
    'qwen3': (
      hf.Qwen3ForCausalLM,
      hf.Qwen3Config(**LLAMA, head_dim=12, attention_bias=True),
      None,
    ),
    'qwen3_window': (
      hf.Qwen3ForCausalLM,
      hf.Qwen3Config(
        **LLAMA,
        head_dim=8,
        tie_word_embeddings=True,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=1,
        rope_parameters=LLAMA3_ROPE,
      ),
      dict(
        rope_theta=1000.0,
        rope_scaling={
          k: v for k, v in LLAMA3_ROPE.items() if k != 'rope_theta'
        },
        layer_types=...,
      ),
    ),
    'gemma': (
      hf.GemmaForCausalLM,
      hf.GemmaConfig(**dict(LLAMA, num_key_value_heads=1), head_dim=12),
      dict(rope_theta=10000.0, hidden_act='gelu', hidden_activation=None),
    ),
    'gemma2': (
      hf.Gemma2ForCausalLM,
      hf.Gemma2Config(
        **LLAMA,
        head_dim=12,
        query_pre_attn_scalar=24,
        sliding_window=4,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=10.0,
      ),
      dict(rope_theta=10000.0, layer_types=..., cache_implementation='hybrid'),
    ),
    'gemma2_uncapped': (
      hf.Gemma2ForCausalLM,
      hf.Gemma2Config(
        **LLAMA,
        head_dim=8,
        query_pre_attn_scalar=10,
        layer_types=['full_attention', 'sliding_attention'],
        sliding_window=5,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        attention_bias=True,
        tie_word_embeddings=False,
        hidden_activation='gelu',
      ),
      None,
    ),
    'gemma3_text': (
      hf.Gemma3ForCausalLM,
      hf.Gemma3TextConfig(
        **GEMMA3,
        layer_types=[
          'sliding_attention',
          'full_attention',
          'sliding_attention',
        ],
        rope_parameters=local_and_global(),
        final_logit_softcapping=10.0,
      ),
      None,
    ),
    'gemma3_text_linear': (
      hf.Gemma3ForCausalLM,
      hf.Gemma3TextConfig(
        **GEMMA3,
        sliding_window_pattern=2,
        rope_parameters=local_and_global(**LINEAR_ROPE),
      ),
      dict(
        rope_theta=5000.0,
        rope_local_base_freq=100.0,
        rope_scaling=LINEAR_ROPE,
        layer_types=...,
        sliding_window_pattern=2,
      ),
    ),
    'phi': (hf.PhiForCausalLM, hf.PhiConfig(**LLAMA), None),
    'phi_norms': (
      hf.PhiForCausalLM,
      hf.PhiConfig(
        **dict(LLAMA, num_key_value_heads=4),
        qk_layernorm=True,
        partial_rotary_factor=0.25,
        tie_word_embeddings=True,
      ),
      dict(rope_theta=10000.0, rope_scaling=None, partial_rotary_factor=0.25),
    ),
    'phi3': (
      hf.Phi3ForCausalLM,
      hf.Phi3Config(**LLAMA, partial_rotary_factor=0.75),
      None,
    ),
    'phi3_window': (
      hf.Phi3ForCausalLM,
      hf.Phi3Config(
        **dict(LLAMA, num_key_value_heads=4),
        sliding_window=5,
        tie_word_embeddings=True,
      ),
      dict(rope_theta=10000.0, rope_scaling=None),
    ),
    'olmo2': (hf.Olmo2ForCausalLM, hf.Olmo2Config(**LLAMA), None),
    'olmo2_biases': (
      hf.Olmo2ForCausalLM,
      hf.Olmo2Config(
        **dict(LLAMA, num_key_value_heads=4),
        attention_bias=True,
        tie_word_embeddings=True,
      ),
      dict(rope_theta=10000.0, rope_scaling=None),
    ),
    'stablelm': (hf.StableLmForCausalLM, hf.StableLmConfig(**LLAMA), None),
    'stablelm_parallel': (
      hf.StableLmForCausalLM,
      hf.StableLmConfig(
        **LLAMA,
        use_qkv_bias=True,
        qk_layernorm=True,
        use_parallel_residual=True,
        partial_rotary_factor=0.5,
        tie_word_embeddings=True,
      ),
      dict(rope_theta=10000.0, rope_scaling=None, partial_rotary_factor=0.5),
    ),
  }


def older_families():
  """GPT-2, GPT-Neo and Llama."""
  return {
    'gpt2': (hf.GPT2LMHeadModel, hf.GPT2Config(**GPT2), None),
    'gpt_neo': (hf.GPTNeoForCausalLM, hf.GPTNeoConfig(**GPT_NEO), None),
    'llama': (hf.LlamaForCausalLM, hf.LlamaConfig(**LLAMA), None),
    'llama_biases': (
      hf.LlamaForCausalLM,
      hf.LlamaConfig(
        **LLAMA,
        head_dim=12,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        rope_parameters=LLAMA3_ROPE,
      ),
      None,
    ),
    'llama_linear': (
      hf.LlamaForCausalLM,
      hf.LlamaConfig(
        **LLAMA,
        rope_parameters=dict(rope_type='linear', rope_theta=500.0, factor=4.0),
      ),
      dict(rope_theta=500.0, rope_scaling={'type': 'linear', 'factor': 4.0}),
    ),
  }


def reward_models():
  """{name: (class, config)}."""
  one = dict(num_labels=1)
  return {
    'gpt2_reward': (
      hf.GPT2ForSequenceClassification,
      hf.GPT2Config(**GPT2, **one),
    ),
    'gpt_neo_reward': (
      hf.GPTNeoForSequenceClassification,
      hf.GPTNeoConfig(**GPT_NEO, **one),
    ),
    'llama_reward': (
      hf.LlamaForSequenceClassification,
      hf.LlamaConfig(**LLAMA, **one),
    ),
    'gpt_neox_reward': (
      hf.GPTNeoXForSequenceClassification,
      hf.GPTNeoXConfig(**GPT_NEOX, **one),
    ),
    'opt_350m_reward': (
      hf.OPTForSequenceClassification,
      hf.OPTConfig(**OPT_350M, **one),
    ),
    'gemma3_text_reward': (
      hf.Gemma3TextForSequenceClassification,
      hf.Gemma3TextConfig(**GEMMA3, **one),
    ),
    'phi_reward': (
      hf.PhiForSequenceClassification,
      hf.PhiConfig(**LLAMA, **one),
    ),
    'phi3_reward': (
      hf.Phi3ForSequenceClassification,
      hf.Phi3Config(**LLAMA, **one),
    ),
  }


@torch.no_grad()
def randomise(model, seed):
  """Weights large enough that a wrong detail shows; biases not zero."""
  generator = torch.Generator().manual_seed(seed)
  less_one = 'gemma' in model.config.model_type  # how it stores norm scales
  for name, p in model.named_parameters():
    noise = torch.randn(p.shape, generator=generator)
    if p.ndim == 1:
      is_scale = name.endswith('weight')
      p.copy_(0.3 * noise + (1 if is_scale and not less_one else 0))
    elif 'wte' in name or 'wpe' in name or 'embed' in name:
      p.copy_(0.7 * noise)
    else:
      p.copy_(1.3 * noise * 32**-0.5)


@torch.no_grad()
def greedy(model, ids):
  """Continues greedily with whole forward passes; None at a near tie."""
  ids = torch.tensor(ids)[None]
  start = ids.shape[1]
  for _ in range(NEW_TOKENS):
    best = model(ids, use_cache=False).logits[0, -1].topk(2)
    if best.values[0] - best.values[1] < 1e-2:
      return None
    ids = torch.cat([ids, best.indices[:1][None]], dim=1)
  return ids[0, start:].numpy().astype(np.int32)


def rows():
  """The same three rows for every model, ids 3 and up."""
  rng = np.random.default_rng(0)
  return [rng.integers(3, VOCAB, n).astype(np.int32) for n in LENGTHS]


def save(name, model, older, arrays):
  """Writes a fixture; `older` replaces transformers 5's rope keys.

  A value of `...` in it removes a key.
  """
  folder = FOLDER / name
  model.save_pretrained(folder)
  if older is not None:
    path = folder / 'config.json'
    config = json.loads(path.read_text())
    config.pop('rope_parameters')
    config['torch_dtype'] = config.pop('dtype')
    config['transformers_version'] = '4.46.0'
    config = {k: v for k, v in (config | older).items() if v is not ...}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + '\n')
  (folder / 'model.safetensors').chmod(0o644)
  np.savez_compressed(folder / 'reference.npz', **arrays)


@torch.no_grad()
def language_arrays(model, first_seed):
  """Reference of a language model, whose weights it draws."""
  for seed in range(first_seed, first_seed + 100):
    randomise(model, seed)
    arrays = {}
    for i, ids in enumerate(rows()):
      batch = torch.tensor(ids)[None].long()
      arrays[f'tokens_{i}'] = ids
      arrays[f'logits_{i}'] = model(batch).logits[0].numpy()
      arrays[f'greedy_{i}'] = greedy(model, ids.astype(np.int64))
    spread = arrays['logits_0'].std()
    if spread > 1 and all(a is not None for a in arrays.values()):
      print(f'{model.config.model_type}: logits std {spread:.2f}')
      return arrays
  raise RuntimeError('no weights without near ties')


@torch.no_grad()
def reward_arrays(model, seed):
  """Reference of a reward model, whose weights it draws."""
  randomise(model, seed)
  arrays = {f'tokens_{i}': ids for i, ids in enumerate(rows())}
  batches = [torch.tensor(ids)[None].long() for ids in rows()]
  scores = np.array([model(b).logits.item() for b in batches])
  print(f'{model.config.model_type}: scores {scores}')
  return arrays | {'scores': scores}


def main(only):
  """Writes the named fixtures, or all."""
  for i, (name, (cls, config, older)) in enumerate(causal_lms().items()):
    if not only or name in only:
      print(name, end=' ', flush=True)
      model = cls(config).eval()
      save(name, model, older, language_arrays(model, 1000 * i))
  for i, (name, (cls, config)) in enumerate(reward_models().items()):
    if not only or name in only:
      model = cls(config).eval()
      save(name, model, None, reward_arrays(model, i))


if __name__ == '__main__':
  main(sys.argv[1:])
