"""config.json files as they are on the hub, and what of them is refused."""

import pytest

from rlaif_jax import models
from rlaif_jax.models import Rope, families

SMALL = dict(
  vocab_size=32,
  hidden_size=48,
  intermediate_size=64,
  num_hidden_layers=4,
  num_attention_heads=4,
)

# Each as the hub has it, by transformers 4 where nothing else is said, with
# the keys that only name tokens or training left out; then what it must mean.
HUB = {
  'EleutherAI/pythia-160m': (
    dict(
      model_type='gpt_neox',
      hidden_act='gelu',
      hidden_size=768,
      intermediate_size=3072,
      layer_norm_eps=1e-5,
      max_position_embeddings=2048,
      num_attention_heads=12,
      num_hidden_layers=12,
      rotary_emb_base=10000,
      rotary_pct=0.25,
      tie_word_embeddings=False,
      use_parallel_residual=True,
      vocab_size=50304,
    ),
    dict(
      rope=Rope(fraction=0.25),
      parallel=True,
      shared_norm=False,
      qkv_bias=True,
      tie_embeddings=False,
      head_dim=64,
    ),
  ),
  'facebook/opt-350m': (
    dict(
      model_type='opt',
      _remove_final_layer_norm=False,
      activation_function='relu',
      do_layer_norm_before=False,
      ffn_dim=4096,
      hidden_size=1024,
      max_position_embeddings=2048,
      num_attention_heads=16,
      num_hidden_layers=24,
      vocab_size=50272,
      word_embed_proj_dim=512,
    ),
    dict(
      norm_place='sum',
      final_norm=False,
      hidden_width=512,
      position_offset=2,
      tie_embeddings=True,
      activation='relu',
    ),
  ),
  'mistralai/Mistral-7B-v0.1': (
    dict(
      model_type='mistral',
      hidden_act='silu',
      hidden_size=4096,
      intermediate_size=14336,
      max_position_embeddings=32768,
      num_attention_heads=32,
      num_hidden_layers=32,
      num_key_value_heads=8,
      rms_norm_eps=1e-5,
      rope_theta=10000.0,
      sliding_window=4096,
      tie_word_embeddings=False,
      vocab_size=32000,
    ),
    dict(windows=(4096,) * 32, num_kv_heads=8, head_dim=128, norm_eps=1e-5),
  ),
  'Qwen/Qwen2.5-0.5B': (
    dict(
      model_type='qwen2',
      hidden_act='silu',
      hidden_size=896,
      intermediate_size=4864,
      max_position_embeddings=32768,
      max_window_layers=24,
      num_attention_heads=14,
      num_hidden_layers=24,
      num_key_value_heads=2,
      rms_norm_eps=1e-6,
      rope_theta=1000000.0,
      sliding_window=32768,
      tie_word_embeddings=True,
      use_mrope=False,
      use_sliding_window=False,
      vocab_size=151936,
    ),
    dict(windows=(), qkv_bias=True, out_bias=False, rope=Rope(theta=1e6)),
  ),
  'Qwen/Qwen3-0.6B': (
    dict(
      model_type='qwen3',
      attention_bias=False,
      head_dim=128,
      hidden_act='silu',
      hidden_size=1024,
      intermediate_size=3072,
      max_position_embeddings=40960,
      max_window_layers=28,
      num_attention_heads=16,
      num_hidden_layers=28,
      num_key_value_heads=8,
      rms_norm_eps=1e-6,
      rope_scaling=None,
      rope_theta=1000000,
      sliding_window=None,
      tie_word_embeddings=True,
      use_sliding_window=False,
      vocab_size=151936,
    ),
    dict(qk_norm='shared', head_dim=128, qkv_bias=False, windows=()),
  ),
  'google/gemma-2b': (
    dict(
      model_type='gemma',
      attention_bias=False,
      head_dim=256,
      hidden_act='gelu',
      hidden_activation='gelu_pytorch_tanh',
      hidden_size=2048,
      intermediate_size=16384,
      max_position_embeddings=8192,
      num_attention_heads=8,
      num_hidden_layers=18,
      num_key_value_heads=1,
      rms_norm_eps=1e-6,
      rope_scaling=None,
      rope_theta=10000.0,
      vocab_size=256000,
    ),
    dict(
      activation='gelu_tanh',
      norm_offset=1.0,
      embed_scale=2048**0.5,
      tie_embeddings=True,
      num_kv_heads=1,
    ),
  ),
  'google/gemma-2-2b': (
    dict(
      model_type='gemma2',
      attention_bias=False,
      attn_logit_softcapping=50.0,
      cache_implementation='hybrid',
      final_logit_softcapping=30.0,
      head_dim=256,
      hidden_act='gelu_pytorch_tanh',
      hidden_activation='gelu_pytorch_tanh',
      hidden_size=2304,
      intermediate_size=9216,
      max_position_embeddings=8192,
      num_attention_heads=8,
      num_hidden_layers=4,
      num_key_value_heads=4,
      query_pre_attn_scalar=256,
      rms_norm_eps=1e-6,
      rope_theta=10000.0,
      sliding_window=4096,
      vocab_size=256000,
    ),
    dict(
      windows=(4096, 0, 4096, 0),
      attention_softcap=50.0,
      logit_softcap=30.0,
      attention_scale=1 / 16,
      norm_place='both',
      activation='gelu_tanh',
    ),
  ),
  'google/gemma-3-1b-pt': (
    dict(
      model_type='gemma3_text',
      attention_bias=False,
      attn_logit_softcapping=None,
      cache_implementation='hybrid',
      final_logit_softcapping=None,
      head_dim=256,
      hidden_activation='gelu_pytorch_tanh',
      hidden_size=1152,
      intermediate_size=6912,
      max_position_embeddings=32768,
      num_attention_heads=4,
      num_hidden_layers=7,
      num_key_value_heads=1,
      query_pre_attn_scalar=256,
      rms_norm_eps=1e-6,
      rope_local_base_freq=10000,
      rope_scaling=None,
      rope_theta=1000000,
      sliding_window=512,
      sliding_window_pattern=6,
      vocab_size=262144,
    ),
    dict(
      windows=(512,) * 5 + (0, 512),
      rope=Rope(theta=1e6),
      local_rope=Rope(theta=1e4),
      qk_norm='shared',
      logit_softcap=None,
    ),
  ),
  'google/gemma-3-270m, by transformers 5': (
    dict(
      model_type='gemma3_text',
      _sliding_window_pattern=6,
      attention_bias=False,
      attn_logit_softcapping=None,
      final_logit_softcapping=None,
      head_dim=256,
      hidden_activation='gelu_pytorch_tanh',
      hidden_size=640,
      intermediate_size=2048,
      layer_types=['sliding_attention', 'full_attention'],
      max_position_embeddings=32768,
      num_attention_heads=4,
      num_hidden_layers=2,
      num_key_value_heads=1,
      query_pre_attn_scalar=256,
      rms_norm_eps=1e-6,
      rope_parameters={
        'full_attention': {'rope_theta': 1000000.0, 'rope_type': 'default'},
        'sliding_attention': {'rope_theta': 10000.0, 'rope_type': 'default'},
      },
      sliding_window=512,
      use_bidirectional_attention=False,
      vocab_size=262144,
    ),
    dict(windows=(512, 0), rope=Rope(theta=1e6), local_rope=Rope(theta=1e4)),
  ),
  'microsoft/phi-2': (
    dict(
      model_type='phi',
      hidden_act='gelu_new',
      hidden_size=2560,
      intermediate_size=10240,
      layer_norm_eps=1e-5,
      max_position_embeddings=2048,
      num_attention_heads=32,
      num_hidden_layers=32,
      num_key_value_heads=32,
      partial_rotary_factor=0.4,
      qk_layernorm=False,
      rope_scaling=None,
      rope_theta=10000.0,
      tie_word_embeddings=False,
      vocab_size=51200,
    ),
    dict(
      rope=Rope(fraction=0.4),
      shared_norm=True,
      unembed_bias=True,
      qk_norm=None,
      head_dim=80,
    ),
  ),
  'microsoft/Phi-3-mini-4k-instruct': (
    dict(
      model_type='phi3',
      attention_bias=False,
      hidden_act='silu',
      hidden_size=3072,
      intermediate_size=8192,
      max_position_embeddings=4096,
      num_attention_heads=32,
      num_hidden_layers=32,
      num_key_value_heads=32,
      original_max_position_embeddings=4096,
      rms_norm_eps=1e-5,
      rope_scaling=None,
      rope_theta=10000.0,
      sliding_window=2047,
      tie_word_embeddings=False,
      vocab_size=32064,
    ),
    dict(windows=(2047,) * 32, head_dim=96, norm_eps=1e-5),
  ),
  'allenai/OLMo-2-0425-1B': (
    dict(
      model_type='olmo2',
      attention_bias=False,
      hidden_act='silu',
      hidden_size=2048,
      intermediate_size=8192,
      max_position_embeddings=4096,
      num_attention_heads=16,
      num_hidden_layers=16,
      num_key_value_heads=16,
      rms_norm_eps=1e-6,
      rope_scaling=None,
      rope_theta=500000,
      tie_word_embeddings=False,
      vocab_size=100352,
    ),
    dict(norm_place='output', qk_norm='joint', rope=Rope(theta=5e5)),
  ),
  'stabilityai/stablelm-2-12b': (
    dict(
      model_type='stablelm',
      hidden_act='silu',
      hidden_size=5120,
      intermediate_size=13824,
      layer_norm_eps=1e-5,
      max_position_embeddings=4096,
      num_attention_heads=32,
      num_hidden_layers=40,
      num_key_value_heads=8,
      partial_rotary_factor=0.25,
      qk_layernorm=True,
      rope_scaling=None,
      rope_theta=10000,
      tie_word_embeddings=False,
      use_parallel_residual=True,
      use_qkv_bias=False,
      vocab_size=100352,
    ),
    dict(
      qk_norm='per_head',
      parallel=True,
      shared_norm=True,
      rope=Rope(fraction=0.25),
      norm='layernorm',
    ),
  ),
}


