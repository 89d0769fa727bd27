"""Folders: what is read and written, and what is refused."""

import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from rlaif_jax import models, sharding
from rlaif_jax.models import families, hf, safetensors_io, weights
from rlaif_jax.models.heads import ScalarModel


@pytest.fixture
def llama(load_checkpoint):
  return load_checkpoint('llama')


@pytest.fixture
def copy(llama, tmp_path):
  """A copy of the llama fixture, to be changed."""
  return shutil.copytree(llama.path, tmp_path / 'copy')


def tensors(folder, name='model.safetensors'):
  with safe_open(folder / name, 'np') as f:
    return {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118


def change_tensors(folder, **changes):
  """Rewrites the file; None removes a tensor. Dots are written '__'."""
  new = tensors(folder)
  for key, value in changes.items():
    key = key.replace('__', '.')
    if value is None:
      del new[key]
    else:
      new[key] = value
  save_file(new, folder / 'model.safetensors')


def change_config(folder, **changes):
  path = folder / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def tensors_of(folder):
  """All tensors of all files."""
  names = sorted(p.name for p in folder.glob('*.safetensors'))
  return [x for name in names for x in tensors(folder, name).values()]


def assert_same(first, second):
  assert jax.tree.structure(first) == jax.tree.structure(second)
  jax.tree.map(np.testing.assert_array_equal, first, second)


# -- several files, types ---------------------------------------------------


def test_several_files_with_an_index(llama, tmp_path):
  model, params = llama.language_model
  hf.save(tmp_path, model, params, max_shard_bytes=30_000)
  index = json.loads((tmp_path / 'model.safetensors.index.json').read_text())
  files = sorted(p.name for p in tmp_path.glob('*.safetensors'))
  assert files == sorted(set(index['weight_map'].values()))
  assert len(files) > 2
  assert files[0] == f'model-00001-of-{len(files):05}.safetensors'
  original = tensors(llama.path)
  assert index['weight_map'].keys() == original.keys()
  total = sum(t.nbytes for t in original.values())
  assert index['metadata']['total_size'] == total
  assert all((tmp_path / f).stat().st_size < 35_000 for f in files)
  assert_same(hf.load(tmp_path)[1], params)


def test_a_save_leaves_nothing_of_an_earlier_one(llama, tmp_path):
  model, params = llama.language_model
  hf.save(tmp_path, model, params, max_shard_bytes=30_000)
  hf.save(tmp_path, model, params)
  assert len(list(tmp_path.glob('*.safetensors*'))) == 1
  hf.save(tmp_path, model, params, max_shard_bytes=30_000)
  assert not (tmp_path / 'model.safetensors').exists()
  assert_same(hf.load(tmp_path)[1], params)


def test_files_are_readable_by_others(llama, tmp_path):
  hf.save(tmp_path, *llama.language_model)
  mode = (tmp_path / 'model.safetensors').stat().st_mode
  assert mode & 0o777 == (tmp_path / 'config.json').stat().st_mode & 0o777


def test_types_are_kept_or_cast(llama, tmp_path):
  model, params = hf.load(llama.path, dtype='bfloat16')
  assert model.config.param_dtype == 'bfloat16'
  assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.bfloat16.dtype}
  hf.save(tmp_path, model, params)
  assert json.loads((tmp_path / 'config.json').read_text())['dtype'] == (
    'bfloat16'
  )
  written, original = tensors(tmp_path), tensors(llama.path)
  for key, value in original.items():
    expected = value.astype(ml_dtypes.bfloat16)
    assert written[key].dtype == expected.dtype
    assert written[key].tobytes() == expected.tobytes()
  assert_same(hf.load(tmp_path)[1], params)
  wide = hf.load(tmp_path, dtype=jnp.float32)[1]
  assert {p.dtype for p in jax.tree.leaves(wide)} == {jnp.float32.dtype}


def test_abstract_params_match_what_is_loaded(lm):
  model, params = lm.language_model
  assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
    lambda x: (x.shape, x.dtype), model.abstract_params()
  )


