"""Hugging Face folders to workdirs and back."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import convert, models
from rlaif_jax.models import heads, hf, locate
from rlaif_jax.training import checkpoint

FIXTURES = pathlib.Path(__file__).parent / 'models' / 'fixtures'
LLAMA = FIXTURES / 'llama'


def assert_same(first, second):
  assert jax.tree.structure(first) == jax.tree.structure(second)
  jax.tree.map(np.testing.assert_array_equal, first, second)


def training_run(folder, stage, state, **config):
  """A workdir as a stage leaves it before it has finished."""
  folder.mkdir()
  (folder / 'config.json').write_text(json.dumps({'stage': stage, **config}))
  with checkpoint.Checkpointer(folder / 'checkpoints') as writer:
    writer.save(1, jax.tree.map(jnp.zeros_like, state))
    writer.save(3, state)
  return folder


def test_a_folder_becomes_a_workdir_and_comes_back(tmp_path):
  workdir, back = tmp_path / 'workdir', tmp_path / 'back'
  assert convert.convert(str(LLAMA), str(workdir)) == workdir / 'model'
  assert locate.resolve(str(workdir)) == str(workdir / 'model')
  assert convert.convert(str(workdir), str(back)) == back
  model, params = hf.load(back)
  assert model == hf.load(LLAMA)[0]
  assert_same(params, hf.load(LLAMA)[1])
  config = json.loads((back / 'config.json').read_text())
  assert config == json.loads((LLAMA / 'config.json').read_text())


def test_parameters_as_a_checkpoint(tmp_path):
  workdir, back = tmp_path / 'workdir', tmp_path / 'back'
  convert.convert(str(LLAMA), str(workdir), checkpoint=True)
  convert.convert(str(workdir / 'checkpoints' / '0'), str(back))
  assert_same(hf.load(back)[1], hf.load(LLAMA)[1])


def test_types_can_be_changed(tmp_path):
  convert.convert(str(LLAMA), str(tmp_path / 'half'), dtype='bfloat16')
  params = hf.load(tmp_path / 'half' / 'model')[1]
  assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.bfloat16.dtype}


def test_a_reward_model_stays_one(tmp_path):
  source = FIXTURES / 'llama_reward'
  convert.convert(str(source), str(tmp_path / 'out'))
  found = hf.load_reward_model(tmp_path / 'out' / 'model')[1]
  assert_same(found, hf.load_reward_model(source)[1])


def test_the_newest_or_a_named_checkpoint_of_a_run(tmp_path):
  _, params = hf.load(LLAMA)
  state = {'step': jnp.int32(3), 'params': params, 'opt_state': [jnp.ones(2)]}
  run = training_run(tmp_path / 'run', 'sft', state, model={'path': str(LLAMA)})
  for source in (run, run / 'checkpoints'):
    out = tmp_path / f'{source.name}_hf'
    convert.convert(str(source), str(out))
    assert_same(hf.load(out)[1], params)
  convert.convert(str(run / 'checkpoints' / '1'), str(tmp_path / 'first'))
  first = hf.load(tmp_path / 'first')[1]
  assert not any(np.any(p) for p in jax.tree.leaves(first))
  with pytest.raises(FileNotFoundError, match='no such checkpoint'):
    convert.convert(str(run / 'checkpoints' / '2'), str(tmp_path / 'second'))


def test_policy_and_value_of_an_rl_run(tmp_path):
  trunk, params = hf.load(LLAMA)
  value = heads.ScalarModel(trunk).init_from(params, jax.random.key(0))
  state = {'policy': {'params': params}, 'value': {'params': value}}
  run = training_run(
    tmp_path / 'run', 'rl', state, policy={'path': str(LLAMA)}, value=''
  )
  convert.convert(str(run), str(tmp_path / 'policy'))
  assert_same(hf.load(tmp_path / 'policy')[1], params)
  convert.convert(str(run), str(tmp_path / 'value'), part='value')
  assert_same(hf.load_reward_model(tmp_path / 'value')[1], value)


def test_what_is_wrong_is_said(tmp_path, capsys):
  state = {'params': {'x': jnp.ones(2)}}
  run = training_run(
    tmp_path / 'run', 'tiny_labeler', state, model={'path': ''}
  )
  out = str(tmp_path / 'out')
  with pytest.raises(ValueError, match='names no model .* --base'):
    convert.convert(str(run), out)
  with pytest.raises(ValueError, match='does not fit'):
    convert.convert(str(run), out, base=str(LLAMA))
  with pytest.raises(ValueError, match="'tiny_labeler' keeps no value model"):
    convert.convert(str(run), out, part='value')
  with pytest.raises(ValueError, match='exists already'):
    convert.convert(str(LLAMA), str(run))
  (tmp_path / 'empty' / 'checkpoints').mkdir(parents=True)
  with pytest.raises(FileNotFoundError, match='no checkpoint here'):
    convert.convert(str(tmp_path / 'empty'), out)
  with pytest.raises(SystemExit):
    convert.main([str(tmp_path / 'nothing'), out])
  assert 'error: ' in capsys.readouterr().err
  assert not pathlib.Path(out).exists()


def test_command_line(tmp_path, capsys):
  out = tmp_path / 'out'
  convert.main([str(FIXTURES / 'gpt_neo'), str(out)])
  assert capsys.readouterr().out == f'wrote {out / "model"}\n'
  assert models.hf.load(out / 'model')[0].config.family == 'gpt_neo'
