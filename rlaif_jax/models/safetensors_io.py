"""Reading and writing a folder of safetensors files.

Nothing else is read: a PyTorch pickle can run code when it is opened.
"""

import json
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
MAX_SHARD_BYTES = 4_000_000_000

DTYPES = {'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16'}


class Reader:
  """The tensors of a folder: their shapes at once, their data on request."""

  def __init__(self, folder: pathlib.Path):
    """Reads the files' headers.

    Raises:
      FileNotFoundError: a file that the index names is missing.
      ValueError: no safetensors here, or a broken file.
    """
    self.folder = folder
    self._file: dict[str, str] = {}
    self.shapes: dict[str, tuple[int, ...]] = {}
    self._dtypes: dict[str, str] = {}
    for name in _file_names(folder):
      with _open(folder / name) as f:
        for key in f.keys():  # noqa: SIM118 (it is not a dict)
          view = f.get_slice(key)
          self._file[key] = name
          self.shapes[key] = tuple(view.get_shape())
          self._dtypes[key] = view.get_dtype()

  def dtype(self, key: str) -> str:
    """NumPy's name of a tensor's type.

    Raises:
      ValueError: a type that no parameter may have.
    """
    if self._dtypes[key] not in DTYPES:
      raise ValueError(
        f'{self.folder / self._file[key]}: {key} has type {self._dtypes[key]}, '
        f'which is not supported; supported: {", ".join(DTYPES)}'
      )
    return DTYPES[self._dtypes[key]]

  def fetch(self, key: str, window: tuple[slice, ...]) -> np.ndarray:
    """Reads a rectangle of one tensor; slices must lie inside it.

    The file is mapped only meanwhile, so that what was read does not stay in
    memory: opening is cheap, it parses a header.
    """
    with _open(self.folder / self._file[key]) as f:
      return f.get_slice(key)[window]


def write(
  folder: pathlib.Path,
  shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]],
  fetch: Callable[[str], np.ndarray],
  *,
  max_shard_bytes: int = MAX_SHARD_BYTES,
  leader: bool = True,
) -> None:
  """Writes tensors to one file, or to several with an index.

  Args:
    folder: where to; files of an earlier save that would be read instead are
      removed.
    shapes: shape and type of every tensor, in file order.
    fetch: makes one tensor; called once for each, on every process.
    max_shard_bytes: begin another file beyond this size.
    leader: whether this process is the one that writes.
  """
  plan = _plan(shapes, max_shard_bytes)
  if leader:
    for old in (*folder.glob('model-*-of-*.safetensors'), folder / INDEX):
      old.unlink(missing_ok=True)
    if len(plan) > 1:
      (folder / SINGLE).unlink(missing_ok=True)
  names = [SINGLE]
  if len(plan) > 1:
    names = [
      f'model-{i + 1:05}-of-{len(plan):05}.safetensors'
      for i in range(len(plan))
    ]
  for name, keys in zip(names, plan, strict=True):
    tensors = {k: fetch(k) for k in keys}
    if leader:
      _save_file(folder / name, tensors)
  if leader and len(plan) > 1:
    total = sum(_num_bytes(*s) for s in shapes.values())
    where = {k: n for n, ks in zip(names, plan, strict=True) for k in ks}
    text = json.dumps(
      {'metadata': {'total_size': total}, 'weight_map': where}, indent=2
    )
    (folder / INDEX).write_text(text + '\n')


def _save_file(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
  """Writes one file, with the rights that any new file has.

  The library makes it private to this user, unlike the files beside it.
  """
  path.touch()
  mode = path.stat().st_mode
  save_file(tensors, path, metadata={'format': 'pt'})
  path.chmod(mode)


def _plan(shapes, max_shard_bytes: int) -> list[list[str]]:
  """Keys of each file, in order."""
  plan, size = [[]], 0
  for key, shape in shapes.items():
    more = _num_bytes(*shape)
    if plan[-1] and size + more > max_shard_bytes:
      plan.append([])
      size = 0
    plan[-1].append(key)
    size += more
  return plan


def _num_bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
  return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def _file_names(folder: pathlib.Path) -> list[str]:
  """The files that hold the tensors: a single one wins over an index."""
  if (folder / SINGLE).is_file():
    return [SINGLE]
  if (folder / INDEX).is_file():
    index = json.loads((folder / INDEX).read_text())
    names = sorted(set(index['weight_map'].values()))
    missing = [n for n in names if not (folder / n).is_file()]
    if missing:
      raise FileNotFoundError(
        f'{folder}: {INDEX} names {", ".join(missing)}, which is not there; '
        'download the folder again'
      )
    return names
  pickles = [
    p.name
    for pattern in ('*.bin', '*.pt', '*.pth')
    for p in sorted(folder.glob(pattern))
  ]
  if pickles:
    raise ValueError(
      f'{folder}: {pickles[0]} is a PyTorch pickle, which can run code when '
      'opened and is not read; convert it where torch is installed: '
      'AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR)'
    )
  raise ValueError(f'{folder}: there is no {SINGLE} and no {INDEX} here')


def _open(path: pathlib.Path):
  """Opens one file, naming it where it is broken."""
  try:
    return safe_open(path, 'np')
  except Exception as e:  # the library's error type is not public
    raise ValueError(f'{path}: not a whole safetensors file ({e})') from e
