"""Adapter folders: against PEFT's definition, and against PEFT itself."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rlaif_jax.models import (
  Lora,
  hf,
  lora,
  peft,
  peft_modules,
  with_options,
)
from rlaif_jax.models.config import PROJECTIONS

# Plain and biased projections; fused ones by part, by head, and of unlike size.
FAMILIES = ('llama', 'gpt2', 'gpt_neox', 'phi3')


@pytest.fixture(params=FAMILIES)
def base(request, load_checkpoint):
  return load_checkpoint(request.param)


def adapted(base, seed=0, **options):
  """The fixture's model with adapters that change what it says."""
  model, params = base.language_model
  options = {'rank': 3, 'alpha': 12.0, **options}
  model, params = lora.attach(
    model, params, Lora(**options), jax.random.key(seed)
  )
  frozen, trained = lora.split(model, params)
  rng = np.random.default_rng(seed)
  noise = jax.tree.map(lambda x: 0.1 * rng.normal(size=x.shape), trained)
  trained = jax.tree.map(lambda x, n: x + n.astype(x.dtype), trained, noise)
  return model, lora.join(frozen, trained)


def folded(base, adapter, folder):
  """The fixture with W += scale * B A in its files, as PEFT defines it."""
  shutil.copytree(base.path, folder)
  config = json.loads((adapter / peft.CONFIG).read_text())
  weights = load_file(folder / 'model.safetensors')
  found = load_file(adapter / peft.WEIGHTS)
  for key in [k for k in found if k.endswith('lora_A.weight')]:
    a, b = found[key], found[key.replace('lora_A', 'lora_B')]
    name = key.removesuffix('.lora_A.weight')
    alpha = config['lora_alpha']
    for pattern, value in config['alpha_pattern'].items():
      alpha = value if name.endswith(pattern) else alpha
    change = b @ a * (alpha / len(a))
    if config['fan_in_fan_out']:
      change = change.T
    weights[name.removeprefix('base_model.model.') + '.weight'] += change
  save_file(weights, folder / 'model.safetensors', {'format': 'pt'})
  return hf.load(folder)


def logits_of(base, forward, model, params):
  tokens, mask = base.padded('right')
  return np.asarray(forward(model, params, tokens, mask).logits)[mask]


def assert_like(found, wanted):
  np.testing.assert_allclose(found, wanted, atol=1e-4 * wanted.std())


def test_written_is_what_peft_means(base, forward, tmp_path):
  model, params = adapted(base)
  peft.save(tmp_path / 'adapter', model, params, str(base.path))
  wanted = logits_of(base, forward, model, params)
  plain = logits_of(base, forward, *base.language_model)
  assert np.abs(wanted - plain).max() > wanted.std() / 2
  by_hand = folded(base, tmp_path / 'adapter', tmp_path / 'model')
  assert_like(logits_of(base, forward, *by_hand), wanted)


@pytest.mark.parametrize('targets', [PROJECTIONS, ('query', 'value', 'down')])
def test_what_is_written_is_read(base, tmp_path, targets):
  model, params = adapted(base, targets=targets)
  _, trained = lora.split(model, params)
  peft.save(tmp_path, model, trained, '')
  found, adapters = peft.load(tmp_path, base.language_model[0])
  assert (found.rank, found.alpha) == (3, 12.0)
  assert found.targets == tuple(
    t for t in targets if t != 'gate' or model.config.gated_mlp
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), adapters, trained
  )


def test_new_adapters_keep_their_a(load_checkpoint, tmp_path):
  """With B = 0 nothing but the number of projections tells how A is cut."""
  base = load_checkpoint('gpt2')
  model, params = lora.attach(*base.language_model, Lora(2), jax.random.key(0))
  peft.save(tmp_path, model, params, '')
  found, adapters = peft.load(tmp_path, base.language_model[0])
  assert found.rank == 2
  jax.tree.map(np.testing.assert_array_equal, adapters, lora.adapters(params))


def edit(folder, change=lambda tensors: tensors, **config):
  file = folder / peft.CONFIG
  file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
  tensors = load_file(folder / peft.WEIGHTS)
  save_file(change(tensors), folder / peft.WEIGHTS)


