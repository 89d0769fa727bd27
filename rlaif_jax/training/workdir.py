"""The folder of a run: its config, its results, and small atomic files.

`config.json` is written once and says what the folder is for; the same config
again means "go on", another one is refused. `summary.json` marks the end.
"""

import json
import os
import pathlib
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

import rlaif_jax

ENVIRONMENT = 'environment.json'
_CONFIG = 'config.json'
_SUMMARY = 'summary.json'
_PROBE_BYTES = 1 << 20
_SHOWN = 5  # differing keys named in the error


def open_workdir(
  workdir: str | os.PathLike,
  config: Mapping[str, Any],
  *,
  ignore: Sequence[str] = ('debug',),
) -> pathlib.Path:
  """Makes `workdir` for `config`, or reopens it to resume the same config.

  Args:
    workdir: folder of the run; made if absent.
    config: nested mapping of JSON values (tuples count as lists).
    ignore: dotted keys that two runs of one folder may differ in; 'a' also
      stands for everything below it ('a.b').

  Returns:
    The absolute path of the folder.

  Raises:
    ValueError: the folder was made by another config, holds a run without a
      config, cannot be written, or the config holds a value JSON cannot.
  """
  if not str(workdir or '').strip():
    raise ValueError('--workdir is missing: name a folder for this run')
  path = pathlib.Path(workdir).expanduser().absolute()
  text = _config_text(config)
  _check_writable(path)
  file = path / _CONFIG
  if file.exists():
    _check_same(file, json.loads(text), ignore)
  elif (path / 'metrics.jsonl').exists() or (path / 'checkpoints').exists():
    raise ValueError(
      f'{path} holds a run but no {_CONFIG}, so it cannot be told what made '
      'it; use another --workdir'
    )
  elif jax.process_index() == 0:
    write_json_atomic(file, json.loads(text))
  return path


def write_json_atomic(path: str | os.PathLike, value: Any) -> None:
  """Writes `value` as JSON; readers see the old file or the new, never half.

  NumPy and jax scalars become plain numbers.

  Raises:
    OSError: the disk is full or the folder cannot be written.
  """
  path = pathlib.Path(path)
  text = json.dumps(value, indent=2, default=_plain) + '\n'
  write_text_atomic(path, text)


def write_text_atomic(path: str | os.PathLike, text: str) -> None:
  """As `write_json_atomic`, for a text file."""
  path = pathlib.Path(path)
  part = path.with_name(f'.{path.name}.{os.getpid()}.part')
  try:
    with part.open('w', encoding='utf-8') as f:
      f.write(text)
      f.flush()
      os.fsync(f.fileno())
    part.replace(path)
  finally:
    part.unlink(missing_ok=True)


def record_environment(workdir: str | os.PathLike) -> None:
  """Writes `environment.json`: the command, versions and devices of a run.

  Once, by process 0; a run that goes on keeps that of its beginning.
  """
  file = pathlib.Path(workdir) / ENVIRONMENT
  if jax.process_index() or file.exists():
    return
  device = jax.devices()[0]
  write_json_atomic(
    file,
    {
      'command': shlex.join(sys.orig_argv),
      'started': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
      'rlaif_jax': rlaif_jax.__version__,
      'python': platform.python_version(),
      'jax': jax.__version__,
      'backend': device.platform,
      'device': device.device_kind,
      'devices': jax.device_count(),
      'processes': jax.process_count(),
    },
  )


def leave_unmade(workdir: str | os.PathLike) -> None:
  """Removes what opening a workdir left, if nothing else was made there."""
  path = pathlib.Path(workdir)
  files = {f for f in path.rglob('*') if f.is_file()}
  ours = {path / _CONFIG, path / ENVIRONMENT}
  if files <= {*ours, path / 'error.txt'}:
    for file in ours:
      file.unlink(missing_ok=True)
    for child in path.iterdir():
      if child.is_dir():
        shutil.rmtree(child)


def finish(workdir: str | os.PathLike, summary: Mapping[str, Any]) -> None:
  """Marks the run as finished by writing `summary.json` (process 0 only)."""
  if jax.process_index() == 0:
    write_json_atomic(pathlib.Path(workdir) / _SUMMARY, dict(summary))


def finished(workdir: str | os.PathLike) -> dict[str, Any] | None:
  """The summary of a finished run; None while it is not finished.

  Raises:
    ValueError: `summary.json` is there but is not a JSON object.
  """
  file = pathlib.Path(workdir) / _SUMMARY
  if not file.exists():
    return None
  return _read_object(file, 'delete it and run the same command again')


def _plain(value: Any) -> Any:
  if hasattr(value, 'item') and getattr(value, 'size', 0) == 1:
    return value.item()
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  raise TypeError(f'{type(value).__name__} {value!r} is not a JSON value')


def _config_text(config: Mapping[str, Any]) -> str:
  try:
    return json.dumps(config, default=_plain)
  except (TypeError, ValueError) as error:
    raise ValueError(f'the config cannot be stored as JSON: {error}') from error


def _check_writable(path: pathlib.Path) -> None:
  """Fails now, not after hours, where the folder or the disk is no good."""
  probe = path / f'.probe.{os.getpid()}'
  try:
    path.mkdir(parents=True, exist_ok=True)
    try:
      with probe.open('wb') as f:
        f.write(bytes(_PROBE_BYTES))
        f.flush()
        os.fsync(f.fileno())
    finally:
      probe.unlink(missing_ok=True)
  except OSError as error:
    raise ValueError(
      f'cannot write to --workdir={path}: {error.strerror or error}; free '
      'space or choose a folder that you may write to'
    ) from error


def _read_object(file: pathlib.Path, remedy: str) -> dict[str, Any]:
  try:
    value = json.loads(file.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{file} is damaged ({error}); {remedy}') from error
  if not isinstance(value, dict):
    raise ValueError(f'{file} is damaged (not a JSON object); {remedy}')
  return value


def _flat(value: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
  if isinstance(value, Mapping) and value:
    for key, inner in value.items():
      yield from _flat(inner, f'{prefix}.{key}' if prefix else str(key))
  else:
    yield prefix, value


def _check_same(
  file: pathlib.Path, config: Mapping[str, Any], ignore: Sequence[str]
) -> None:
  """Raises ValueError naming the keys in which `config` differs from `file`."""
  old = dict(_flat(_read_object(file, 'use another --workdir')))
  new = dict(_flat(config))
  absent = object()

  def counts(key: str) -> bool:
    return not any(key == i or key.startswith(f'{i}.') for i in ignore)

  def show(value: Any) -> str:
    return '(absent)' if value is absent else json.dumps(value)

  lines = [
    f'  {key}: {show(old.get(key, absent))} there, '
    f'{show(new.get(key, absent))} now'
    for key in sorted(old.keys() | new.keys())
    if counts(key) and old.get(key, absent) != new.get(key, absent)
  ]
  if not lines:
    return
  more = len(lines) - _SHOWN
  raise ValueError(
    f'{file.parent} was made by another config:\n'
    + '\n'.join(lines[:_SHOWN])
    + (f'\n  and {more} more' if more > 0 else '')
    + '\nuse another --workdir, or the config it was made with to resume'
  )
