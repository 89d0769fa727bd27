"""The host loop that every training stage runs.

Steps are counted as finished steps: after `step_fn(state, 0)` the run is at
step 1, which is the step in metrics.jsonl, in the checkpoint's name and in
`nan_step_1.json`. `step_fn` and `describe` get the index (0-based), from
which data order and keys follow.
"""

import math
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import jax
import numpy as np

from rlaif_jax.training import checkpoint as checkpoint_lib
from rlaif_jax.training import metrics as metrics_lib
from rlaif_jax.training import workdir as workdir_lib
from rlaif_jax.training.checkpoint import Checkpointer
from rlaif_jax.training.metrics import MetricWriter
from rlaif_jax.training.monitor import Monitor
from rlaif_jax.training.progress import Progress

PREEMPTED = 42  # exit code: saved and left on request, start me again
_MUST_BE_FINITE = ('/loss/', '/objective/', '/optim/')

State = Any
StepFn = Callable[[State, int], tuple[State, Mapping[str, Any]]]


def run_loop(
  state: State,
  step_fn: StepFn,
  *,
  num_steps: int,
  checkpointer: Checkpointer,
  writer: MetricWriter,
  save_every: int = 0,
  log_every: int = 1,
  eval_every: int = 0,
  evaluate: Callable[[State], Mapping[str, Any]] | None = None,
  describe: Callable[[int], Any] | None = None,
  monitor: Monitor | None = None,
  title: str = 'train',
  tokens_per_step: int | None = None,
  clock: Callable[[], float] = time.monotonic,
) -> State:
  """Runs steps up to `num_steps`, resuming from the newest checkpoint.

  A resumed run writes the same metrics as an uninterrupted one, bit by bit,
  except time/* and perf/*, if `step_fn` is a pure function of its arguments.

  Args:
    state: where a new run starts. It is consumed, as by a donated step: on
      resuming its arrays are freed before the checkpoint is read.
    step_fn: (state, index) -> (state, metrics). Should not wait for the
      device: metrics of step t are fetched after step t + 1 is dispatched.
    num_steps: finished steps to reach.
    checkpointer: the caller's to close.
    writer: gets one record for every step; is closed at the end.
    save_every: steps between checkpoints; the last step is always saved.
    log_every: steps between updates of the progress display.
    eval_every: steps between evaluations (0: none), also at the last step.
    evaluate: state -> metrics. They join the record of their step, so a step
      that is both evaluated and saved can be the best one.
    describe: index -> pytree of host arrays, the batch to store on a NaN.
    monitor: may end the run early; it hears of a step one step late.
    title: name for the progress display.
    tokens_per_step: for perf/tokens_per_second.
    clock: seconds, for time/*.

  Raises:
    FloatingPointError: a metric under loss/, objective/ or optim/ is NaN or
      infinite. `nan_step_<n>.json` (and .npz, see `describe`) hold the
      metrics; no checkpoint is written after that step.
    SystemExit: code 42 after SIGTERM or a preemption notice, once saved.
    ValueError: the checkpoint is past `num_steps`, or does not fit `state`.
  """
  first, state = _resume(state, checkpointer, num_steps)
  leave = False
  if _ended_before(first, monitor, writer):
    return state
  meter = _Meter(num_steps, tokens_per_step, clock)
  shown = Progress(title, num_steps, log_every, start=first, clock=clock)
  record = _Recorder(writer, shown, meter, describe, monitor)
  with _Sigterm() as sigterm, record:
    for done in range(first + 1, num_steps + 1):
      state, metrics = step_fn(state, done - 1)
      record.finish()  # the step before this one
      record.begin(done, metrics)
      leave = checkpointer.reached_preemption(done) or sigterm.received
      end = done == num_steps or record.stopped_before(done)
      look = evaluate and eval_every and (end or _every(eval_every, done))
      save = leave or end or _every(save_every, done)
      if not (look or save):
        continue
      # Nothing is built on this state before its metrics are checked.
      record.settle()
      saved = record.finish(evaluate(state) if look else {})
      if save:
        writer.flush()  # never a checkpoint ahead of its metrics
        checkpointer.save(done, state, saved)
      if leave or end:
        break
      meter.restart()
    checkpointer.wait()
  if leave:
    _say(f'{title}: told to stop; saved at step {done}/{num_steps}')
    raise SystemExit(PREEMPTED)
  return state


def last_metrics(workdir: str | pathlib.Path) -> dict[str, Any]:
  """The last record of `metrics.jsonl`; {} when there is none."""
  records = metrics_lib.read_metrics(workdir)
  return records[-1] if records else {}


def fetch(metrics: Mapping[str, Any]) -> dict[str, int | float | bool]:
  """Metrics as plain numbers; waits for the device.

  Raises:
    ValueError: one of them is not a scalar.
  """
  host = jax.device_get(dict(metrics))
  return {key: metrics_lib.scalar(key, value) for key, value in host.items()}


def _resume(
  state: State, checkpointer: Checkpointer, num_steps: int
) -> tuple[int, State]:
  latest = checkpointer.latest_step()
  if latest is None:
    return 0, state
  if latest > num_steps:
    raise ValueError(
      f'{checkpointer.directory} is at step {latest}, past num_steps='
      f'{num_steps}; raise num_steps or use another --workdir'
    )
  abstract = checkpoint_lib.abstract_like(state)
  for x in jax.tree.leaves(state):
    if isinstance(x, jax.Array) and not x.is_deleted():
      x.delete()  # the old and the new state together may not fit
  step, state = checkpointer.restore(abstract)
  _say(f'resuming from step {step} of {checkpointer.directory}')
  return step, state