@pytest.fixture
def llama(load_checkpoint, tmp_path):
  """(fixture, folder of its adapters, model, parameters)."""
  base = load_checkpoint('llama')
  model, params = adapted(base, targets=('query', 'up'))
  peft.save(tmp_path / 'adapter', model, params, 'org/name')
  return base, tmp_path / 'adapter', model, params


def test_config(llama):
  config = json.loads((llama[1] / peft.CONFIG).read_text())
  assert config['target_modules'] == ['q_proj', 'up_proj']
  assert config['base_model_name_or_path'] == 'org/name'
  assert config['task_type'] == 'CAUSAL_LM'
  assert (config['r'], config['lora_alpha']) == (3, 12.0)
  assert not config['rank_pattern']
  found = load_file(llama[1] / peft.WEIGHTS)
  prefix = 'base_model.model.model.layers.0.self_attn.q_proj.'
  width = llama[2].config.width
  assert found[f'{prefix}lora_A.weight'].shape == (3, width)
  assert found[f'{prefix}lora_B.weight'].shape == (width, 3)


def test_names_say_no_more_than_they_must(load_checkpoint, tmp_path):
  """gpt2 has two modules c_proj; a fused one of two parts gets twice R."""
  model, params = adapted(
    load_checkpoint('gpt2'), targets=('key', 'query', 'out')
  )
  peft.save(tmp_path, model, params, '')
  config = json.loads((tmp_path / peft.CONFIG).read_text())
  assert config['target_modules'] == ['attn.c_proj', 'c_attn']
  assert config['rank_pattern'] == {'c_attn': 6}
  assert config['alpha_pattern'] == {'c_attn': 24.0}
  assert config['fan_in_fan_out']


def test_ranks_and_scales_may_differ(llama, forward, tmp_path):
  """Per module and layer, also by another rule for the scale."""
  base, folder, model, params = llama

  def change(tensors):
    """Layer 0's query gets a rank of 1, all else is kept."""
    for key in list(tensors):
      if 'layers.0.self_attn.q_proj' in key:
        cut = np.s_[:1] if 'lora_A' in key else np.s_[:, :1]
        tensors[key] = np.ascontiguousarray(tensors[key][cut])
    return tensors

  edit(folder, change, alpha_pattern={r'layers\.1\.mlp\.up_proj': 5.0})
  wanted = folded_by_config(base, folder, tmp_path / 'plain')
  found, adapters = peft.load(folder, base.language_model[0])
  assert found.rank == 3
  model = with_options(base.language_model[0], lora=found)
  params = lora.join(base.language_model[1], adapters)
  assert_like(
    logits_of(base, forward, model, params), logits_of(base, forward, *wanted)
  )
  before = found.alpha
  edit(folder, use_rslora=True, alpha_pattern={})
  found, _ = peft.load(folder, base.language_model[0])
  assert found.alpha == before


def folded_by_config(base, adapter, folder):
  """As `folded`, the pattern being of one layer's module."""
  copy = adapter.parent / 'copy'
  shutil.copytree(adapter, copy)
  edit(copy, alpha_pattern={'layers.1.mlp.up_proj': 5.0})
  return folded(base, copy, folder)


def test_head_of_a_reward_model(load_checkpoint, tmp_path):
  model, params = load_checkpoint('llama_reward').reward_model
  plain = model
  model, params = lora.attach(model, params, Lora(2), jax.random.key(0))
  peft.save(tmp_path, model, params, '')
  config = json.loads((tmp_path / peft.CONFIG).read_text())
  assert config['modules_to_save'] == ['score']
  assert config['task_type'] == 'SEQ_CLS'
  _, trained = peft.load(tmp_path, plain)
  jax.tree.map(
    np.testing.assert_array_equal, trained, lora.split(model, params)[1]
  )
  with pytest.raises(ValueError, match=r"modules_to_save=\['score'\] is not"):
    peft.load(tmp_path, plain.trunk)


@pytest.mark.parametrize(
  'config',
  [
    dict(use_dora=True),
    dict(bias='lora_only'),
    dict(modules_to_save=['lm_head']),
    dict(peft_type='IA3'),
    dict(init_lora_weights='pissa'),
  ],
  ids=lambda config: next(iter(config)),
)
def test_other_kinds_are_refused(llama, config):
  base, folder, *_ = llama
  edit(folder, **config)
  with pytest.raises(ValueError, match=f'{next(iter(config))}='):
    peft.load(folder, base.language_model[0])


