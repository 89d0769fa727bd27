"""Converts between Hugging Face folders and workdirs.

  python -m rlaif_jax.convert SRC DST [--part value] [--base PATH] [--dtype T]

SRC is one of
  a Hugging Face folder, a hub id or tiny:NAME: DST becomes a workdir with the
    model in DST/model, so any stage takes DST as a model path; --checkpoint
    also writes its parameters to DST/checkpoints/0
  a workdir: DST becomes a Hugging Face folder of WORKDIR/model or, where the
    stage has not finished, of the newest checkpoint
  WORKDIR/checkpoints or WORKDIR/checkpoints/STEP: likewise, of the newest or
    that checkpoint

The architecture and tokenizer of a checkpoint are those of the model that its
run started from, which WORKDIR/config.json names and --base replaces. With
LoRA so are the kernels, which the checkpoint's adapters are merged into. DST
must not exist or be empty.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from rlaif_jax import sharding
from rlaif_jax.data import tokenizer as tokenizer_lib
from rlaif_jax.models import (
  LanguageModel,
  heads,
  hf,
  locate,
  lora,
  with_options,
)
from rlaif_jax.stages import _lora
from rlaif_jax.training import checkpoint as checkpoint_lib

DTYPES = ('float32', 'bfloat16', 'float16')


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a training state holds one model.

  Attributes:
    keys: of its parameters, from the state's root.
    base: dotted keys of config.json that may name what it started from, the
      first that is set being taken.
    scalar: whether it has a scalar head (reward and value models); None: as
      the base has.
    block: key of config.json that says which adapters it has; None: none.
  """

  keys: tuple[str, ...]
  base: tuple[str, ...]
  scalar: bool | None = False
  block: str | None = None


PLACES: Mapping[tuple[str, str], Place] = {
  ('sft', 'policy'): Place(('params',), ('model.path',), block='model'),
  ('tiny_labeler', 'policy'): Place(
    ('params',), ('model.path',), block='model'
  ),
  ('preference', 'policy'): Place(
    ('params',), ('policy.path',), block='policy'
  ),
  ('reward', 'policy'): Place(
    ('params',), ('model.path',), scalar=True, block='model'
  ),
  ('rl', 'policy'): Place(
    ('policy', 'params'), ('policy.path',), block='policy'
  ),
  ('rl', 'value'): Place(
    ('value', 'params'), ('value', 'policy.path'), scalar=True, block='policy'
  ),
}


def convert(
  source: str,
  target: str,
  *,
  part: str = 'policy',
  base: str | None = None,
  dtype: str | None = None,
  checkpoint: bool = False,
) -> pathlib.Path:
  """Does what the module says; returns the folder that was written.

  Args:
    source: SRC.
    target: DST.
    part: model of a training state: 'policy' (its only or main one) or 'value'.
    base: model path that gives a checkpoint's architecture and tokenizer.
    dtype: of the parameters written; None keeps what they have.
    checkpoint: also write DST/checkpoints/0.

  Raises:
    FileNotFoundError: there is no model, or no such checkpoint.
    ValueError: DST holds something, or SRC cannot be converted.
  """
  out = pathlib.Path(target)
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ValueError(f'{target} exists already; name a new folder')
  workdir, step_dir = _find_checkpoint(source)
  if step_dir is not None:
    model, params, tokenizer = _from_checkpoint(workdir, step_dir, part, base)
  else:
    model, params, tokenizer = _from_folder(locate.resolve(source), dtype)
  if dtype is not None:
    params = jax.tree.map(lambda x: x.astype(dtype), params)
  if workdir is not None:
    hf.save(out, model, params, tokenizer)
    return out
  hf.save(out / 'model', model, params, tokenizer)
  if checkpoint:
    with checkpoint_lib.Checkpointer(out / 'checkpoints') as writer:
      writer.save(0, {'params': params})
  return out / 'model'


def _find_checkpoint(
  source: str,
) -> tuple[pathlib.Path | None, pathlib.Path | None]:
  """(workdir, folder of the checkpoint to read) of SRC.

  Both are None for anything that is no workdir; the second is None where the
  workdir's finished model is meant.
  """
  path = pathlib.Path(source)
  if path.parent.name == 'checkpoints':
    if not path.is_dir():
      raise FileNotFoundError(f'{source}: there is no such checkpoint')
    return path.parent.parent, path
  if path.name == 'checkpoints':
    return path.parent, _newest(path)
  if (path / 'model' / 'config.json').is_file():
    return path, None
  if (path / 'checkpoints').is_dir():
    return path, _newest(path / 'checkpoints')
  return None, None


