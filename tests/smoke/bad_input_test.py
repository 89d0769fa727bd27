"""Bad input: one clear line, a non-zero exit, nothing overwritten.

The stages are called as the command line calls them, since a new process costs
seconds; see command_line_test.py for those.
"""

import errno
import functools
import importlib
import json
import os
import shutil

import jax
import pytest

from rlaif_jax import main, sharding, stages
from rlaif_jax.data import _files

GOOD = {
  'id': 'good', 'prompt': 'say it', 'response': 'yes', 'response_1': 'yes',
  'response_2': 'no', 'p_first': 1.0,
}  # fmt: skip


@pytest.fixture
def config_of(repo, monkeypatch, tiny_model, tiny_reward_model):
  """config_of(stage, data) -> a config that runs on rows like `GOOD`."""
  monkeypatch.syspath_prepend(str(repo))
  paths = {
    'model.path': tiny_model, 'policy.path': tiny_model,
    'policies.sft': tiny_model, 'policies.rlaif': tiny_model,
    'labeler.path': tiny_model, 'reward.path': tiny_model,
    'judge.name': 'none', 'evals': {'text': {}},
  }  # fmt: skip

  def make(stage, data):
    config = importlib.import_module(f'configs.{stage}').get_config('smoke')
    for key, value in paths.items():
      block, _, field = key.rpartition('.')
      target = config.get(block) if block else config
      if target is not None and field in target:
        target[field] = value
    for block in ('data', 'eval_data'):
      if block in config:
        config[block].update(name='jsonl', path=str(data), split='all', size=0)
    return config

  return make


def write(file, *rows):
  """A file of rows, given as objects or as they stand."""
  lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
  file.write_text('\n'.join(lines))
  return file


def refused(config, workdir):
  """Runs a stage that has to refuse; returns the line that a person sees."""
  before = contents(workdir)
  with pytest.raises(main.USER_ERRORS) as caught:
    stages.load(config.stage).run(config, workdir)
  line = main.explain(caught.value)
  assert '\n' not in line
  assert contents(workdir) == before
  return line


def contents(folder):
  files = folder.rglob('*') if folder.exists() else ()
  return {f: f.read_bytes() for f in files if f.is_file()}


# -- data ---------------------------------------------------------------------


@pytest.mark.parametrize('stage', ['sft', 'label', 'reward', 'rl', 'evaluate'])
@pytest.mark.parametrize(
  ('rows', 'needles'),
  [
    (None, ['data.jsonl: no such file']),
    ([], ['data.jsonl: the file is empty']),
    ([GOOD, '{"prompt": "a", '], ['data.jsonl:2', 'not valid JSON']),
    ([GOOD, {'response': 'x'}], ['data.jsonl:2', "no column 'prompt'"]),
    (
      [GOOD, {**GOOD, 'response_2': 'yes'}],
      ['data.jsonl:2', 'response_1 and response_2 are identical'],
    ),
    ([GOOD, {**GOOD, 'p_first': float('nan')}], ['data.jsonl:2', 'p_first']),
  ],
  ids=['missing', 'empty', 'broken', 'column', 'identical', 'nan'],
)
def test_bad_data(config_of, tmp_path, one_device, stage, rows, needles):
  data = tmp_path / 'data.jsonl'
  if rows is not None:
    write(data, *rows)
  line = refused(config_of(stage, data), tmp_path / 'run')
  for needle in needles:
    assert needle in line


@pytest.mark.parametrize(
  ('stage', 'row', 'needle'),
  [
    ('sft', {'prompt': 'a'}, 'no response to learn from; SFT needs the column'),
    ('sft', {'prompt': 'a', 'response': 'w ' * 99}, 'max_response=32'),
    ('label', {'prompt': 'a', 'response': 'b'}, 'no pair of responses'),
    *(
      (stage, {**GOOD, 'prompt': 'word ' * 200}, 'more than max_prompt=64')
      for stage in ('sft', 'reward', 'rl', 'evaluate')
    ),
  ],
)
def test_rows_that_do_not_fit(
  config_of, tmp_path, one_device, stage, row, needle
):
  data = write(tmp_path / 'data.jsonl', GOOD, {**row, 'id': 'bad'})
  line = refused(config_of(stage, data), tmp_path / 'run')
  assert f'{data}: row bad' in line
  assert needle in line


