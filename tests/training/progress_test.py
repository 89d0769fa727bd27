import io
import sys

from rlaif_jax.training import progress


def lines(capsys, steps, seconds_per_step):
  now = [0.0]
  shown = progress.Progress('sft', steps, clock=lambda: now[0])
  for step in range(1, steps + 1):
    now[0] += seconds_per_step
    shown.update(step, {'loss/sft': 1.5})
  shown.close()
  return capsys.readouterr().err.splitlines()


def test_fast_runs_print_every_tenth(capsys):
  printed = lines(capsys, 1000, 0.001)
  assert len(printed) == 10
  assert printed[0] == 'sft 100/1000 loss/sft=1.5'


def test_slow_runs_print_every_ten_seconds(capsys):
  printed = lines(capsys, 1000, 1.0)
  assert len(printed) == 100
  assert printed[1].startswith('sft 20/1000')


def test_summary_has_main_metrics_step_time_and_time_left():
  record = {
    'step': 3,
    'val/x': 1.0,
    'objective/kl': 0.25,
    'loss/policy_avg': 1.23456,
    'time/step_s': 0.0125,
    'time/eta_s': 3700.0,
  }
  assert progress.summarize(record) == (
    'loss/policy_avg=1.235  objective/kl=0.25  12.5ms/step  1h01m left'
  )
  assert progress.summarize({'time/step_s': 2.0, 'time/eta_s': 61.0}) == (
    '2.00s/step  1m01s left'
  )


def test_a_terminal_gets_a_bar(monkeypatch):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  terminal = Terminal()
  monkeypatch.setattr(sys, 'stderr', terminal)
  monkeypatch.setenv('TERM', 'xterm')
  monkeypatch.setenv('COLUMNS', '100')
  shown = progress.Progress('rl', 4, start=1)
  shown.update(4, {'loss/a': 0.5})
  shown.close()
  assert '4/4' in terminal.getvalue()
  assert 'loss/a=0.5' in terminal.getvalue()