def test_other_modules_are_refused(llama):
  base, folder, *_ = llama
  name = 'base_model.model.lm_head.lora_A.weight'
  edit(folder, lambda tensors: tensors | {name: np.zeros((3, 4), np.float32)})
  with pytest.raises(ValueError, match='lm_head.lora_A.weight; supported are'):
    peft.load(folder, base.language_model[0])


def test_a_layer_without_is_refused(llama):
  base, folder, *_ = llama
  edit(folder, lambda found: {k: v for k, v in found.items() if '.1.' not in k})
  with pytest.raises(ValueError, match='q_proj has no adapter, but other'):
    peft.load(folder, base.language_model[0])


def test_pickles_are_refused(llama):
  base, folder, *_ = llama
  (folder / peft.WEIGHTS).rename(folder / 'adapter_model.bin')
  with pytest.raises(ValueError, match='pickle'):
    peft.load(folder, base.language_model[0])


def test_no_adapter(llama, tmp_path):
  base = llama[0]
  with pytest.raises(FileNotFoundError, match='no adapter here'):
    peft.load(tmp_path, base.language_model[0])
  with pytest.raises(ValueError, match='no adapters to be written'):
    peft.save(tmp_path, *base.language_model, '')


def test_every_projection_has_a_module(lm):
  model = lm.language_model[0]
  found = {
    part.path.rpartition('/')[2]
    for module in peft_modules.of(model)
    for part in module.parts
  }
  absent = set() if model.config.gated_mlp else {'gate'}
  assert found == set(PROJECTIONS) - absent


# -- PEFT itself --------------------------------------------------------------

LIVE = ('llama', 'gpt2', 'gpt_neox')


@pytest.fixture
def torch_model():
  """The fixture in transformers, where torch and peft are installed."""
  pytest.importorskip('torch', reason='needs torch')
  pytest.importorskip('peft', reason='needs peft')
  transformers = pytest.importorskip('transformers')

  def load(base):
    return transformers.AutoModelForCausalLM.from_pretrained(base.path).eval()

  return load


def torch_logits(base, model):
  import torch

  tokens, mask = base.padded('right')
  with torch.no_grad():
    out = model(
      input_ids=torch.tensor(tokens, dtype=torch.long),
      attention_mask=torch.tensor(mask, dtype=torch.long),
    )
  return out.logits.numpy()[mask]


@pytest.mark.filterwarnings('default')
@pytest.mark.parametrize('name', LIVE)
def test_peft_reads_ours(load_checkpoint, forward, tmp_path, torch_model, name):
  base = load_checkpoint(name)
  model, params = adapted(base)
  peft.save(tmp_path, model, params, str(base.path))
  from peft import PeftModel

  theirs = PeftModel.from_pretrained(torch_model(base), tmp_path)
  wanted = logits_of(base, forward, model, params)
  assert_like(torch_logits(base, theirs), wanted)


@pytest.mark.filterwarnings('default')
@pytest.mark.parametrize('name', LIVE)
def test_we_read_pefts(load_checkpoint, forward, tmp_path, torch_model, name):
  import torch
  from peft import LoraConfig, get_peft_model

  base = load_checkpoint(name)
  names = [
    m.name.split('{}.')[1] for m in peft_modules.of(base.language_model[0])
  ]
  theirs = get_peft_model(
    torch_model(base),
    LoraConfig(r=4, lora_alpha=8, target_modules=names, task_type='CAUSAL_LM'),
  )
  torch.manual_seed(0)
  for key, value in theirs.named_parameters():
    if 'lora_' in key:
      value.data += 0.1 * torch.randn_like(value)
  theirs.save_pretrained(tmp_path)
  found, adapters = peft.load(tmp_path, base.language_model[0])
  assert dataclasses.astuple(found)[:2] == (4, 8.0)
  model = with_options(base.language_model[0], lora=found)
  params = lora.join(base.language_model[1], adapters)
  assert_like(
    logits_of(base, forward, model, params), torch_logits(base, theirs.eval())
  )