@pytest.mark.multidevice
def test_loads_into_shards_of_the_mesh(lm):
  mesh = sharding.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
  model, params = hf.load(lm.path, mesh=mesh, rules={'mlp': None})
  where = sharding.shardings(model.param_axes(), params, mesh, {'mlp': None})
  jax.tree.map(
    lambda p, w: p.sharding == w or pytest.fail(str(p.sharding)), params, where
  )
  assert dict(model.rules) == {'mlp': None}
  kernel = params['layers']['attention']['query']['kernel']
  assert kernel.addressable_shards[0].data.size * 4 == kernel.size
  assert_same(params, lm.language_model[1])
  with jax.set_mesh(mesh):
    assert_same(hf.load(lm.path)[1], params)  # the mesh that is set


@pytest.mark.multidevice
@pytest.mark.parametrize('name', ['llama', 'gpt2', 'stablelm_parallel'])
def test_large_parameters_are_put_together_on_devices(
  load_checkpoint, monkeypatch, name
):
  path = load_checkpoint(name).path
  expected = load_checkpoint(name).language_model[1]
  mesh = sharding.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
  where = jax.tree.map(lambda p: p.sharding, hf.load(path, mesh=mesh)[1])
  monkeypatch.setattr(weights, '_AT_ONCE', 0)
  assert_same(hf.load(path)[1], expected)
  with jax.set_mesh(mesh):
    params = hf.load(path)[1]
  assert_same(params, expected)
  assert jax.tree.map(lambda p: p.sharding, params) == where


@pytest.mark.multidevice
def test_saves_from_shards(lm, tmp_path):
  mesh = sharding.make_mesh({'data': 1, 'fsdp': 4, 'tensor': 2})
  hf.save(tmp_path, *hf.load(lm.path, mesh=mesh))
  for key, value in tensors(lm.path).items():
    np.testing.assert_array_equal(tensors(tmp_path)[key], value)


