"""What a person sees of a running loop: a bar on a terminal, else lines."""

import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import rich.console
import rich.progress

_LINE_SECONDS = 10.0
_LINE_SHARE = 0.1
_METRICS_SHOWN = 3
_PREFERRED = ('loss/', 'objective/', 'eval/', 'rewards/')


class Progress:
  """Shows title, step, main metrics, step time and time left on stderr.

  A rich bar when stderr is a terminal, else a plain line at most every 10
  seconds or 10% of the steps, whichever comes first. Of the steps given to
  `update`, every `every`-th and the last count. Process 0 only.
  """

  def __init__(
    self,
    title: str,
    num_steps: int,
    every: int = 1,
    *,
    start: int = 0,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._title, self._clock = title, clock
    self._num_steps, self._every = num_steps, every
    self._shown_at, self._shown_step = clock(), start
    self._bar = None
    if jax.process_index() == 0 and sys.stderr.isatty():
      self._bar = _bar()
      self._task = self._bar.add_task(
        title, total=num_steps, completed=start, note=''
      )
      self._bar.start()

  def update(self, step: int, record: Mapping[str, Any]) -> None:
    """Shows the metrics of `step` (finished steps, 1-based)."""
    shows = step % self._every == 0 or step == self._num_steps
    if jax.process_index() != 0 or not shows:
      return
    note = summarize(record)
    if self._bar is not None:
      self._bar.update(self._task, completed=step, note=note)
    elif self._due(step):
      self._shown_at, self._shown_step = self._clock(), step
      print(
        f'{self._title} {step}/{self._num_steps} {note}',
        file=sys.stderr,
        flush=True,
      )

  def close(self) -> None:
    """Leaves the terminal in order."""
    if self._bar is not None:
      self._bar.stop()

  def _due(self, step: int) -> bool:
    return (
      step == self._num_steps
      or self._clock() - self._shown_at >= _LINE_SECONDS
      or step - self._shown_step >= _LINE_SHARE * self._num_steps
    )


def summarize(record: Mapping[str, Any]) -> str:
  """The main metrics, step time and time left of a record, in one line."""
  keys = sorted(
    (k for k in record if k.startswith(_PREFERRED)),
    key=lambda k: next(i for i, p in enumerate(_PREFERRED) if k.startswith(p)),
  )
  parts = [f'{k}={record[k]:.4g}' for k in keys[:_METRICS_SHOWN]]
  if 'time/step_s' in record:
    parts.append(f'{_seconds(record["time/step_s"])}/step')
  if 'time/eta_s' in record:
    parts.append(f'{_duration(record["time/eta_s"])} left')
  return '  '.join(parts)


def _bar() -> rich.progress.Progress:
  return rich.progress.Progress(
    rich.progress.TextColumn('{task.description}'),
    rich.progress.BarColumn(bar_width=24),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TextColumn('{task.fields[note]}'),
    console=rich.console.Console(stderr=True),
  )


def _seconds(value: float) -> str:
  return f'{value:.2f}s' if value >= 0.1 else f'{1000 * value:.1f}ms'


def _duration(value: float) -> str:
  minutes, seconds = divmod(math.ceil(value), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}h{minutes:02d}m'
  return f'{minutes}m{seconds:02d}s' if minutes else f'{seconds}s'
