import errno
import json
import os
import pathlib
import sys

import jax
import numpy as np
import pytest

from rlaif_jax.training import workdir

CONFIG = {'seed': 0, 'debug': False, 'opt': {'lr': 1e-5, 'name': 'adam'}}


def test_writes_config_once_and_reopens_for_the_same(tmp_path):
  path = workdir.open_workdir(tmp_path / 'a' / 'b', CONFIG)
  assert path == tmp_path / 'a' / 'b'
  stored = (path / 'config.json').read_text()
  assert json.loads(stored) == CONFIG
  workdir.open_workdir(path, CONFIG)
  assert (path / 'config.json').read_text() == stored
  assert [p.name for p in path.iterdir()] == ['config.json']  # no leftovers


def test_tuples_and_numpy_numbers_count_as_json(tmp_path):
  workdir.open_workdir(tmp_path, {'a': (1, 2), 'b': np.float32(0.5)})
  workdir.open_workdir(tmp_path, {'a': [1, 2], 'b': 0.5})


def test_another_config_is_refused_by_key_and_value(tmp_path):
  workdir.open_workdir(tmp_path, CONFIG)
  other = {'seed': 1, 'opt': {'lr': 1e-4, 'name': 'adam', 'new': None}}
  with pytest.raises(ValueError) as error:
    workdir.open_workdir(tmp_path, other)
  text = str(error.value)
  assert 'seed: 0 there, 1 now' in text
  assert 'opt.lr: 1e-05 there, 0.0001 now' in text
  assert 'opt.new: (absent) there, null now' in text
  assert 'debug' not in text
  assert 'another --workdir' in text
  assert json.loads((tmp_path / 'config.json').read_text()) == CONFIG


def test_names_at_most_five_keys(tmp_path):
  workdir.open_workdir(tmp_path, {f'k{i}': 0 for i in range(8)})
  with pytest.raises(ValueError, match='and 3 more') as error:
    workdir.open_workdir(tmp_path, {f'k{i}': 1 for i in range(8)})
  assert str(error.value).count('there,') == 5


def test_ignored_keys_cover_what_is_below_them_and_nothing_else(tmp_path):
  workdir.open_workdir(tmp_path, {'a': {'b': 1}, 'ab': 1})
  workdir.open_workdir(tmp_path, {'a': {'b': 2}, 'ab': 1}, ignore=('a',))
  with pytest.raises(ValueError, match='ab: 1 there'):
    workdir.open_workdir(tmp_path, {'a': {'b': 1}, 'ab': 2}, ignore=('a',))


def test_damaged_config_and_foreign_folder_are_refused(tmp_path):
  (tmp_path / 'config.json').write_text('{"seed": ')
  with pytest.raises(ValueError, match=r'config\.json is damaged'):
    workdir.open_workdir(tmp_path, CONFIG)
  other = tmp_path / 'other'
  other.mkdir()
  (other / 'metrics.jsonl').write_text('')
  with pytest.raises(ValueError, match=r'no config\.json'):
    workdir.open_workdir(other, CONFIG)


def test_value_that_is_not_json_is_named(tmp_path):
  with pytest.raises(ValueError, match='object'):
    workdir.open_workdir(tmp_path, {'a': object()})


@pytest.mark.parametrize('name', ['file', 'file/below'])
def test_path_through_a_file_is_a_clear_error(tmp_path, name):
  (tmp_path / 'file').write_text('x')
  with pytest.raises(ValueError, match='cannot write to --workdir='):
    workdir.open_workdir(tmp_path / name, CONFIG)


def test_missing_workdir_is_a_clear_error():
  with pytest.raises(ValueError, match='--workdir is missing'):
    workdir.open_workdir('', CONFIG)


def test_full_disk_is_found_before_work_starts(tmp_path, monkeypatch):
  def full(fd):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(ValueError, match='No space left on device'):
    workdir.open_workdir(tmp_path, CONFIG)
  assert list(tmp_path.iterdir()) == []


def test_failed_atomic_write_keeps_the_old_file(tmp_path, monkeypatch):
  file = tmp_path / 'a.json'
  workdir.write_json_atomic(file, {'a': 1})

  def fail(self, target):
    raise OSError(errno.ENOSPC, 'full')

  monkeypatch.setattr(pathlib.Path, 'replace', fail)
  with pytest.raises(OSError, match='full'):
    workdir.write_json_atomic(file, {'a': 2})
  assert json.loads(file.read_text()) == {'a': 1}
  assert [p.name for p in tmp_path.iterdir()] == ['a.json']


def test_finish_and_finished(tmp_path):
  assert workdir.finished(tmp_path) is None
  workdir.finish(tmp_path, {'loss': np.float32(0.5), 'steps': 3})
  assert workdir.finished(tmp_path) == {'loss': 0.5, 'steps': 3}


@pytest.mark.parametrize('text', ['', '{"a": 1', '[1]'])
def test_broken_summary_is_a_clear_error(tmp_path, text):
  (tmp_path / 'summary.json').write_text(text)
  with pytest.raises(ValueError, match=r'summary\.json is damaged.*delete it'):
    workdir.finished(tmp_path)


def test_environment_is_recorded_once(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, 'orig_argv', ['python', 'a b.py'])
  workdir.record_environment(tmp_path)
  file = tmp_path / workdir.ENVIRONMENT
  found = json.loads(file.read_text())
  assert found['jax'] == jax.__version__
  assert found['devices'] == jax.device_count()
  assert found['command'] == "python 'a b.py'"
  file.write_text('{}')
  workdir.record_environment(tmp_path)
  assert file.read_text() == '{}'