@pytest.mark.multidevice
def test_batch_that_does_not_divide_over_the_mesh(
  config_of, tmp_path, one_device, monkeypatch
):
  everywhere = functools.partial(sharding.make_mesh, devices=jax.devices())
  monkeypatch.setattr(sharding, 'make_mesh', everywhere)
  config = config_of('sft', write(tmp_path / 'data.jsonl', GOOD))
  config.batch_size = 12
  line = refused(config, tmp_path / 'run')
  assert 'config.batch_size=12 does not divide over the mesh' in line
  assert 'data * fsdp = 8' in line


def test_unreadable_file(config_of, tmp_path, one_device, monkeypatch):
  data = write(tmp_path / 'data.jsonl', GOOD)

  def refuse(file, *args, **kwargs):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))

  # Permissions do not stop the user that tests may run as.
  monkeypatch.setattr(_files, 'open', refuse, raising=False)
  line = refused(config_of('sft', data), tmp_path / 'run')
  assert f"Permission denied: '{data}'" in line


def test_model_folders_that_lack_a_part(
  config_of, tmp_path, one_device, tiny_model
):
  config = config_of('sft', write(tmp_path / 'data.jsonl', GOOD))
  for name, change, needles in (
    ('config.json', None, ['no model', 'config.json']),
    ('tokenizer.json', None, ['broken: cannot be read as a tokenizer']),
    ('tokenizer.json', '{', ['broken', 'tokenizer']),
    ('model.safetensors', '', ['model.safetensors']),
    ('model.safetensors', None, ['safetensors']),
  ):
    folder = tmp_path / 'broken'
    shutil.copytree(tiny_model, folder)
    (folder / name).unlink()
    if change is not None:
      (folder / name).write_text(change)
    config.model.path = str(folder)
    line = refused(config, tmp_path / 'run')
    for needle in needles:
      assert needle in line, (name, change, line)
    shutil.rmtree(folder)


@pytest.mark.parametrize('stage', ['sft', 'reward', 'rl', 'evaluate'])
def test_lengths_over_the_context(config_of, tmp_path, one_device, stage):
  config = config_of(stage, write(tmp_path / 'data.jsonl', GOOD))
  config.max_prompt, config.max_response = 500, 20
  line = refused(config, tmp_path / 'run')
  assert 'max_prompt=500 + max_response=20 = 520 tokens' in line
  assert 'reads at most 512' in line


# -- names, options and paths -------------------------------------------------


