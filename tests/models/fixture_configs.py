"""Which tiny checkpoints make_fixtures.py makes: at least one a family.

Variants are there for what a family's config.json can ask for.
"""

import transformers as hf

VOCAB = 64
IDS = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
LOCAL, GLOBAL = 'sliding_attention', 'full_attention'

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
# The same ropes in the form of transformers 4.
OLDER = dict(rope_theta=10000.0)
OLDER_UNSCALED = dict(OLDER, rope_scaling=None)
LLAMA3_OLDER = dict(
  rope_theta=1000.0,
  rope_scaling={k: v for k, v in LLAMA3_ROPE.items() if k != 'rope_theta'},
  layer_types=...,
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


GEMMA3_OLDER = dict(
  rope_theta=5000.0,
  rope_local_base_freq=100.0,
  rope_scaling=LINEAR_ROPE,
  layer_types=...,
  sliding_window_pattern=2,
)


def local_and_global(**scaling):
  """Rope keys of Gemma 3 in the form of transformers 5."""
  return dict(
    sliding_attention=dict(rope_type='default', rope_theta=100.0),
    full_attention=dict(rope_type='default', rope_theta=5000.0) | scaling,
  )


def causal_lms():
  """{name: (model, config, keys of the older form or None)}.

  Weights follow from the place in here: add at the end.
  """
  return learned_positions() | rotary_positions()


def rotary_positions():
  """And OPT; then what else the others have."""
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
      OLDER,
    ),
    'mistral_global': (
      hf.MistralForCausalLM,
      hf.MistralConfig(**LLAMA, sliding_window=None, tie_word_embeddings=True),
      None,
    ),
    'qwen2': (
      hf.Qwen2ForCausalLM,
      hf.Qwen2Config(**LLAMA, tie_word_embeddings=True),
      dict(OLDER, layer_types=..., sliding_window=32, max_window_layers=2),
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
      LLAMA3_OLDER,
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
        layer_types=[GLOBAL, LOCAL],
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
        layer_types=[LOCAL, GLOBAL, LOCAL],
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
      GEMMA3_OLDER,
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
      OLDER_UNSCALED,
    ),
    'olmo2': (hf.Olmo2ForCausalLM, hf.Olmo2Config(**LLAMA), None),
    'olmo2_biases': (
      hf.Olmo2ForCausalLM,
      hf.Olmo2Config(
        **dict(LLAMA, num_key_value_heads=4),
        attention_bias=True,
        tie_word_embeddings=True,
      ),
      OLDER_UNSCALED,
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
    'gpt2_by_layer': (
      hf.GPT2LMHeadModel,
      hf.GPT2Config(
        **dict(GPT2, n_layer=3),
        n_inner=48,
        activation_function='tanh',
        scale_attn_by_inverse_layer_idx=True,
        reorder_and_upcast_attn=True,
        tie_word_embeddings=False,
      ),
      None,
    ),
    'gpt2_unscaled': (
      hf.GPT2LMHeadModel,
      hf.GPT2Config(**GPT2, scale_attn_weights=False),
      None,
    ),
  }


def learned_positions():
  """And Llama."""
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
  found = {
    'gpt2': ('GPT2', GPT2),
    'gpt_neo': ('GPTNeo', GPT_NEO),
    'llama': ('Llama', LLAMA),
    'gpt_neox': ('GPTNeoX', GPT_NEOX),
    'opt_350m': ('OPT', OPT_350M),
    'gemma3_text': ('Gemma3Text', GEMMA3),
    'phi': ('Phi', LLAMA),
    'phi3': ('Phi3', LLAMA),
  }
  return {
    f'{name}_reward': (
      getattr(hf, f'{family}ForSequenceClassification'),
      getattr(hf, f'{family}Config')(**keys, num_labels=1),
    )
    for name, (family, keys) in found.items()
  }
