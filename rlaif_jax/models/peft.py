"""PEFT adapter folders: adapter_config.json and adapter_model.safetensors."""

import json
import math
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from rlaif_jax import sharding
from rlaif_jax.core import types
from rlaif_jax.models import (
  lora,
  peft_modules,
  safetensors_io,
  weights,
  with_options,
)
from rlaif_jax.models.config import PROJECTIONS, Lora
from rlaif_jax.models.peft_modules import Pair

CONFIG, WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'

_PREFIX = 'base_model.model.'
_SCORE = 'score'  # the module of a ScalarModel's head
# Set, these change what an adapter computes, or what it is put on.
_REFUSED = (
  'use_dora',
  'use_qalora',
  'use_bdlora',
  'lora_bias',
  'layer_replication',
  'target_parameters',
  'trainable_token_indices',
  'alora_invocation_tokens',
  'arrow_config',
)
# Ways to begin that leave the base model as it is.
_PLAIN_INIT = (None, True, False, 'gaussian', 'orthogonal', 'eva')


# -- writing ------------------------------------------------------------------


def save(
  folder: str | pathlib.Path,
  model: Any,
  params: types.Params,
  base_path: str,
) -> None:
  """Writes the adapters of `model`; every process must call it.

  The head of a ScalarModel goes along, as a module that was saved whole.

  Args:
    folder: where to; made if absent.
    model: with adapters.
    params: its parameters, or only those that are trained.
    base_path: folder or hub id of the model that the adapters were put on.

  Raises:
    ValueError: the model has no adapters.
  """
  if model.config.lora is None:
    raise ValueError(f'{folder}: the model has no adapters to be written')
  folder, leader = pathlib.Path(folder), jax.process_index() == 0
  _, trained = lora.split(model, params)
  leaves = weights.flatten(sharding.to_host(trained))
  leaves = {k.removeprefix('trunk/'): v for k, v in leaves.items()}
  found = {_PREFIX + k: v for k, v in _tensors(model, leaves).items()}
  if leader:
    folder.mkdir(parents=True, exist_ok=True)
  safetensors_io.write(
    folder,
    {k: (v.shape, v.dtype) for k, v in found.items()},
    found.__getitem__,
    max_shard_bytes=sys.maxsize,
    leader=leader,
  )
  if leader:
    (folder / safetensors_io.SINGLE).replace(folder / WEIGHTS)
    text = json.dumps(_config_json(model, leaves, base_path), indent=2)
    (folder / CONFIG).write_text(text + '\n')