@pytest.mark.parametrize(
  ('stage', 'key', 'value', 'needles'),
  [
    ('label', 'stage', 'labels', ["config.stage='labels'", 'label, ']),
    ('sft', 'data.name', 'jsonn', ["'jsonn'", 'jsonl']),
    ('sft', 'data.options', {'holdut': 0.1}, ['holdut', 'mean holdout?']),
    ('sft', 'data.overflow', 'cut', ["overflow='cut'", 'truncate']),
    ('sft', 'optimizer.name', 'adm', ["name='adm'", 'adamw']),
    ('sft', 'optimizer.schedule', 'cosin', ["schedule='cosin'", 'cosine']),
    ('label', 'labeler.prompt', 'summary', ["'summary'", 'summary_base']),
    ('label', 'source', 'ai', ["source='ai'", 'labeler']),
    ('rl', 'reward.name', 'rm', ["reward.name='rm'", 'reward_model']),
    ('rl', 'algorithm', 'a2c', ["'a2c'", 'reinforce']),
    (
      'rl', 'algorithm_config', {'betta': 0.1},
      ['config.algorithm_config.betta is unknown', 'did you mean beta?'],
    ),
    ('rl', 'algorithm_config', {'beta': 'x'}, ['config.algorithm_config']),
    ('rl', 'algorithm_config', {'beta': 2.0}, ['beta=2.0', '[0, 1]']),
    ('rl', 'reward_scaling', 'std', ["reward_scaling='std'", 'running']),
    ('rl', 'sampling.temperature', 0.0, ['temperature=0.0']),
    ('evaluate', 'evals', {'wins': {}}, ["'wins'", 'win_rate']),
    (
      'evaluate', 'evals', {'text': {'size': 2}},
      ['config.evals.text.size is unknown', 'repeat_size'],
    ),
    ('evaluate', 'judge.name', 'me', ["judge.name='me'", 'oracle']),
    ('evaluate', 'baseline', 'base', ["'base'", 'sft, rlaif']),
    *(
      (stage, key, '/no/such/model', ['/no/such/model: no such model folder'])
      for stage, key in (
        ('sft', 'model.path'),
        ('label', 'labeler.path'),
        ('reward', 'model.path'),
        ('rl', 'policy.path'),
        ('rl', 'reward.path'),
        ('evaluate', 'policies.rlaif'),
      )
    ),
    ('sft', 'model.path', 'tiny:xxs', ['tiny:xxs', 'tiny:']),
    ('sft', 'model.path', '', ['model path is empty']),
    ('reward', 'labels', '/no/labels.jsonl', ['/no/labels.jsonl']),
    ('sft', 'batch_size', 0, ['config.batch_size=0', 'at least 1']),
    ('label', 'labeler.batch_size', -1, ['config.labeler.batch_size=-1']),
    ('rl', 'num_microbatches', 0, ['config.num_microbatches=0']),
    ('rl', 'num_microbatches', 3, ['batch_size=8', 'num_microbatches=3']),
    ('sft', 'num_steps', -1, ['config.num_steps=-1', 'at least 0']),
    ('sft', 'data.size', -1, ['config.data.size=-1', 'at least 0']),
    ('sft', 'seed', -1, ['config.seed=-1']),
    ('sft', 'seed', 2**70, [f'config.seed={2**70}', 'at most']),
    ('sft', 'model.dtype', 'float33', ["config.model.dtype='float33'"]),
    ('sft', 'optimizer.learning_rate', float('nan'), ['learning_rate=nan']),
    (
      'sft', 'sharding_rules', {'embedd': 'tensor'},
      ['config.sharding_rules.embedd is unknown', 'did you mean embed?'],
    ),
    ('sft', 'mesh.data', 3, ["'data': 3", 'do not multiply to the 1 devices']),
  ],
)  # fmt: skip
def test_bad_values(
  config_of, tmp_path, one_device, stage, key, value, needles
):
  config = config_of(stage, write(tmp_path / 'data.jsonl', GOOD))
  block, _, field = key.rpartition('.')
  (config[block] if block else config)[field] = value
  line = refused(config, tmp_path / 'run')
  for needle in needles:
    assert needle in line, line


def test_a_reward_model_is_not_a_policy(
  config_of, tmp_path, one_device, tiny_model, tiny_reward_model
):
  config = config_of('rl', write(tmp_path / 'data.jsonl', GOOD))
  config.policy.path = tiny_reward_model
  assert 'not a language model' in refused(config, tmp_path / 'run')
  config.policy.path, config.reward.name = tiny_model, 'reward_model'
  assert 'not a reward model' in refused(config, tmp_path / 'run')


# -- workdirs -----------------------------------------------------------------


def test_corrected_command_may_use_the_folder(config_of, tmp_path, one_device):
  """What failed before it made anything leaves no config in the way."""
  config = config_of('label', tmp_path / 'missing.jsonl')
  config.source = 'human'
  assert 'missing.jsonl' in refused(config, tmp_path / 'run')
  (tmp_path / 'run' / 'error.txt').write_text('as the command line leaves it')
  config.data.path = str(write(tmp_path / 'data.jsonl', GOOD))
  stages.load('label').run(config, tmp_path / 'run')
  assert (tmp_path / 'run' / 'summary.json').is_file()


def test_workdir_of_another_config(config_of, tmp_path, one_device):
  config = config_of('label', write(tmp_path / 'data.jsonl', GOOD))
  config.source = 'human'
  stages.load('label').run(config, tmp_path / 'run')
  config.seed = 7
  line = refused(config, tmp_path / 'run')
  assert f'{tmp_path}/run was made by another config: seed: 0 there, 7' in line


def test_workdir_that_failed_later_keeps_its_config(
  config_of, tmp_path, one_device
):
  config = config_of('label', write(tmp_path / 'data.jsonl', GOOD))
  config.source = 'human'
  made = tmp_path / 'run' / 'labels' / 'preferences.jsonl'
  made.parent.mkdir(parents=True)
  made.write_text('not a record\n{}\n')
  with pytest.raises(ValueError, match='preferences.jsonl:1'):
    stages.load('label').run(config, tmp_path / 'run')
  assert (tmp_path / 'run' / 'config.json').is_file()
  assert made.read_text() == 'not a record\n{}\n'
