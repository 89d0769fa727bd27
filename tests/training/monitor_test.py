"""Limits, by hand; early stops, alone and resumed."""

import logging

import numpy as np
import pytest

from rlaif_jax.training import metrics, monitor
from rlaif_jax.training.monitor import Monitor, MonitorConfig


def warnings(caplog, config, records):
  """Steps at which something is warned of, and the texts."""
  watched = Monitor(config)
  steps = []
  with caplog.at_level(logging.WARNING, monitor.__name__):
    for step, record in enumerate(records, 1):
      before = len(caplog.messages)
      watched.watch(step, record)
      steps += [step] * (len(caplog.messages) - before)
  return steps, caplog.messages


@pytest.mark.parametrize(
  'key, option',
  [('objective/kl', 'max_kl'), ('val/repeated_3grams', 'max_repetition')],
)
def test_the_mean_of_the_window_is_what_counts(caplog, key, option):
  values = [0.1, 0.1, 0.9, 0.1, 0.5, 0.6, 0.7]  # means of two: .5 at step 3
  config = MonitorConfig(window=2, **{option: 0.51})
  steps, texts = warnings(caplog, config, [{key: v} for v in values])
  assert steps == [6]  # (.5 + .6) / 2, and once
  assert f'{key}=0.55' in texts[0] and 'limit is 0.51' in texts[0]


@pytest.mark.parametrize('last, at', [(31.0, 5), (4.9, 6)])
def test_length_is_relative_to_the_start(caplog, last, at):
  lengths = [8.0, 12.0, 15.0, 15.0, last, last]
  config = MonitorConfig(window=2, max_length_ratio=2.0)
  steps, texts = warnings(
    caplog, config, [{'val/response_length': v} for v in lengths]
  )
  assert steps == [at]
  assert '10.0 at the start' in texts[0]


def test_gap_is_in_standard_deviations_of_the_start(caplog):
  """The reward rises by 3 of its own (2 x 1.5), the judge by 1 of its own."""
  rows = [
    {'objective/scores': 1.0, 'objective/scores_std': 2.0},
    {'objective/scores': 1.0, 'objective/scores_std': 2.0},
    {'objective/scores': 7.0, 'objective/scores_std': 9.0},
    {'objective/scores': 7.0, 'objective/scores_std': 9.0},
  ]
  judge = [(0.0, 0.5), (0.0, 0.5), (0.5, 4.0), (0.5, 4.0)]
  for row, (score, std) in zip(rows, judge, strict=True):
    row |= {'judge/scores': score, 'judge/scores_std': std}
  config = MonitorConfig(window=2, max_gap=1.9)
  steps, texts = warnings(caplog, config, rows)
  assert steps == [4]
  assert '+3.00' in texts[0] and '+1.00' in texts[0]
  caplog.clear()
  config = MonitorConfig(window=2, max_gap=2.1)
  assert warnings(caplog, config, rows)[0] == []


def test_a_judge_that_looks_now_and_then(caplog):
  """Records without its score neither count nor hurt."""
  rows = [
    {
      'objective/scores': float(i),
      'objective/scores_std': 1.0,
      **({'judge/scores': 0.0, 'judge/scores_std': 1.0} if i % 3 == 0 else {}),
    }
    for i in range(9)
  ]
  config = MonitorConfig(window=3, max_gap=5.5)
  steps, _ = warnings(caplog, config, rows)
  assert steps == [9]  # (6 + 7 + 8) / 3 - (0 + 1 + 2) / 3 = 6


def test_nothing_is_watched_by_default(caplog):
  rows = [{'objective/kl': 1e9, 'val/response_length': 10.0**i}
          for i in range(30)]  # fmt: skip
  assert warnings(caplog, MonitorConfig(), rows)[0] == []


@pytest.mark.parametrize(
  'options, needle',
  [
    ({'window': 0}, 'window=0'),
    ({'max_length_ratio': 0.5}, 'above 1'),
    ({'max_kl': -1.0}, 'max_kl=-1'),
  ],
)
def test_bad_options(options, needle):
  with pytest.raises(ValueError, match=needle):
    MonitorConfig(**options)


# -- in the loop --------------------------------------------------------------


def with_kl(toy):
  """The toy's step, with a KL that passes 4.5 at the record of step 6."""
  _, step_fn = toy.make()

  def step(state, index):
    state, found = step_fn(state, index)
    return state, {**found, 'objective/kl': np.float32(index)}

  return step


def watched(stop=True):
  return Monitor(MonitorConfig(max_kl=4.4, window=2, stop=stop))


def test_the_run_ends_one_step_later_and_keeps_its_state(toy, tmp_path):
  plain, cut = tmp_path / 'plain', tmp_path / 'cut'
  expected = toy.run(plain, 7, with_kl(toy))
  state = toy.run(cut, 20, with_kl(toy), monitor=watched())
  assert toy.untimed(cut) == toy.untimed(plain)
  np.testing.assert_array_equal(state.params['w'], expected.params['w'])
  again = toy.run(cut, 20, with_kl(toy), monitor=watched())
  assert toy.untimed(cut) == toy.untimed(plain)  # it has ended
  np.testing.assert_array_equal(again.params['w'], expected.params['w'])


@pytest.mark.parametrize('crash', [3, 5, 6])
def test_a_resumed_run_ends_where_the_whole_one_does(toy, tmp_path, crash):
  whole, cut = tmp_path / 'whole', tmp_path / 'cut'
  toy.run(whole, 20, with_kl(toy), monitor=watched(), save_every=2)

  def crashing(state, index):
    if index == crash:
      raise RuntimeError('killed')
    return with_kl(toy)(state, index)

  with pytest.raises(RuntimeError):
    toy.run(cut, 20, crashing, monitor=watched(), save_every=2)
  toy.run(cut, 20, with_kl(toy), monitor=watched(), save_every=2)
  assert toy.untimed(cut) == toy.untimed(whole)
  assert metrics.read_metrics(cut)[-1]['step'] == 7


def test_a_warning_does_not_stop(toy, tmp_path):
  toy.run(tmp_path, 9, with_kl(toy), monitor=watched(stop=False))
  assert metrics.read_metrics(tmp_path)[-1]['step'] == 9
