"""LoRA in stages: the `lora` block of a model, and what RL's models share."""

import dataclasses
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from rlaif_jax.core.types import Params
from rlaif_jax.models import Lora, lora, peft, with_options
from rlaif_jax.models.config import PROJECTIONS
from rlaif_jax.stages import _options

# Where a stage leaves its adapters, in the workdir.
FOLDER = 'adapter'


def config() -> ConfigDict:
  """Adapters to train in place of the model; none by default."""
  c = ConfigDict()
  c.rank = 0  # 0 = train all parameters
  c.alpha = 16.0  # an adapter's output is scaled by alpha / rank
  c.targets = PROJECTIONS  # which projections have one
  c.path = ''  # start from this PEFT folder, which says all of the above
  # Of the frozen parameters: float32, bfloat16 (half the memory) or int8 (half
  # of that for projections; the rest is bfloat16).
  c.base_dtype = 'float32'
  return c


def base_dtype(block: Any) -> str:
  """Type of the parameters of a model block, a ConfigDict or its JSON.

  Parameters that are trained are float32 in any case.

  Raises:
    ValueError: adapters on a base of a type not in `_options.FROZEN_DTYPES`.
  """
  options = block['lora']
  if not (options['rank'] or options['path']):
    return 'float32'
  if options['base_dtype'] not in _options.FROZEN_DTYPES:
    raise ValueError(
      f'lora.base_dtype={options["base_dtype"]!r} is not supported; supported: '
      f'{", ".join(_options.FROZEN_DTYPES)}'
    )
  return options['base_dtype']


def describe(block: Any, model: Any) -> Lora | None:
  """The adapters that `model` gets by its block, a ConfigDict or its JSON.

  Raises:
    FileNotFoundError: there is no adapter at `lora.path`.
    ValueError: the block asks for what cannot be.
  """
  options = block['lora']
  if options['path']:
    return peft.load(_folder(block), model)[0]
  if not options['rank']:
    return None
  targets = tuple(options['targets'])
  return Lora(options['rank'], float(options['alpha']), targets)


def like(block: ConfigDict, path: str, model: Any) -> ConfigDict:
  """A model block for `path`, to be loaded as `model` was by its `block`.

  Where that has adapters it gets new ones, which change nothing as they are.
  """
  block = block.copy_and_resolve_references()
  block.path = path
  if block.lora.path:
    block.lora.update(path='', **dataclasses.asdict(model.config.lora))
  return block


def start(
  block: ConfigDict, model: Any, params: Params, seed: int
) -> tuple[Any, Params]:
  """The model with the adapters that its block names, new or from a folder.

  Raises:
    FileNotFoundError: there is no adapter at `lora.path`.
    ValueError: the block asks for what cannot be.
  """
  if not block.lora.path:
    key = jax.random.key(seed)
    return lora.attach(model, params, describe(block, model), key)
  found, adapters = peft.load(_folder(block), model)
  return with_options(model, lora=found), lora.join(params, adapters)


def _folder(block: Any) -> pathlib.Path:
  """The PEFT folder at `lora.path`, which may be a stage's workdir.

  Raises:
    ValueError: a rank is given too, or the model is that stage's, which has
      the adapters merged into it.
  """
  path = pathlib.Path(block['lora']['path'])
  if block['lora']['rank']:
    raise ValueError(
      f'lora.rank={block["lora"]["rank"]} and lora.path={path}: the folder has '
      'a rank, alpha and targets of its own; leave lora.rank at 0'
    )
  if not (path / FOLDER).is_dir():
    return path
  if pathlib.Path(block['path']).resolve() == path.resolve():
    raise ValueError(
      f'{path}: its model has its adapters merged into it, so they would count '
      'twice; start from what that stage started from'
    )
  return path / FOLDER
