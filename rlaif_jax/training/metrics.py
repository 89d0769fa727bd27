"""Metric files: JSON lines always, TensorBoard and wandb when asked.

`metrics.jsonl` holds one object a step with the key 'step' first. Numbers keep
their full precision (`repr`), so two runs can be compared bit by bit. JSON has
no NaN: such values are written as the strings 'nan', 'inf', '-inf' and read
back as floats. Method names follow clu.metric_writers, which itself cannot be
imported without TensorFlow.
"""

import hashlib
import importlib
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from rlaif_jax.training import workdir as workdir_lib

_SCALARS = 'metrics.jsonl'
_TEXTS = 'texts.jsonl'
_NOT_FINITE = {'nan': math.nan, 'inf': math.inf, '-inf': -math.inf}


class MetricWriter:
  """Writes metrics and texts of process 0; other processes write nothing.

  A closed writer opens again at its next write.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    tensorboard: bool = False,
    wandb: bool = False,
  ):
    self.workdir = pathlib.Path(workdir)
    self._files = {}
    self._backends = []
    if jax.process_index() != 0:
      return
    self.workdir.mkdir(parents=True, exist_ok=True)
    self.truncate_after(math.inf)  # a killed run may leave half a line
    if tensorboard:
      self._backends.append(_TensorBoard(self.workdir))
    if wandb:
      self._backends.append(_Wandb(self.workdir))

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Writes one object: the step and each scalar (number or 0-d array).

    Raises:
      ValueError: a value is not a scalar.
    """
    if jax.process_index() != 0:
      return
    values = {key: scalar(key, value) for key, value in scalars.items()}
    self._append(_SCALARS, {'step': int(step), **values})
    for backend in self._backends:
      backend.scalars(int(step), values)

  def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
    """Writes texts of a step to `texts.jsonl` and to the other backends."""
    if jax.process_index() != 0:
      return
    self._append(_TEXTS, {'step': int(step), **texts})
    for backend in self._backends:
      backend.texts(int(step), texts)

  def truncate_after(self, step: float) -> None:
    """Drops what was written after `step`, and a half-written last line.

    Raises:
      ValueError: a line before the last is not JSON (names file and line).
    """
    self.close()
    if jax.process_index() != 0:
      return
    for name in (_SCALARS, _TEXTS):
      file = self.workdir / name
      if file.exists():
        old = file.read_bytes().decode('utf-8', 'replace')
        rows = _parse(file, old)
        kept = [line + '\n' for line, row in rows if row['step'] <= step]
        if ''.join(kept) != old:
          workdir_lib.write_text_atomic(file, ''.join(kept))

  def flush(self) -> None:
    """Forces everything to disk."""
    for f in self._files.values():
      f.flush()
      os.fsync(f.fileno())
    for backend in self._backends:
      backend.flush()

  def close(self) -> None:
    """Flushes and closes."""
    self.flush()
    for f in self._files.values():
      f.close()
    self._files = {}
    for backend in self._backends:
      backend.close()

  def _append(self, name: str, record: Mapping[str, Any]) -> None:
    if name not in self._files:
      self._files[name] = (self.workdir / name).open('a', encoding='utf-8')
    line = {key: _to_json(value) for key, value in record.items()}
    self._files[name].write(json.dumps(line, ensure_ascii=False) + '\n')
    self._files[name].flush()  # so that the file can be watched


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """The records of `metrics.jsonl` in order; [] when there is no such file.

  A half-written last line (the run was killed) is left out.

  Raises:
    ValueError: any other line is not JSON (names file and line).
  """
  file = pathlib.Path(workdir) / _SCALARS
  if not file.exists():
    return []
  rows = _parse(file, file.read_bytes().decode('utf-8', 'replace'))
  return [
    {key: _from_json(key, value) for key, value in row.items()}
    for _, row in rows
  ]


def scalar(key: str, value: Any) -> int | float | bool:
  """`value` as a plain number; float32 keeps all its digits.

  Raises:
    ValueError: `value` has more than one element, or is not a number.
  """
  array = np.asarray(value)
  if array.size != 1 or array.dtype.kind in 'OSU':
    raise ValueError(
      f'metric {key!r} is not a scalar: shape {array.shape}, {array.dtype}'
    )
  if array.dtype.kind not in 'biuf':  # bfloat16 and its like
    array = array.astype(np.float32)
  return array.reshape(()).item()


def _to_json(value: Any) -> Any:
  if isinstance(value, float) and not math.isfinite(value):
    return str(value)
  return value


def _from_json(key: str, value: Any) -> Any:
  if key != 'step' and isinstance(value, str):
    return _NOT_FINITE.get(value, value)
  return value


def _parse(file: pathlib.Path, text: str) -> list[tuple[str, dict[str, Any]]]:
  """(line, record) pairs of a JSON-lines file."""
  # Not splitlines(): texts may hold other Unicode line separators.
  lines = text.split('\n')
  lines = lines if lines[-1] else lines[:-1]
  rows = []
  for number, line in enumerate(lines, 1):
    try:
      row = json.loads(line)
      row['step'] + 0
    except (ValueError, TypeError, KeyError) as error:
      if number == len(lines):
        break
      raise ValueError(
        f'{file}:{number} is not a metrics record ({error}); mend or delete '
        'that line'
      ) from error
    rows.append((line, row))
  return rows


def _import(name: str, option: str) -> Any:
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise ValueError(
      f'{option}=True needs the package {name}: pip install {name}, or set '
      f'{option}=False'
    ) from error


class _TensorBoard:
  """Event files under `workdir/tensorboard`."""

  def __init__(self, workdir: pathlib.Path):
    self._dir = workdir / 'tensorboard'
    self._make = _import('tensorboardX', 'tensorboard').SummaryWriter
    self._writer = None

  def _open(self):
    if self._writer is None:
      self._writer = self._make(str(self._dir))
    return self._writer

  def scalars(self, step: int, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
      self._open().add_scalar(key, value, step)

  def texts(self, step: int, texts: Mapping[str, str]) -> None:
    for key, text in texts.items():
      self._open().add_text(key, text, step)

  def flush(self) -> None:
    if self._writer is not None:
      self._writer.flush()

  def close(self) -> None:
    if self._writer is not None:
      self._writer.close()
    self._writer = None


class _Wandb:
  """One wandb run per workdir; a resumed run goes on in the same one."""

  def __init__(self, workdir: pathlib.Path):
    self._workdir = workdir
    self._wandb = _import('wandb', 'wandb')
    self._run = None

  def _open(self):
    if self._run is None:
      config = self._workdir / 'config.json'
      self._run = self._wandb.init(
        project='rlaif_jax',
        name=self._workdir.name,
        id=hashlib.sha256(str(self._workdir).encode()).hexdigest()[:16],
        resume='allow',
        dir=str(self._workdir),
        config=json.loads(config.read_text()) if config.exists() else None,
      )
    return self._run

  def scalars(self, step: int, values: Mapping[str, Any]) -> None:
    self._open().log(dict(values), step=step)

  def texts(self, step: int, texts: Mapping[str, str]) -> None:
    self._open().log(dict(texts), step=step)

  def flush(self) -> None:
    pass  # wandb sends by itself

  def close(self) -> None:
    if self._run is not None:
      self._run.finish()
    self._run = None
