import json
import math
import os
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.training import checkpoint, loop, metrics


def params(state):
  return jax.tree.map(np.asarray, state.params)


@pytest.fixture(scope='module')
def whole(toy, tmp_path_factory):
  """(folder, final params) of an uninterrupted run of 20 steps."""
  folder = tmp_path_factory.mktemp('whole')
  return folder, params(toy.run(folder, 20, save_every=5))


def test_every_step_is_one_record(toy, whole):
  rows = metrics.read_metrics(whole[0])
  assert [row['step'] for row in rows] == list(range(1, 21))
  assert set(rows[0]) == {
    'step',
    'loss/mse',
    'optim/grad_norm',
    'optim/update_norm',
    'optim/learning_rate',
    'time/step_s',
    'time/eta_s',
  }
  assert rows[-1]['time/eta_s'] == 0
  assert loop.last_metrics(whole[0]) == rows[-1]


def test_finished_run_does_nothing_again(toy, whole):
  before = (whole[0] / 'metrics.jsonl').read_text()
  state = toy.run(whole[0], 20, step_fn=None, save_every=5)
  np.testing.assert_array_equal(params(state)['w'], whole[1]['w'])
  assert (whole[0] / 'metrics.jsonl').read_text() == before


def test_fewer_steps_than_the_checkpoint_is_an_error(toy, whole):
  with pytest.raises(ValueError, match='at step 20, past num_steps=10'):
    toy.run(whole[0], 10)


@pytest.mark.parametrize('stop_at', [3, 8])  # before and after a checkpoint
def test_resume_after_a_crash_is_bit_identical(toy, whole, tmp_path, stop_at):
  _, step_fn = toy.make()

  def crashing(state, index):
    if index == stop_at:
      raise RuntimeError('crash')
    return step_fn(state, index)

  with pytest.raises(RuntimeError, match='crash'):
    toy.run(tmp_path, 20, crashing, save_every=5)
  state = toy.run(tmp_path, 20, save_every=5)
  assert toy.untimed(tmp_path) == toy.untimed(whole[0])
  np.testing.assert_array_equal(params(state)['w'], whole[1]['w'])


def start(toy, folder, steps, save_every, seconds):
  repo = os.path.dirname(os.path.dirname(os.path.dirname(toy.__file__)))
  return subprocess.Popen(
    [
      sys.executable,
      toy.__file__,
      str(folder),
      *map(str, (steps, save_every, seconds)),
    ],
    env={**os.environ, 'PYTHONPATH': repo, 'JAX_PLATFORMS': 'cpu'},
    stderr=subprocess.PIPE,
    text=True,
  )


def wait_for_step(folder, step, process):
  for _ in range(600):
    if len(metrics.read_metrics(folder)) >= step:
      return
    assert process.poll() is None, process.stderr.read()
    time.sleep(0.05)
  pytest.fail('the run did not get going')


@pytest.mark.parametrize('kind', [signal.SIGKILL, signal.SIGTERM])
def test_a_signalled_process_resumes_bit_identical(toy, whole, tmp_path, kind):
  with start(toy, tmp_path, 20, 2, 0.05) as process:
    wait_for_step(tmp_path, random.randint(1, 12), process)
    process.send_signal(kind)
    _, log = process.communicate(timeout=60)
  if kind == signal.SIGKILL:
    assert process.returncode == -signal.SIGKILL
  else:
    assert process.returncode == loop.PREEMPTED == 42
    assert 'told to stop; saved at step' in log
  toy.run(tmp_path, 20, save_every=2)
  assert toy.untimed(tmp_path) == toy.untimed(whole[0])


def test_sigterm_saves_the_step_then_leaves(toy, whole, tmp_path, capfd):
  _, step_fn = toy.make()

  def terminated(state, index):
    if index == 6:
      os.kill(os.getpid(), signal.SIGTERM)
    return step_fn(state, index)

  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(SystemExit) as stop:
    toy.run(tmp_path, 20, terminated)
  assert stop.value.code == 42
  assert signal.getsignal(signal.SIGTERM) is before
  assert (tmp_path / 'checkpoints' / '7').is_dir()
  assert 'saved at step 7/20' in capfd.readouterr().err
  toy.run(tmp_path, 20)
  assert toy.untimed(tmp_path) == toy.untimed(whole[0])


def test_preemption_notice_saves_and_leaves(toy, tmp_path, monkeypatch):
  asked = []

  def notice(self, step):
    asked.append(step)
    return step == 3

  monkeypatch.setattr(checkpoint.Checkpointer, 'reached_preemption', notice)
  with pytest.raises(SystemExit) as stop:
    toy.run(tmp_path, 20)
  assert stop.value.code == 42
  assert asked == [1, 2, 3]
  assert (tmp_path / 'checkpoints' / '3').is_dir()