def _ended_before(
  first: int, monitor: Monitor | None, writer: MetricWriter
) -> bool:
  """Whether the run that goes on after `first` has been ended by its monitor.

  What was written of later steps is dropped.
  """
  writer.truncate_after(first)
  if monitor is None:
    return False
  past = metrics_lib.read_metrics(writer.workdir)
  monitor.replay(row for row in past if row['step'] <= first)
  return monitor.stopped_at is not None and monitor.stopped_at < first


def _stop_if_not_finite(
  done: int,
  record: Mapping[str, Any],
  writer: MetricWriter,
  describe: Callable[[int], Any] | None,
) -> None:
  """Leaves what explains a NaN in the workdir and raises FloatingPointError."""
  bad = [
    key
    for key, value in record.items()
    if not math.isfinite(value) and any(p in f'/{key}' for p in _MUST_BE_FINITE)
  ]
  if not bad:
    return
  file = writer.workdir / f'nan_step_{done}.json'
  if jax.process_index() == 0:
    note = {
      'step': done,
      'not_finite': bad,
      # JSON has no NaN.
      'metrics': {
        k: v if math.isfinite(v) else str(v) for k, v in record.items()
      },
    }
    if describe is not None:
      np.savez(file.with_suffix('.npz'), **_named_arrays(describe(done - 1)))
      note['batch'] = file.with_suffix('.npz').name
    workdir_lib.write_json_atomic(file, note)
    writer.write_scalars(done, record)
  values = ', '.join(f'{key}={record[key]}' for key in bad)
  raise FloatingPointError(
    f'step {done}: {values}. Nothing was saved after the last good checkpoint; '
    f'see {file}. Lower the learning rate or clip_norm, in a new --workdir'
  )


def _named_arrays(tree: Any) -> dict[str, np.ndarray]:
  return {
    jax.tree_util.keystr(path, simple=True, separator='.') or 'batch': (
      np.asarray(leaf)
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _every(interval: int, done: int) -> bool:
  return interval > 0 and done % interval == 0


def _say(text: str) -> None:
  if jax.process_index() == 0:
    print(text, file=sys.stderr, flush=True)


class _Recorder:
  """Takes metrics of a dispatched step; checks and writes them when done."""

  def __init__(
    self,
    writer: MetricWriter,
    progress: Progress,
    meter: '_Meter',
    describe: Callable[[int], Any] | None,
    monitor: Monitor | None,
  ):
    self._writer, self._progress = writer, progress
    self._meter, self._describe, self._monitor = meter, describe, monitor
    self._pending = None  # (step, metrics), on the device
    self._settled = None  # (step, record), on the host

  def begin(self, done: int, metrics: Mapping[str, Any]) -> None:
    """Takes the metrics of step `done`, which may still be running."""
    self._pending = done, metrics

  def settle(self) -> None:
    """Waits for the metrics and stops the run if they are not finite."""
    if self._pending is None:
      return
    done, metrics = self._pending
    record = fetch(metrics)
    _stop_if_not_finite(done, record, self._writer, self._describe)
    self._pending, self._settled = None, (done, record | self._meter.lap(done))

  def finish(self, evaluated: Mapping[str, Any] | None = None) -> dict:
    """Writes and shows the step begun last, if any; returns its record."""
    self.settle()
    if self._settled is None:
      return {}
    (done, record), self._settled = self._settled, None
    record |= fetch(evaluated or {})
    self._writer.write_scalars(done, record)
    self._progress.update(done, record)
    if self._monitor:
      self._monitor.watch(done, record)
    return record

  def stopped_before(self, done: int) -> bool:
    """Whether the monitor ended the run at a step before `done`."""
    at = self._monitor.stopped_at if self._monitor else None
    if at is None or at >= done:
      return False
    _say(f'the monitor ends the run at step {done}')
    return True

  def __enter__(self) -> '_Recorder':
    return self

  def __exit__(self, *unused) -> None:
    self._progress.close()
    self._writer.close()


class _Meter:
  """Step time and what follows from it; evaluation and saving do not count."""

  def __init__(
    self, num_steps: int, tokens: int | None, clock: Callable[[], float]
  ):
    self._num_steps, self._tokens, self._clock = num_steps, tokens, clock
    self._since, self._laps, self._mean = clock(), 0, 0.0

  def lap(self, done: int) -> dict[str, float]:
    """time/step_s, time/eta_s and perf/tokens_per_second of step `done`."""
    now = self._clock()
    seconds, self._since = max(now - self._since, 1e-9), now
    # The first step compiles, so it says nothing about the rest.
    keep = 0.9 if self._laps > 1 else 0.0
    self._mean = keep * self._mean + (1 - keep) * seconds
    self._laps += 1
    left = self._num_steps - done
    times = {'time/step_s': seconds, 'time/eta_s': left * self._mean}
    if self._tokens:
      times['perf/tokens_per_second'] = self._tokens / seconds
    return times

  def restart(self) -> None:
    """Starts the next step's time now."""
    self._since = self._clock()


class _Sigterm:
  """While active, SIGTERM sets `received` instead of ending the process.

  With several processes jax's own notice is used: it makes them stop at the
  same step, and its signal handler must stay in place.
  """

  def __init__(self):
    self.received = False
    self._previous = None

  def __enter__(self) -> '_Sigterm':
    main = threading.current_thread() is threading.main_thread()
    if main and jax.process_count() == 1:
      self._previous = signal.signal(signal.SIGTERM, self._handle)
    return self

  def __exit__(self, *unused) -> None:
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self.received = True
