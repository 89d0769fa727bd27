"""The RL stage's monitor: what it is told, and where a run ends."""

import pytest

from configs import rl as rl_config
from rlaif_jax.stages import _watch, rl
from rlaif_jax.training import metrics


@pytest.mark.parametrize(
  'options, needle',
  [
    ({'max_gap': 1.0}, 'config.monitor.judge.path'),
    ({'judge_every': 0}, 'judge_every=0'),
    ({'window': 0}, 'window=0'),
  ],
)
def test_bad_blocks_name_the_key(options, needle):
  block = _watch.config()
  block.update(options)
  with pytest.raises(ValueError, match=needle):
    _watch.make_monitor(block)


def test_no_limits_by_default():
  monitor = _watch.make_monitor(_watch.config())
  monitor.watch(1, {'objective/kl': 1e9})
  assert monitor.stopped_at is None


@pytest.mark.slow
def test_a_judge_looks_on_and_the_run_ends_early(tmp_path):
  c = rl_config.get_config('smoke')
  c.num_steps = 9
  c.monitor.judge.update(name='length', path='unused')
  c.monitor.update(judge_every=2, max_gap=0.0, max_repetition=1e-9, window=3)
  c.monitor.stop = True
  rl.run(c, tmp_path)
  rows = metrics.read_metrics(tmp_path)
  looked = [row['step'] for row in rows if 'judge/scores' in row]
  assert looked == list(range(1, len(rows) + 1, 2))
  assert all('val/repeated_3grams' in row for row in rows)
  means = [
    sum(row['val/repeated_3grams'] for row in rows[i - 3 : i]) / 3
    for i in range(3, len(rows) + 1)
  ]
  first = next(i for i, mean in enumerate(means, 3) if mean > 1e-9)
  assert len(rows) == first + 1 < 9
  assert (tmp_path / 'model' / 'config.json').is_file()