def _tensors(
  model: Any, leaves: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """All tensors by their names in the base model."""
  found = {}
  modules = [m for m in peft_modules.of(model) if m.adapted(leaves)]
  for layer in range(model.config.num_layers):
    for module in modules:
      a, b = module.write(leaves, layer)
      found |= dict(zip(_keys(module.name.format(layer)), (a, b), strict=True))
  if 'head/kernel' in leaves:
    found[f'{_SCORE}.weight'] = leaves['head/kernel'][None]
    # transformers has none; left out, it does not change which is preferred.
    if leaves['head/bias']:
      found[f'{_SCORE}.bias'] = leaves['head/bias'][None]
  return found


def _config_json(
  model: Any, leaves: Mapping[str, Any], base_path: str
) -> dict[str, Any]:
  """adapter_config.json."""
  c, scalar = model.config.lora, hasattr(model, 'trunk')
  modules = peft_modules.of(model)
  counts = {m.name: len(m.adapted(leaves)) for m in modules}
  names = peft_modules.short_names(
    [name for name, count in counts.items() if count], list(counts)
  )
  fused = {names[name]: n for name, n in counts.items() if n > 1}
  return {
    'alpha_pattern': {name: n * c.alpha for name, n in fused.items()},
    'base_model_name_or_path': base_path,
    'bias': 'none',
    'fan_in_fan_out': modules[0].fan_in_fan_out,
    'inference_mode': True,
    'init_lora_weights': True,
    'lora_alpha': c.alpha,
    'lora_dropout': 0.0,
    'modules_to_save': [_SCORE] if scalar else None,
    'peft_type': 'LORA',
    'r': c.rank,
    'rank_pattern': {name: n * c.rank for name, n in fused.items()},
    'target_modules': sorted(set(names.values())),
    'task_type': 'SEQ_CLS' if scalar else 'CAUSAL_LM',
    'use_dora': False,
    'use_rslora': False,
  }


def _keys(name: str) -> list[str]:
  """Names of a module's A and B."""
  return [f'{name}.lora_{matrix}.weight' for matrix in 'AB']


# -- reading ------------------------------------------------------------------


def load(folder: str | pathlib.Path, model: Any) -> tuple[Lora, types.Params]:
  """Reads adapters for `model`, onto the mesh set with `jax.set_mesh`.

  Ranks and scales may differ between modules and layers: all get the largest
  rank, filled up with zeros, and B takes up the difference in scale.

  Args:
    folder: as PEFT writes it.
    model: that they belong to. A ScalarModel's head is read too.

  Returns:
    What `with_options(model, lora=...)` takes, and the tree to be joined to
    its parameters; adapters are float32.

  Raises:
    FileNotFoundError: there is no adapter.
    ValueError: it is of a kind that is not supported, or of another model.
  """
  folder, scalar = pathlib.Path(folder), hasattr(model, 'trunk')
  config = _read_config(folder, scalar)
  found = _read_tensors(folder)
  head = _take_head(found) if scalar else {}
  pairs: dict[str, list[Pair]] = {}
  modules = peft_modules.of(model)
  for module in modules:
    layers = [
      _take(folder, config, found, module.name.format(layer))
      for layer in range(model.config.num_layers)
    ]
    if any(layers) and not all(layers):
      raise ValueError(
        f'{folder}: {module.name.format(layers.index(None))} has no adapter, '
        'but other layers have; supported: adapters in every layer'
      )
    if all(layers):
      pairs |= module.read(layers)
  if found or not pairs:
    raise ValueError(
      f'{folder}: not adapters of projections of this {model.config.family}: '
      f'{", ".join(sorted(found)[:8]) or "nothing"}; supported are '
      f'{", ".join(m.name for m in modules)}'
    )
  return _assemble(model, pairs, head, config['lora_alpha'] / config['r'])


def _assemble(
  model: Any,
  pairs: Mapping[str, Sequence[Pair]],
  head: Mapping[str, Any],
  scale: float,
) -> tuple[Lora, types.Params]:
  """Lora and tree of {path: A and, times its scale, B in every layer}."""
  rank = max(len(b) for layers in pairs.values() for _, b in layers)
  names = {path.rpartition('/')[2] for path in pairs}
  found = Lora(rank, scale * rank, tuple(p for p in PROJECTIONS if p in names))
  model = with_options(model, lora=found)
  root = 'trunk/' if hasattr(model, 'trunk') else ''
  leaves = {}
  for path, layers in pairs.items():
    a, b = zip(*layers, strict=True)
    leaves[f'{root}{path}/{lora.A}'] = _stack(a, rank, axis=-1)
    leaves[f'{root}{path}/{lora.B}'] = _stack(b, rank, axis=0) / scale
  place = jax.jit(lambda tree: tree, out_shardings=lora.shardings(model))
  return found, lora.join(place(weights.unflatten(leaves)), head)


def _take(
  folder: pathlib.Path,
  config: Mapping[str, Any],
  found: dict[str, np.ndarray],
  name: str,
) -> Pair | None:
  """Takes A and B of a module out of `found`; B times its scale."""
  a, b = (found.pop(key, None) for key in _keys(name))
  if a is None and b is None:
    return None
  if a is None or b is None or len(a) != b.shape[1]:
    raise ValueError(f'{folder}: A and B of {name} do not belong together')
  alphas = [
    value
    for pattern, value in (config.get('alpha_pattern') or {}).items()
    if re.fullmatch(rf'(.*\.)?({pattern})', name)
  ]
  alpha = (alphas or [config['lora_alpha']])[0]
  by = math.sqrt(len(a)) if config.get('use_rslora') else len(a)
  return a, b * np.float32(alpha / by)


def _take_head(found: dict[str, np.ndarray]) -> types.Params:
  """Takes a ScalarModel's head out of `found`; {} where there is none."""
  kernel = found.pop(f'{_SCORE}.weight', None)
  bias = found.pop(f'{_SCORE}.bias', np.zeros(1, np.float32))
  if kernel is None:
    return {}
  return {
    'head': {'kernel': jnp.asarray(kernel[0]), 'bias': jnp.asarray(bias[0])}
  }


def _stack(layers: Sequence[np.ndarray], rank: int, axis: int) -> np.ndarray:
  """[L, ...] of all layers, filled up with zeros to `rank` along `axis`."""

  def fill(x: np.ndarray) -> np.ndarray:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, rank - x.shape[axis])
    return np.pad(x, widths)

  return np.stack([fill(x) for x in layers])


def _read_config(folder: pathlib.Path, scalar: bool) -> dict[str, Any]:
  """adapter_config.json, found to be of a supported kind."""
  file = folder / CONFIG
  if not file.is_file():
    raise FileNotFoundError(f'{folder}: no adapter here ({CONFIG} is missing)')
  try:
    config = json.loads(file.read_text())
  except json.JSONDecodeError as e:
    raise ValueError(f'{file}: not valid JSON ({e})') from e
  wrong = [key for key in _REFUSED if config.get(key)]
  wrong += ['peft_type'] if config.get('peft_type') != 'LORA' else []
  wrong += ['bias'] if config.get('bias', 'none') != 'none' else []
  if config.get('init_lora_weights') not in _PLAIN_INIT:
    wrong.append('init_lora_weights')
  heads = {_SCORE, 'classifier'} if scalar else set()
  if not heads.issuperset(config.get('modules_to_save') or ()):
    wrong.append('modules_to_save')
  if wrong:
    values = ', '.join(f'{key}={config.get(key)!r}' for key in wrong)
    raise ValueError(
      f'{file}: {values} is not supported; supported: plain LORA of '
      'projections, without biases and other modules'
    )
  return config


def _read_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """All tensors by their names in the base model, float32."""
  file = folder / WEIGHTS
  if not file.is_file():
    if any(folder.glob('*.bin')):
      raise ValueError(
        f'{folder}: a PyTorch pickle, which can run code when opened, is not '
        'read; save the adapter with safe_serialization=True'
      )
    raise FileNotFoundError(f'{folder}: {WEIGHTS} is missing')
  try:
    found = load_file(file)
  except Exception as e:  # the library's error type is not public
    raise ValueError(f'{file}: not a whole safetensors file ({e})') from e
  return {
    key.removeprefix(_PREFIX): value.astype(np.float32)
    for key, value in found.items()
  }