@pytest.mark.parametrize('name', HUB)
def test_what_files_of_the_hub_mean(name):
  config, expected = HUB[name]
  found = models.build(config).config
  assert {k: getattr(found, k) for k in expected} == expected
  # Written as it came, and from our own description alone it means the same.
  assert families.config_to_hf(found) == config
  bare = models.with_options(models.build(config), origin=models.Origin())
  assert models.build(families.config_to_hf(bare.config)).config == found


def test_keys_that_a_file_leaves_out_have_the_defaults_of_transformers():
  def config(model_type, **changes):
    return models.build({**SMALL, 'model_type': model_type, **changes}).config

  assert config('gpt_neox').rope == Rope(fraction=0.25)
  assert config('mistral', num_key_value_heads=2).windows == (4096,) * 4
  assert config('qwen3', num_key_value_heads=2).head_dim == 128
  gemma2 = config('gemma2')
  assert (gemma2.attention_softcap, gemma2.logit_softcap) == (50.0, 30.0)
  assert (gemma2.head_dim, gemma2.num_kv_heads) == (256, 4)
  assert config('gemma3_text').local_rope == Rope(theta=10000.0)
  assert config('phi').rope == Rope(fraction=0.5)
  assert config('phi3').norm_eps == 1e-5
  assert config('olmo2').norm_eps == 1e-5
  assert config('stablelm', num_key_value_heads=4).rope == Rope(fraction=0.25)


