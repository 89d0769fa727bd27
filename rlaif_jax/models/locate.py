"""What a model path in a config stands for.

A path may be a Hugging Face folder, a hub id (`org/name`), the workdir of a
finished stage (its `model/` is taken), or `tiny:NAME` for what ships with the
package in `rlaif_jax/tiny_world/NAME`.
"""

import hashlib
import pathlib

import rlaif_jax

_SAMPLE_BYTES = 1 << 16  # read at each of _SAMPLES places of a file
_SAMPLES = 16
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


def fingerprint(folder: str) -> str:
  """16 hex digits that change with a model folder's config or weights.

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
