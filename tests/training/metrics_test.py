import json
import math
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.training import metrics


def test_one_object_a_step_with_all_digits(tmp_path):
  writer = metrics.MetricWriter(tmp_path)
  writer.write_scalars(1, {'loss/a': jnp.float32(0.1), 'n': np.int32(3)})
  writer.write_scalars(2, {'loss/a': 1 / 3, 'b': jnp.bfloat16(0.5)})
  writer.close()
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert lines[0] == '{"step": 1, "loss/a": 0.10000000149011612, "n": 3}'
  assert metrics.read_metrics(tmp_path)[1] == {
    'step': 2,
    'loss/a': 1 / 3,
    'b': 0.5,
  }


def test_values_that_json_lacks_come_back(tmp_path):
  writer = metrics.MetricWriter(tmp_path)
  writer.write_scalars(1, {'a': math.nan, 'b': math.inf, 'c': -math.inf})
  writer.close()
  line = (tmp_path / 'metrics.jsonl').read_text()
  json.loads(line, parse_constant=pytest.fail)  # strictly valid JSON
  row = metrics.read_metrics(tmp_path)[0]
  assert math.isnan(row['a'])
  assert (row['b'], row['c']) == (math.inf, -math.inf)


@pytest.mark.parametrize('value', [np.zeros(2), 'text', None])
def test_what_is_not_a_scalar_is_named(tmp_path, value):
  writer = metrics.MetricWriter(tmp_path)
  with pytest.raises(ValueError, match="'val/x' is not a scalar"):
    writer.write_scalars(1, {'val/x': value})


def test_truncate_drops_later_steps_and_half_a_line(tmp_path):
  writer = metrics.MetricWriter(tmp_path)
  for step in (1, 2, 3):
    writer.write_scalars(step, {'a': step})
    writer.write_texts(step, {'sample': f'text \u2028 {step}'})
  writer.close()
  with (tmp_path / 'metrics.jsonl').open('a') as f:
    f.write('{"step": 4, "a"')
  assert len(metrics.read_metrics(tmp_path)) == 3
  writer.truncate_after(2)
  writer.write_scalars(3, {'a': 30})
  writer.close()
  assert [r['a'] for r in metrics.read_metrics(tmp_path)] == [1, 2, 30]
  assert (tmp_path / 'texts.jsonl').read_text().count('\n') == 2


def test_a_new_writer_does_not_append_to_half_a_line(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n{"st')
  writer = metrics.MetricWriter(tmp_path)
  writer.write_scalars(2, {})
  writer.close()
  assert [r['step'] for r in metrics.read_metrics(tmp_path)] == [1, 2]


def test_broken_line_in_the_middle_names_file_and_line(tmp_path):
  file = tmp_path / 'metrics.jsonl'
  file.write_text('{"step": 1}\nrubbish\n{"step": 3}\n')
  with pytest.raises(ValueError, match=r'metrics\.jsonl:2 is not'):
    metrics.read_metrics(tmp_path)


def test_no_file_is_no_metrics(tmp_path):
  assert metrics.read_metrics(tmp_path) == []


def test_missing_package_is_a_clear_error(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(ValueError, match='pip install wandb'):
    metrics.MetricWriter(tmp_path, wandb=True)


def test_tensorboard_writes_event_files(tmp_path):
  pytest.importorskip('tensorboardX')
  writer = metrics.MetricWriter(tmp_path, tensorboard=True)
  writer.write_scalars(1, {'a': 1.0})
  writer.write_texts(1, {'t': 'hello'})
  writer.close()
  events = list((tmp_path / 'tensorboard').glob('events*'))
  assert events
  assert b'hello' in events[0].read_bytes()


def test_wandb_resumes_one_run_per_workdir(tmp_path, monkeypatch):
  calls = []
  run = types.SimpleNamespace(
    log=lambda values, step: calls.append((step, values)),
    finish=lambda: calls.append('finish'),
  )
  fake = types.SimpleNamespace(init=lambda **kw: calls.append(kw) or run)
  monkeypatch.setitem(sys.modules, 'wandb', fake)
  for step in (1, 2):
    writer = metrics.MetricWriter(tmp_path, wandb=True)
    writer.write_scalars(step, {'a': 0.5})
    writer.close()
  first, logged, end, second, *_ = calls
  assert first['id'] == second['id']
  assert first['resume'] == 'allow'
  assert (logged, end) == ((1, {'a': 0.5}), 'finish')