_MEMORY = """
import sys
import jax
from rlaif_jax.models import hf, weights

def peak():  # bytes
  for line in open('/proc/self/status'):
    if line.startswith('VmHWM'):
      return int(line.split()[1]) * 1024

weights._AT_ONCE = 0
jax.block_until_ready(jax.numpy.zeros(8) + 1)
hf.load(sys.argv[2])  # a small one: code, not weights
before = peak()
params = hf.load(sys.argv[1])[1]
jax.block_until_ready(params)
print(peak() - before, sum(p.nbytes for p in jax.tree.leaves(params)))
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc/self/status')
def test_host_memory_stays_near_the_largest_tensor(llama, tmp_path):
  # Parameters on the CPU are host memory too: what counts is what is on top.
  # Programs that were compiled are, too; all layers of a kernel would be more.
  model = models.build(
    dict(
      model_type='llama',
      vocab_size=1024,
      hidden_size=512,
      intermediate_size=1536,
      num_hidden_layers=12,
      num_attention_heads=8,
    )
  )
  params = jax.tree.map(
    lambda s: np.zeros(s.shape, s.dtype), model.abstract_params()
  )
  hf.save(tmp_path, model, params, max_shard_bytes=20_000_000)
  assert len(list(tmp_path.glob('*.safetensors'))) > 5
  out = subprocess.run(
    [sys.executable, '-c', _MEMORY, str(tmp_path), str(llama.path)],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''},
    check=True,
    capture_output=True,
    text=True,
  ).stdout
  grown, total = map(int, out.split())
  sizes = [x.nbytes for x in tensors_of(tmp_path)]
  assert total == sum(sizes) > 50 * max(sizes)
  print(f'grown by {grown:,} for {total:,}, largest {max(sizes):,}')
  assert grown < total + 10 * max(sizes)


# -- keys -------------------------------------------------------------------


def test_missing_and_unused_tensors_are_both_listed(copy):
  change_tensors(
    copy, model__norm__weight=None, model__extra__weight=np.ones(3, 'f4')
  )
  with pytest.raises(
    ValueError,
    match=r'missing: model\.norm\.weight; not used: model\.extra\.weight',
  ):
    hf.load(copy)


def test_a_wrong_shape_is_named(copy):
  change_config(copy, vocab_size=65)
  with pytest.raises(
    ValueError, match=r'embed_tokens.weight has shape \[64, 32\], .*\[65, 32\]'
  ):
    hf.load(copy)


def test_a_type_that_no_parameter_may_have(copy):
  change_tensors(copy, model__norm__weight=np.ones(32, 'i4'))
  with pytest.raises(ValueError, match='norm.weight has type I32.*F32, F16'):
    hf.load(copy)


def test_buffers_and_missing_prefix_of_old_checkpoints(
  load_checkpoint, tmp_path
):
  # As on the hub: gpt2's file holds the bare trunk's keys and causal masks.
  gpt2 = load_checkpoint('gpt2')
  shutil.copytree(gpt2.path, tmp_path, dirs_exist_ok=True)
  bare = {
    k.removeprefix('transformer.'): v for k, v in tensors(gpt2.path).items()
  }
  masks = {f'h.{i}.attn.bias': np.ones((1, 1, 8, 8), bool) for i in range(2)}
  save_file(bare | masks, tmp_path / 'model.safetensors')
  model, params = hf.load(tmp_path)
  assert_same(params, gpt2.language_model[1])
  hf.save(tmp_path, model, params)
  assert tensors(tmp_path).keys() == bare.keys()


def test_a_tied_head_that_is_stored_all_the_same(load_checkpoint, tmp_path):
  source = load_checkpoint('llama_biases')
  shutil.copytree(source.path, tmp_path, dirs_exist_ok=True)
  table = tensors(tmp_path)['model.embed_tokens.weight']
  change_tensors(tmp_path, lm_head__weight=table)
  assert_same(hf.load(tmp_path)[1], source.language_model[1])
  change_tensors(tmp_path, lm_head__weight=table + 1)
  with pytest.raises(ValueError, match='tie_word_embeddings, but lm_head'):
    hf.load(tmp_path)


# -- folders ----------------------------------------------------------------


def test_no_folder(tmp_path):
  with pytest.raises(FileNotFoundError, match='no such folder'):
    hf.load(tmp_path / 'nothing')
  with pytest.raises(FileNotFoundError, match='the hub did not give it'):
    hf.load('someone/something')
  file = tmp_path / 'model.safetensors'
  file.write_bytes(b'')
  with pytest.raises(FileNotFoundError, match='give the folder it is in'):
    hf.load(file)


@pytest.mark.parametrize('name', ['pytorch_model.bin', 'model.pt', 'a.pth'])
def test_a_pickle_is_refused(copy, name):
  (copy / 'model.safetensors').rename(copy / name)
  with pytest.raises(ValueError, match=f'{name} is a .*pickle.*save_pretrain'):
    hf.load(copy)
  with pytest.raises(ValueError, match='pickle'):
    hf.load_reward_model(copy)


def test_a_folder_without_weights_or_config(copy):
  (copy / 'config.json').unlink()
  with pytest.raises(FileNotFoundError, match='config.json is missing'):
    hf.load(copy)
  (copy / 'model.safetensors').unlink()
  with pytest.raises(ValueError, match='no model.safetensors'):
    hf.load(copy)


def test_broken_files(copy):
  (copy / 'config.json').write_text('{')
  with pytest.raises(ValueError, match='config.json: not valid JSON'):
    hf.load(copy)
  path = copy / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:1000])
  with pytest.raises(ValueError, match='not a whole safetensors file'):
    hf.load(copy)


def test_a_missing_part(llama, tmp_path):
  hf.save(tmp_path, *llama.language_model, max_shard_bytes=30_000)
  next(tmp_path.glob('model-00002-*')).unlink()
  with pytest.raises(FileNotFoundError, match='names model-00002'):
    hf.load(tmp_path)


def test_each_loader_says_when_the_other_is_meant(load_checkpoint, llama):
  with pytest.raises(ValueError, match='load_reward_model'):
    hf.load(load_checkpoint('llama_reward').path)
  with pytest.raises(ValueError, match='lacks score.weight'):
    hf.load_reward_model(llama.path)


def test_a_classifier_of_two_labels_is_no_reward_model(
  load_checkpoint, tmp_path
):
  shutil.copytree(
    load_checkpoint('llama_reward').path, tmp_path, dirs_exist_ok=True
  )
  change_tensors(tmp_path, score__weight=np.ones((2, 32), 'f4'))
  with pytest.raises(ValueError, match='has 2 labels'):
    hf.load_reward_model(tmp_path)


# -- what is written --------------------------------------------------------


class FakeTokenizer:
  eos_id = 5
  pad_id = 6

  def save(self, folder):
    (folder / 'tokenizer.json').write_text('{}')


def new_model():
  config = dict(
    model_type='llama',
    vocab_size=8,
    hidden_size=4,
    intermediate_size=4,
    num_hidden_layers=1,
    num_attention_heads=1,
  )
  model = models.build(config)
  return model, model.init(jax.random.key(0))


def test_a_model_made_here(tmp_path):
  model, params = new_model()
  hf.save(tmp_path, model, params, FakeTokenizer())
  config = json.loads((tmp_path / 'config.json').read_text())
  assert config['architectures'] == ['LlamaForCausalLM']
  assert config['torch_dtype'] == 'float32'
  generation = json.loads((tmp_path / 'generation_config.json').read_text())
  assert generation == {'eos_token_id': 5}
  assert (tmp_path / 'tokenizer.json').exists()
  loaded, loaded_params = hf.load(tmp_path)
  assert loaded == model
  assert loaded.config.eos_ids == (5,)
  assert_same(loaded_params, params)


def test_a_reward_model_made_here(tmp_path):
  trunk, trunk_params = new_model()
  model = ScalarModel(trunk)
  params = model.init_from(trunk_params, jax.random.key(1))
  hf.save(tmp_path, model, params, FakeTokenizer())
  assert 'score.bias' not in tensors(tmp_path)
  assert 'lm_head.weight' not in tensors(tmp_path)
  assert tensors(tmp_path)['score.weight'].shape == (1, 4)
  config = json.loads((tmp_path / 'config.json').read_text())
  assert config['architectures'] == ['LlamaForSequenceClassification']
  assert config['id2label'] == {'0': 'LABEL_0'}
  assert config['pad_token_id'] == 6
  assert not (tmp_path / 'generation_config.json').exists()
  assert_same(hf.load_reward_model(tmp_path)[1], params)
  params['head']['bias'] = jnp.float32(0.5)
  hf.save(tmp_path, model, params)
  assert_same(hf.load_reward_model(tmp_path)[1], params)


def test_several_eos_ids_survive(copy, tmp_path):
  generation = {'eos_token_id': [2, 7], 'temperature': 0.6}
  (copy / 'generation_config.json').write_text(json.dumps(generation))
  model, params = hf.load(copy)
  assert model.config.eos_ids == (2, 7)
  hf.save(tmp_path / 'out', model, params)
  written = (tmp_path / 'out' / 'generation_config.json').read_text()
  assert json.loads(written) == generation


def test_a_changed_architecture_is_written_as_changed(llama):
  model, _ = llama.language_model
  rope = models.Rope(theta=77.0)
  changed = models.with_options(model, rope=rope, dtype='bfloat16')
  config = families.config_to_hf(changed.config)
  assert config['rope_theta'] == 77.0
  assert 'rope_parameters' not in config
  assert config['bos_token_id'] == 1  # kept, though we know nothing of it
  assert models.build(config).config.rope == rope


def test_same_compares_in_pieces(llama, monkeypatch, tmp_path):
  monkeypatch.setattr(weights, '_ROWS', 3)
  a = np.arange(20, dtype=np.float32).reshape(10, 2)
  b = a.copy()
  b[9, 1] += 1
  save_file(
    {'a': a, 'a2': a, 'b': b, 'c': a[:9].copy()},
    tmp_path / 'model.safetensors',
  )
  reader = safetensors_io.Reader(tmp_path)
  assert weights.same(reader, 'a', 'a2')
  assert not weights.same(reader, 'a', 'b')
  assert not weights.same(reader, 'a', 'c')


# -- transformers itself ----------------------------------------------------


def test_what_we_write_loads_in_transformers(lm, tmp_path):
  torch = pytest.importorskip('torch', reason='needs torch')
  from transformers import AutoModelForCausalLM

  model, params = lm.language_model
  # Not a copy of the original config: written from our own description.
  bare = models.with_options(model, origin=models.Origin())
  hf.save(tmp_path, bare, params)
  theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
  with torch.no_grad():
    logits = theirs(torch.tensor(lm.rows[0])[None].long()).logits[0].numpy()
  np.testing.assert_allclose(logits, lm.reference['logits_0'], atol=1e-3)


def test_our_reward_model_loads_in_transformers(rm, tmp_path):
  torch = pytest.importorskip('torch', reason='needs torch')
  from transformers import AutoModelForSequenceClassification

  hf.save(tmp_path, *rm.reward_model)
  theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
  tokens, mask = rm.padded('right', pad_id=0)
  with torch.no_grad():
    scores = theirs(
      torch.tensor(tokens).long(), attention_mask=torch.tensor(mask).long()
    ).logits[:, 0]
  np.testing.assert_allclose(scores, rm.reference['scores'], atol=1e-3)