@pytest.mark.parametrize('model_type', ['gemma2', 'gemma3_text'])
def test_a_gemma_without_windows_is_written_with_one(model_type):
  """transformers asks for it, be no layer of that type."""
  kinds = ['full_attention'] * 4
  config = {**SMALL, 'model_type': model_type, 'layer_types': kinds}
  found = models.build({**config, 'sliding_window': None}).config
  assert found.windows == ()
  bare = models.with_options(models.build(config), origin=models.Origin())
  written = families.config_to_hf(bare.config)
  assert (written['sliding_window'], written['layer_types']) == (4096, kinds)


def test_windows_of_upper_layers():
  changes = dict(
    SMALL,
    model_type='qwen2',
    num_key_value_heads=2,
    sliding_window=7,
    max_window_layers=3,
  )
  assert models.build(changes).config.windows == ()
  changes['use_sliding_window'] = True
  assert models.build(changes).config.windows == (0, 0, 0, 7)
  kinds = ['full_attention', 'sliding_attention'] * 2
  changes['layer_types'] = kinds
  assert models.build(changes).config.windows == (0, 7, 0, 7)


@pytest.mark.parametrize(
  ('model_type', 'changes', 'message'),
  [
    ('gpt_neox', {'hidden_act': 'relu2'}, "'relu2' is not supported; suppor"),
    ('gpt_neox', {'rope_scaling': {'type': 'dynamic'}}, "'dynamic' is not"),
    ('mistral', {'layer_types': ['full_attention']}, 'mistral with layer_typ'),
    (
      'qwen2',
      {'layer_types': ['chunked_attention'] * 4},
      'chunked_attention is not supported; supported: full_attention, sliding',
    ),
    (
      'qwen3',
      {'layer_types': ['full_attention']},
      'names 1 layers, num_hidden_layers is 4',
    ),
    (
      'qwen2',
      {'layer_types': ['sliding_attention'] * 4},
      'need a sliding_window',
    ),
    ('qwen2', {'rope_scaling': {'rope_type': 'yarn'}}, "'yarn' is not support"),
    (
      'gemma',
      {'hidden_act': 'gelu', 'hidden_activation': 'relu'},
      "hidden_activation 'relu'",
    ),
    ('gemma', {'use_bidirectional_attention': True}, 'use_bidirectional_atten'),
    ('gemma2', {'use_bidirectional_attention': True}, 'use_bidirectional_att'),
    ('gemma3_text', {'use_bidirectional_attention': True}, 'bidirectional'),
    ('gemma3_text', {'attn_logit_softcapping': 50.0}, 'attn_logit_softcapping'),
    (
      'gemma3_text',
      {'rope_parameters': {'rope_theta': 10000.0}},
      'lacks full_attention',
    ),
    (
      'gemma3_text',
      {
        'rope_parameters': {
          'sliding_attention': {'rope_type': 'linear', 'factor': 2.0}
        }
      },
      'linear rope scaling of sliding_attention',
    ),
    (
      'phi3',
      {'rope_scaling': {'type': 'longrope'}},
      "'longrope' is not supported; supported: default, linear, llama3",
    ),
    ('gemma3', {}, "'gemma3' is not supported; supported: gemma, gemma2, "),
  ],
)
def test_what_is_refused(model_type, changes, message):
  config = {**SMALL, 'model_type': model_type, 'num_key_value_heads': 2}
  with pytest.raises(ValueError, match=message):
    models.build({**config, **changes})
