"""Every family against transformers: what it computes, and the round trip."""

import json
import pathlib

import jax
import numpy as np
import pytest
from safetensors import safe_open

from rlaif_jax import models
from rlaif_jax.core.types import PromptBatch
from rlaif_jax.inference import decode
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.models import families, hf


def close(actual, expected):
  """Within 1e-3 of the standard deviation."""
  expected = np.asarray(expected)
  np.testing.assert_allclose(
    actual, expected, rtol=0, atol=1e-3 * expected.std()
  )


def file_tensors(folder: pathlib.Path):
  with safe_open(folder / 'model.safetensors', 'np') as f:
    return {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118


@pytest.mark.parametrize('name', families.supported())
def test_contract(name):
  module = families.find(name)
  assert {'embed/tokens', 'unembedding/kernel'} <= module.NAME_MAP.keys()
  assert callable(module.from_hf)
  assert callable(module.to_hf)
  assert module.PREFIX.endswith('.')
  assert 'For' in module.CLASSIFIER
  assert module.CAUSAL_LM != module.CLASSIFIER
  assert isinstance(module.IGNORED, tuple)


def test_all_supported_families_are_tested():
  folder = pathlib.Path(__file__).parent / 'fixtures'
  tested = {
    json.loads(p.read_text())['model_type']
    for p in folder.glob('*/config.json')
  }
  assert tested == set(families.supported())


def test_logits_without_padding(lm, forward):
  model, params = lm.language_model
  for i, row in enumerate(lm.rows):
    out = forward(model, params, row[None])
    close(out.logits[0], lm.reference[f'logits_{i}'])


@pytest.mark.parametrize('side', ['left', 'right'])
def test_logits_with_padding(lm, forward, side):
  model, params = lm.language_model
  tokens, mask = lm.padded(side)
  logits = np.asarray(forward(model, params, tokens, mask).logits)
  for i in range(3):
    close(logits[i][mask[i]], lm.reference[f'logits_{i}'])


@pytest.mark.parametrize('side', ['left', 'right'])
def test_prefill_and_decode_equal_the_full_forward(lm, forward, side):
  model, params = lm.language_model
  tokens, mask = lm.padded(side)
  cache = model.init_cache(3, 30)
  steps = [forward(model, params, tokens[:, :4], mask[:, :4], cache)]
  for t in range(4, 24):
    now = slice(t, t + 1)
    steps.append(
      forward(model, params, tokens[:, now], mask[:, now], steps[-1].cache)
    )
  logits = np.concatenate([s.logits for s in steps], axis=1)
  for i in range(3):
    close(logits[i][mask[i]], lm.reference[f'logits_{i}'])
  assert steps[-1].cache.index == 24


def test_greedy_tokens(lm):
  """As stages sample, with what models/steps.py makes of the weights."""
  model, params = lm.language_model
  generate = decode.make_generate(
    model,
    max_new_tokens=20,
    sampling=SamplingConfig(greedy=True),
    eos_ids=(),
    pad_id=0,
  )
  prompts = PromptBatch(*lm.padded('left'))
  found = generate(params, prompts, jax.random.key(0)).response_tokens
  for i in range(3):
    np.testing.assert_array_equal(found[i], lm.reference[f'greedy_{i}'])


def test_reward_model_scores_from_padded_batches(rm):
  model, params = rm.reward_model
  for side in ('left', 'right'):
    tokens, mask = rm.padded(side)
    close(model.apply(params, tokens, mask=mask), rm.reference['scores'])


def check_round_trip(source, target):
  original, written = file_tensors(source), file_tensors(target)
  assert written.keys() == original.keys()
  for key, value in original.items():
    assert written[key].dtype == value.dtype
    np.testing.assert_array_equal(written[key], value, err_msg=key)
  for name in ('config.json', 'generation_config.json'):
    if (source / name).exists():
      expected = json.loads((source / name).read_text())
      assert json.loads((target / name).read_text()) == expected


def test_language_model_round_trip(lm, tmp_path):
  hf.save(tmp_path, *lm.language_model)
  check_round_trip(lm.path, tmp_path)


def test_reward_model_round_trip(rm, tmp_path):
  hf.save(tmp_path, *rm.reward_model)
  check_round_trip(rm.path, tmp_path)


def test_config_written_without_an_origin_means_the_same(lm):
  model, _ = lm.language_model
  bare = models.with_options(model, origin=models.Origin())
  written = families.config_to_hf(bare.config)
  assert models.build(written, param_dtype=model.config.param_dtype) == model


GPT2 = dict(
  model_type='gpt2', vocab_size=8, n_embd=8, n_head=2, n_layer=2, n_positions=4
)
GPT_NEO = dict(
  model_type='gpt_neo', vocab_size=8, hidden_size=8, num_heads=2, num_layers=3
)


def test_gpt2_cross_attention_is_refused():
  with pytest.raises(ValueError, match='gpt2 with add_cross_attention=True is'):
    models.build({**GPT2, 'add_cross_attention': True})


def test_gpt_neo_windows():
  def windows(**changes):
    return models.build({**GPT_NEO, **changes}).config.windows

  assert windows() == windows(attention_types=None) == (0, 256, 0)
  kinds = [[['local'], 2], [['global'], 1]]
  assert windows(attention_types=kinds, window_size=7) == (7, 7, 0)
  with pytest.raises(ValueError, match='names 2 layers, num_layers is 3'):
    windows(attention_types=[[['global'], 2]])
  with pytest.raises(ValueError, match='sparse is not supported'):
    windows(attention_types=[[['sparse'], 3]])
