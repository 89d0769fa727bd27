"""Finding a model family, and what all families' configs have in common.

A family is a module of this folder, named by its Hugging Face `model_type`:

  from_hf(config) -> ModelConfig      what config.json means
  to_hf(config) -> dict               config.json of a ModelConfig
  NAME_MAP: dict[str, Tensor]         parameter path -> tensor of the file
  PREFIX                              of the keys that the bare trunk also has
  CAUSAL_LM, CLASSIFIER               names of transformers' classes
  IGNORED                             patterns of keys that hold no parameter
  ALIASES                             {key: other name it may have}; optional
  NULL_KEYS                           of config.json, to be written as null
                                      where nothing is known; optional
"""

import dataclasses
import importlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from rlaif_jax.models.config import ModelConfig, Origin

# Fields of ModelConfig that config.json says nothing of.
_RUNNING = (
  'dtype',
  'param_dtype',
  'remat',
  'attention',
  'cache_layout',
  'gather',
  'lora',
  'int8',
)

FULL, SLIDING = 'full_attention', 'sliding_attention'

_ACTIVATIONS = {
  'gelu': 'gelu',
  'gelu_accurate': 'gelu_tanh',
  'gelu_fast': 'gelu_tanh',
  'gelu_new': 'gelu_tanh',
  'gelu_python': 'gelu',
  'gelu_python_tanh': 'gelu_tanh',
  'gelu_pytorch_tanh': 'gelu_tanh',
  'relu': 'relu',
  'silu': 'silu',
  'swish': 'silu',
  'tanh': 'tanh',
}


def supported() -> tuple[str, ...]:
  """Names of all families, found by looking into this folder."""
  names = (p.stem for p in pathlib.Path(__file__).parent.glob('*.py'))
  return tuple(sorted(n for n in names if _module(n) is not None))


def find(model_type: str | None) -> ModuleType:
  """The module of a family.

  Raises:
    ValueError: there is none of that name.
  """
  module = _module(model_type) if model_type else None
  if module is None:
    raise ValueError(
      f'config.json: model_type {model_type!r} is not supported; supported: '
      f'{", ".join(supported())}'
    )
  return module


def config_from_hf(config: Mapping[str, Any]) -> ModelConfig:
  """ModelConfig of a config.json.

  Raises:
    ValueError: a family or feature that is not supported, or a key missing.
  """
  if config.get('quantization_config'):
    kind = dict(config['quantization_config']).get('quant_method', 'unknown')
    raise ValueError(
      f'config.json: quantised weights ({kind}) are not supported; supported: '
      'float32, bfloat16 and float16 safetensors'
    )
  module = find(config.get('model_type'))
  try:
    found = module.from_hf(config)
  except KeyError as e:
    raise ValueError(
      f'config.json: {config["model_type"]} needs the key {e}'
    ) from e
  return dataclasses.replace(
    found, origin=Origin(config=json.dumps(dict(config)))
  )


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
  """config.json of a ModelConfig: as it came, wherever it still holds."""
  module = find(config.family)
  origin = json.loads(config.origin.config)
  if origin and module.from_hf(origin) == _architecture(config):
    return origin
  # Written in the older form, which all versions read.
  origin.pop('rope_parameters', None)
  unknown = dict.fromkeys(getattr(module, 'NULL_KEYS', ()))
  keys = {'model_type': config.family, **module.to_hf(config)}
  return {**unknown, **origin, **keys}


def activation(name: str) -> str:
  """Our name of an activation function of a config.json.

  Raises:
    ValueError: it is not supported.
  """
  if name not in _ACTIVATIONS:
    raise ValueError(
      f'config.json: activation {name!r} is not supported; supported: '
      f'{", ".join(sorted(_ACTIVATIONS))}'
    )
  return _ACTIVATIONS[name]


def activation_to_hf(name: str) -> str:
  """The name that transformers has for our activation `name`."""
  return {'gelu_tanh': 'gelu_new'}.get(name, name)


def refuse(config: Mapping[str, Any], *keys: str) -> None:
  """Raises ValueError where one of `keys` is set: it would change results."""
  for key in keys:
    if config.get(key):
      raise ValueError(
        f'config.json: {config["model_type"]} with {key}={config[key]!r} is '
        f'not supported; supported: without {key}'
      )


def windows(
  config: Mapping[str, Any], kinds: Sequence[str], window: int | None
) -> tuple[int, ...]:
  """Attention window of each layer from transformers' `layer_types`.

  Args:
    config: config.json, whose `layer_types` wins over `kinds`.
    kinds: of every layer, 'sliding_attention' or 'full_attention'.
    window: of the sliding layers.

  Returns:
    One number a layer, 0 = global; () where all are.

  Raises:
    ValueError: another kind, another number of layers, or no window.
  """
  kinds = config.get('layer_types') or kinds
  if unknown := sorted(set(kinds) - {SLIDING, FULL}):
    raise ValueError(
      f'config.json: layer type {", ".join(unknown)} is not supported; '
      f'supported: {FULL}, {SLIDING}'
    )
  if len(kinds) != config['num_hidden_layers']:
    raise ValueError(
      f'config.json: layer_types names {len(kinds)} layers, num_hidden_layers '
      f'is {config["num_hidden_layers"]}'
    )
  if SLIDING not in kinds:
    return ()
  if not window:
    raise ValueError(
      'config.json: layers of type sliding_attention need a sliding_window'
    )
  return tuple(window if kind == SLIDING else 0 for kind in kinds)


def layer_types(c: ModelConfig) -> list[str]:
  """What `windows` reads, of a ModelConfig."""
  windows = c.windows or (0,) * c.num_layers
  return [SLIDING if window else FULL for window in windows]


def _module(name: str) -> ModuleType | None:
  """The family module `name`, None if there is none."""
  file = pathlib.Path(__file__).parent / f'{name}.py'
  if name.startswith('_') or not file.is_file():
    return None
  module = importlib.import_module(f'{__package__}.{name}')
  return module if hasattr(module, 'NAME_MAP') else None


def _architecture(config: ModelConfig) -> ModelConfig:
  """The config with all that says how it runs back at its default."""
  defaults = {
    f.name: f.default
    for f in dataclasses.fields(ModelConfig)
    if f.name in _RUNNING
  }
  return dataclasses.replace(config, **defaults)
