"""Checkpoints that survive kills, full disks and damaged files.

Saves are asynchronous and appear by one rename, so a killed save leaves no
step. A step with damaged files is set aside with a warning (manifest.py) and
the newest whole one is used. The only file that knows orbax.
"""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from rlaif_jax.training import manifest

_ITEM = 'default'  # orbax's name for the one tree of a step
_SHOWN = 5  # differences named in an error


class Checkpointer:
  """Keeps the latest and the best checkpoints of one run.

  Attributes:
    best_metric: key in the metrics given to `save` that says which is best;
      a save whose metrics lack it, or hold NaN, is never the best.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    *,
    keep_latest: int = 2,
    keep_best: int = 1,
    best_metric: str | None = None,
    best_mode: str = 'max',
  ):
    """Opens `directory`; damaged steps in it are set aside with a warning.

    Args:
      directory: made if absent.
      keep_latest: newest steps to keep. With 1 there is nothing to fall back
        to when the newest is damaged, unless it is kept as the best.
      keep_best: best steps to keep besides, if `best_metric` is given.
      best_metric: see the class.
      best_mode: 'max' or 'min'.

    Raises:
      ValueError: a number or mode is out of range.
    """
    if keep_latest < 1 or keep_best < 0:
      raise ValueError(
        f'keep_latest={keep_latest}, keep_best={keep_best}: the first must be '
        'at least 1, the second at least 0'
      )
    if best_mode not in ('max', 'min'):
      raise ValueError(f"best_mode={best_mode!r}; use 'max' or 'min'")
    self.directory = pathlib.Path(directory).absolute()
    self.best_metric = best_metric
    self._worst = -math.inf if best_mode == 'max' else math.inf
    self._saving = None
    manifest.set_damaged_aside(self.directory)
    self._manager = ocp.CheckpointManager(
      self.directory,
      item_handlers=ocp.StandardCheckpointHandler(),
      options=self._options(keep_latest, keep_best, best_mode),
    )

  def _options(self, keep_latest: int, keep_best: int, best_mode: str):
    # orbax's own best_fn + max_to_keep would delete the latest step. Its
    # best_fn is given only because metrics are not stored without one.
    policies = ocp.checkpoint_managers
    keep = [policies.LatestN(keep_latest)]
    if self.best_metric and keep_best:
      keep.append(
        policies.BestN(
          get_metric_fn=self._score, reverse=best_mode == 'min', n=keep_best
        )
      )
    return ocp.CheckpointManagerOptions(
      best_fn=self._score,
      best_mode=best_mode,
      preservation_policy=policies.AnyPreservationPolicy(keep),
      async_options=ocp.options.AsyncOptions(
        post_finalization_callback=self._write_manifest
      ),
      cleanup_tmp_directories=True,
      save_root_metadata=False,
    )

  def _score(self, stored: Mapping[str, Any]) -> float:
    value = stored['best']
    return self._worst if value is None else value

  def save(
    self, step: int, state: Any, metrics: Mapping[str, Any] | None = None
  ) -> None:
    """Starts to save `state` (arrays, keys, numbers) as `step`.

    Returns once the arrays are copied; donating them afterwards is safe.
    Every process must call it. An earlier save is waited for.

    Raises:
      OSError: this or the earlier save could not be written.
      ValueError: the step exists already.
    """
    if step in self._manager.all_steps():
      raise ValueError(f'{self.directory} already has a checkpoint {step}')
    self.wait()
    best = (metrics or {}).get(self.best_metric)
    if best is not None and not math.isfinite(best):
      best = None
    self._saving = step
    try:
      self._manager.save(
        step,
        args=ocp.args.StandardSave(state),
        metrics={'best': None if best is None else float(best)},
        force=True,
      )
    except OSError as error:
      raise self._unwritable(error) from error

  def wait(self) -> None:
    """Waits until the last save is on disk.

    Raises:
      OSError: it could not be written; earlier checkpoints are untouched.
    """
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      raise self._unwritable(error) from error

  def restore(
    self, abstract: Any, *, best: bool = False
  ) -> tuple[int, Any] | None:
    """Reads the newest (or best) whole checkpoint; None when there is none.

    Args:
      abstract: the tree to read, as `abstract_like` makes it: a
        ShapeDtypeStruct with a sharding for an array, any number for a number.
        The shardings may be of another mesh than the one that saved.
      best: read the best step, not the newest.

    Raises:
      ValueError: the checkpoint holds another tree or other shapes.
    """
    self.wait()
    step = self.best_step() if best else self.latest_step()
    if step is None:
      return None
    stored = _shapes(self._manager.item_metadata(step).tree)
    _check_fits(self.directory / str(step), stored, _shapes(abstract))
    args = ocp.args.StandardRestore(abstract)
    return step, self._manager.restore(step, args=args)

  def latest_step(self) -> int | None:
    """The newest step."""
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """The best step; None while no save had the best metric."""
    step = self._manager.best_step()
    if step is None or self._manager.metrics(step)['best'] is None:
      return None
    return step

  def all_steps(self) -> list[int]:
    """The steps there are, oldest first."""
    return sorted(self._manager.all_steps())

  def reached_preemption(self, step: int) -> bool:
    """Whether all processes are to save and leave at `step`.

    With several processes a SIGTERM to one is agreed upon through jax, so
    every process must ask at every step.
    """
    return self._manager.reached_preemption(step)

  def close(self) -> None:
    """Waits for the last save and releases the directory."""
    try:
      self.wait()
    finally:
      self._manager.close()

  def __enter__(self) -> 'Checkpointer':
    return self

  def __exit__(self, *unused) -> None:
    self.close()

  def _write_manifest(self) -> None:
    """Runs on process 0 when all files are there, before the final rename."""
    for step_dir in self.directory.iterdir():
      if step_dir.name.split('.')[0] == str(self._saving):
        manifest.write(step_dir)

  def _unwritable(self, error: Exception) -> OSError:
    return OSError(
      f'checkpoint {self._saving} could not be written to {self.directory} '
      f'({_first_line(error)}); earlier checkpoints are untouched. Free disk '
      'space and run the same command again to resume'
    )


def abstract_like(tree: Any) -> Any:
  """What to restore to get a tree like `tree`: its shapes and shardings."""

  def abstract(x):
    if isinstance(x, jax.Array):
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    return x

  return jax.tree.map(abstract, tree)


def restore_subtree(step_dir: str | os.PathLike, abstract: Any) -> Any:
  """Reads part of one checkpoint, say {'params': ...} of a training state.

  Args:
    step_dir: `checkpoints/<step>`.
    abstract: nested dict of ShapeDtypeStructs with shardings; only what it
      names is read.

  Raises:
    FileNotFoundError: there is no such checkpoint.
    ValueError: it is damaged, or has no such subtree.
  """
  step_dir = pathlib.Path(step_dir).absolute()
  if not step_dir.is_dir():
    raise FileNotFoundError(f'no checkpoint at {step_dir}')
  wrong = manifest.fault(step_dir)
  if wrong:
    raise ValueError(f'checkpoint {step_dir} is damaged: {wrong}')
  args = ocp.args.PyTreeRestore(
    abstract,
    restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
    partial_restore=True,
  )
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    stored = _shapes(reader.metadata(step_dir / _ITEM).item_metadata.tree)
    wanted = _shapes(abstract)
    part = {name: stored[name] for name in stored.keys() & wanted.keys()}
    _check_fits(step_dir, part, wanted)
    return reader.restore(step_dir / _ITEM, args=args)


def _first_line(error: Exception) -> str:
  text = str(error).strip().splitlines()
  return text[0] if text else type(error).__name__


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """Shape of every leaf by its dotted path; keys count as their data."""

  def shape(x) -> tuple[int, ...]:
    dtype = getattr(x, 'dtype', None)
    if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
      x = jax.eval_shape(jax.random.key_data, x)
    return tuple(getattr(x, 'shape', ()))

  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): shape(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _check_fits(
  step_dir: pathlib.Path,
  stored: Mapping[str, tuple[int, ...]],
  wanted: Mapping[str, tuple[int, ...]],
) -> None:
  """Raises ValueError naming what differs between a checkpoint and a run."""
  lines = [
    f'  {name}: {stored.get(name, "(absent)")} there, '
    f'{wanted.get(name, "(absent)")} here'
    for name in sorted(stored.keys() | wanted.keys())
    if stored.get(name) != wanted.get(name)
  ]
  if lines:
    more = len(lines) - _SHOWN
    raise ValueError(
      f'checkpoint {step_dir} does not fit the model and optimizer of this '
      'run; shapes that differ:\n'
      + '\n'.join(lines[:_SHOWN])
      + (f'\n  and {more} more' if more > 0 else '')
      + '\nuse the config that made it, or another --workdir'
    )