@pytest.mark.parametrize('value', [math.nan, math.inf])
@pytest.mark.parametrize(
  'key', ['loss/mse', 'objective/kl', 'policy/optim/grad_norm']
)
def test_nan_stops_and_keeps_what_explains_it(toy, tmp_path, key, value):
  _, step_fn = toy.make()

  def broken(state, index):
    state, values = step_fn(state, index)
    return state, {**values, key: value} if index == 7 else values

  with pytest.raises(FloatingPointError, match=rf'step 8: {key}=') as error:
    toy.run(tmp_path, 20, broken, save_every=4, describe=toy.batch)
  # Step 8 was due to be saved, and was not.
  assert os.listdir(tmp_path / 'checkpoints') == ['4']
  note = json.loads((tmp_path / 'nan_step_8.json').read_text())
  assert note['step'] == 8
  assert note['not_finite'] == [key]
  assert note['metrics'][key] == str(value)
  stored = np.load(tmp_path / note['batch'])
  np.testing.assert_array_equal(stored['x'], toy.batch(7)['x'])
  assert str(tmp_path / 'nan_step_8.json') in str(error.value)
  # A cured run goes on from the good checkpoint as if nothing had been.
  toy.run(tmp_path, 20)
  assert [row['step'] for row in toy.untimed(tmp_path)] == list(range(1, 21))


def test_nan_elsewhere_is_only_written(toy, tmp_path):
  _, step_fn = toy.make()

  def step(state, index):
    state, values = step_fn(state, index)
    return state, {**values, 'val/ratio': math.nan}

  toy.run(tmp_path, 3, step)
  assert math.isnan(metrics.read_metrics(tmp_path)[0]['val/ratio'])


def test_metrics_are_fetched_one_step_late(toy, tmp_path):
  log = []
  _, step_fn = toy.make()

  class Value:
    """A metric that notes when it is read."""

    def __init__(self, index):
      self.index = index

    def __array__(self, dtype=None, copy=None):
      log.append(('read', self.index))
      return np.asarray(float(self.index), dtype)

  def step(state, index):
    log.append(('run', index))
    return step_fn(state, index)[0], {'val/index': Value(index)}

  toy.run(tmp_path, 3, step)
  assert [e for i, e in enumerate(log) if e not in log[:i]] == [
    ('run', 0),
    ('run', 1),
    ('read', 0),
    ('run', 2),
    ('read', 1),
    ('read', 2),
  ]


def test_evaluation_joins_the_record_and_picks_the_best(toy, tmp_path):
  state, step_fn = toy.make()
  scores = iter([0.2, 0.9, 0.5])
  with checkpoint.Checkpointer(
    tmp_path / 'checkpoints', keep_latest=1, best_metric='eval/score'
  ) as checkpointer:
    loop.run_loop(
      state,
      step_fn,
      num_steps=5,
      checkpointer=checkpointer,
      writer=metrics.MetricWriter(tmp_path),
      save_every=2,
      eval_every=2,
      evaluate=lambda state: {'eval/score': jnp.float32(next(scores))},
    )
    assert checkpointer.all_steps() == [4, 5]
    assert checkpointer.best_step() == 4
  rows = metrics.read_metrics(tmp_path)
  assert [r['step'] for r in rows if 'eval/score' in r] == [2, 4, 5]
  assert len(rows) == 5


def test_time_excludes_evaluation(toy, tmp_path):
  now = [0.0]
  _, step_fn = toy.make()

  def step(state, index):
    now[0] += 2.0
    return step_fn(state, index)

  def evaluate(state):
    now[0] += 100.0
    return {'eval/x': 0.0}

  toy.run(
    tmp_path,
    4,
    step,
    eval_every=1,
    evaluate=evaluate,
    tokens_per_step=10,
    clock=lambda: now[0],
  )
  rows = metrics.read_metrics(tmp_path)
  assert [r['time/step_s'] for r in rows] == [2.0] * 4
  assert [r['time/eta_s'] for r in rows] == [6.0, 4.0, 2.0, 0.0]
  assert [r['perf/tokens_per_second'] for r in rows] == [5.0] * 4


def test_damaged_newest_checkpoint_goes_back_and_on(toy, whole, tmp_path):
  toy.run(tmp_path, 10, save_every=5)
  for file in (tmp_path / 'checkpoints' / '10').glob('default/**/d/*'):
    file.write_bytes(b'')
  toy.run(tmp_path, 20, save_every=5)
  assert toy.untimed(tmp_path) == toy.untimed(whole[0])
  assert (tmp_path / 'checkpoints' / 'damaged-10').is_dir()
