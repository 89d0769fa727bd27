"""Tells whole checkpoints from damaged ones.

Every step carries `files.json`, the sizes and checksums of its files, written
before the step gets its final name. A step that no longer matches is renamed
to `damaged-<step>`; nothing is deleted.
"""

import json
import logging
import pathlib
import zlib

import jax
from jax.experimental import multihost_utils

from rlaif_jax.training import workdir as workdir_lib

_MANIFEST = 'files.json'
# Small files are checked whole, large ones by size and their beginning: a
# check must not cost minutes.
_CHECKED_BYTES = 64 << 20
_log = logging.getLogger(__name__)


def write(step_dir: pathlib.Path) -> None:
  """Writes the manifest of a step whose files are all there."""
  workdir_lib.write_json_atomic(
    step_dir / _MANIFEST,
    {name: _stamp(file) for name, file in _files(step_dir).items()},
  )


def fault(step_dir: pathlib.Path) -> str | None:
  """What is wrong with a step; None when it is whole."""
  try:
    manifest = json.loads((step_dir / _MANIFEST).read_bytes())
    stamps = {name: list(stamp) for name, stamp in manifest.items()}
  except FileNotFoundError:
    return f'{_MANIFEST} is missing'
  except (ValueError, TypeError, AttributeError):
    return f'{_MANIFEST} cannot be read'
  files = _files(step_dir)
  for name, stamp in stamps.items():
    if name not in files:
      return f'{name} is missing'
    if _stamp(files[name]) != stamp:
      return f'{name} was changed or cut'
  return None


def set_damaged_aside(directory: pathlib.Path) -> None:
  """Renames steps that do not match their manifest, with a warning each."""
  if jax.process_index() == 0 and directory.is_dir():
    for step_dir in sorted(directory.iterdir()):
      wrong = fault(step_dir) if step_dir.name.isdigit() else None
      if wrong:
        aside = _unused(step_dir.with_name(f'damaged-{step_dir.name}'))
        step_dir.rename(aside)
        _log.warning(
          'checkpoint %s is damaged (%s): moved to %s and not used',
          step_dir, wrong, aside.name,
        )  # fmt: skip
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('rlaif_jax_checkpoints_checked')


def _unused(path: pathlib.Path) -> pathlib.Path:
  free, number = path, 1
  while free.exists():
    free, number = path.with_name(f'{path.name}-{number}'), number + 1
  return free


def _files(step_dir: pathlib.Path) -> dict[str, pathlib.Path]:
  """Files of a step below its top level, which orbax rewrites at commit."""
  return {
    file.relative_to(step_dir).as_posix(): file
    for file in sorted(step_dir.glob('*/**/*'))
    if file.is_file()
  }


def _stamp(file: pathlib.Path) -> list[int]:
  with file.open('rb') as f:
    return [file.stat().st_size, zlib.crc32(f.read(_CHECKED_BYTES))]
