"""What a model path in a config stands for.

A path may be a Hugging Face folder, a hub id (`org/name`), the workdir of a
finished stage (its `model/` is taken), or `tiny:NAME` for what ships with the
package in `rlaif_jax/tiny_world/NAME`.
"""

import hashlib
import pathlib
import re

from huggingface_hub import errors, snapshot_download

import rlaif_jax

_SAMPLE_BYTES = 1 << 16  # read at each of _SAMPLES places of a file
_SAMPLES = 16
_DOWNLOAD = ('*.json', '*.jinja', '*.model', '*.safetensors', '*.txt')
_TINY = pathlib.Path(rlaif_jax.__file__).parent / 'tiny_world'


def resolve(path: str) -> str:
  """Folder (or hub id) that holds the model of a config path.

  Raises:
    ValueError: an empty path.
    FileNotFoundError: a `tiny:` name that does not ship, a folder without a
      model, or the workdir of a stage that has not finished.
  """
  if not path:
    raise ValueError('the config names no model: a model path is empty')
  if path.startswith('tiny:'):
    return str(_shipped(path.removeprefix('tiny:')))
  folder = pathlib.Path(path)
  if (folder / 'model' / 'config.json').is_file():
    return str(folder / 'model')
  if (folder / 'checkpoints').is_dir():
    raise FileNotFoundError(
      f'{path}: this stage has not finished, it has no model/ yet; run it first'
    )
  if folder.is_dir() and not (folder / 'config.json').is_file():
    raise FileNotFoundError(f'{path}: no model here (config.json is missing)')
  if not folder.exists() and not _like_hub_id(path):
    raise FileNotFoundError(f'{path}: no such model folder')
  return path


def folder(path: str | pathlib.Path) -> pathlib.Path:
  """The local folder of a path or hub id, downloaded if need be.

  Raises:
    FileNotFoundError: no such folder, and no such model on the hub.
  """
  found = pathlib.Path(path).expanduser()
  if found.is_dir():
    return found
  if found.exists():
    raise FileNotFoundError(f'{path} is a file; give the folder it is in')
  if not re.fullmatch(r'\w[\w.-]*(/\w[\w.-]*)?', str(path)):
    raise FileNotFoundError(f'{path}: there is no such folder')
  try:
    found = snapshot_download(
      str(path), allow_patterns=_DOWNLOAD, ignore_patterns='*/*'
    )
  except (errors.HfHubHTTPError, OSError, ValueError) as e:
    reason = (str(e).strip() or type(e).__name__).splitlines()[0]
    raise FileNotFoundError(
      f'{path}: there is no such folder here, and the hub did not give it: '
      f'{reason}'
    ) from e
  return pathlib.Path(found)


def fingerprint(folder: str, held: str = '') -> str:
  """16 hex digits that change with a model folder's config or weights.

  And with what else they depend on, `held`: how weights are rounded, say.

  Of every .json and .safetensors file the size and evenly spaced samples are
  hashed, its beginning and end included: all of it where it is small. A hub id
  is its own fingerprint.
  """
  digest = hashlib.sha256()
  path = pathlib.Path(folder)
  if not path.is_dir():
    digest.update(folder.encode())
  for file in sorted((*path.glob('*.json'), *path.glob('*.safetensors'))):
    size = file.stat().st_size
    digest.update(f'{file.name} {size} '.encode())
    last = max(size - _SAMPLE_BYTES, 0)
    with file.open('rb') as stream:
      for at in sorted({last * i // (_SAMPLES - 1) for i in range(_SAMPLES)}):
        stream.seek(at)
        digest.update(stream.read(_SAMPLE_BYTES))
  digest.update(held.encode())
  return digest.hexdigest()[:16]


def _like_hub_id(path: str) -> bool:
  """Whether `path` could be `org/name` on the hub."""
  return path.count('/') == 1 and not path.startswith(('/', '.', '~'))


def _shipped(name: str) -> pathlib.Path:
  folder = _TINY / name
  if not folder.is_dir():
    folders = {file.parent.relative_to(_TINY) for file in _TINY.rglob('*.json')}
    have = ', '.join(sorted(f'tiny:{p.as_posix()}' for p in folders))
    raise FileNotFoundError(f'tiny:{name} is not shipped; there are: {have}')
  return folder