def _newest(folder: pathlib.Path) -> pathlib.Path:
  # Read from names: opening it as a run does would tidy up a live one.
  steps = [p for p in folder.glob('*') if p.name.isdigit() and p.is_dir()]
  if not steps:
    raise FileNotFoundError(f'{folder}: there is no checkpoint here')
  return max(steps, key=lambda p: int(p.name))


def _from_folder(path: str, dtype: str | None):
  """Model, parameters and tokenizer of a Hugging Face folder."""
  scalar = isinstance(hf.describe(path), heads.ScalarModel)
  load = hf.load_reward_model if scalar else hf.load
  return *load(path, dtype=dtype), _tokenizer(path)


def _from_checkpoint(
  workdir: pathlib.Path, step_dir: pathlib.Path, part: str, base: str | None
):
  """Model, parameters and tokenizer of a training state."""
  place, path, block = _place(workdir, part, base)
  model = hf.describe(path)
  if place.scalar is not None:
    trunk = model if isinstance(model, LanguageModel) else model.trunk
    model = heads.ScalarModel(trunk) if place.scalar else trunk
  frozen = {}
  if block is not None:
    dtype = _lora.base_dtype(block)
    adapters = _lora.describe(block, model)
    model = with_options(model, lora=adapters, int8=dtype == 'int8')
    frozen = _frozen(model, path, dtype)
  abstract = model.abstract_params()
  mesh = sharding.make_mesh()
  where = sharding.shardings(model.param_axes(), abstract, mesh)
  wanted: Any = jax.tree.map(
    lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w),
    abstract,
    where,
  )
  _, wanted = lora.split(model, wanted)
  for key in reversed(place.keys):
    wanted = {key: wanted}
  trained = checkpoint_lib.restore_subtree(step_dir, wanted)
  for key in place.keys:
    trained = trained[key]
  model, params = lora.merge(model, lora.join(frozen, trained))
  return model, params, _tokenizer(path)


def _frozen(model: Any, path: str, dtype: str) -> Any:
  """What of a model with adapters is not in its checkpoints."""
  if model.config.lora is None:
    return {}
  _, params = hf.load(path, dtype=dtype, mesh=sharding.make_mesh())
  if isinstance(model, heads.ScalarModel):
    params = {'trunk': heads.trunk_part(params)}
  return lora.split(model, params)[0]


def _place(
  workdir: pathlib.Path, part: str, base: str | None
) -> tuple[Place, str, Mapping[str, Any] | None]:
  """Where the model lies in a workdir's states, the path of its base, and the
  block of config.json that names its adapters, if one does.
  """
  file = workdir / 'config.json'
  if not file.is_file():  # written by --checkpoint
    place = Place(('params',), (), scalar=None)
    return place, base or locate.resolve(str(workdir)), None
  config = json.loads(file.read_text())
  place = PLACES.get((config.get('stage'), part))
  if place is None:
    have = ', '.join(f'{stage} ({name})' for stage, name in PLACES)
    raise ValueError(
      f'{workdir}: stage {config.get("stage")!r} keeps no {part} model in its '
      f'checkpoints; these do: {have}'
    )
  found = base or next(filter(None, (_get(config, k) for k in place.base)), '')
  if not found:
    raise ValueError(
      f'{file} names no model that this run started from; give one of the same '
      'architecture with --base'
    )
  block = config[place.block]
  return place, locate.resolve(found), block if 'lora' in block else None


def _get(config: Mapping[str, Any], dotted: str) -> Any:
  value: Any = config
  for key in dotted.split('.'):
    value = value.get(key) if isinstance(value, Mapping) else None
  return value


def _tokenizer(path: str):
  """The tokenizer of a model path; None where a folder has none."""
  try:
    return tokenizer_lib.load_tokenizer(path)
  except FileNotFoundError:
    print(f'note: {path} has no tokenizer; none is written', file=sys.stderr)
    return None


def main(argv: Sequence[str] | None = None) -> None:
  """Entry point."""
  parser = argparse.ArgumentParser(
    'python -m rlaif_jax.convert',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('source', metavar='SRC')
  parser.add_argument('target', metavar='DST')
  parser.add_argument('--part', choices=('policy', 'value'), default='policy')
  parser.add_argument('--base', metavar='PATH')
  parser.add_argument('--dtype', choices=DTYPES)
  parser.add_argument('--checkpoint', action='store_true')
  args = parser.parse_args(argv)
  try:
    written = convert(**vars(args))
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
  print(f'wrote {written}')


if __name__ == '__main__':
  main()
