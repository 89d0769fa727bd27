"""Hugging Face folders: loading into device shards, and writing back.

A policy trained here loads in transformers, vLLM or TRL; a reward model made
elsewhere scores here. Keys, shapes and tied weights stay as the folder had
them.
"""

import dataclasses
import json
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, SingleDeviceSharding

from rlaif_jax import sharding
from rlaif_jax.core import types
from rlaif_jax.models import (
  LanguageModel,
  families,
  int8,
  locate,
  safetensors_io,
  weights,
  with_options,
)
from rlaif_jax.models.config import ModelConfig
from rlaif_jax.models.heads import ScalarModel
from rlaif_jax.models.tensors import Tensor

Model = LanguageModel | ScalarModel

_SCORE, _BIAS = 'score.weight', 'score.bias'
_HEAD = {
  'head/kernel': Tensor(_SCORE, '1 D', 'D'),
  'head/bias': Tensor(_BIAS, '1', ''),
}


def load(
  path: str | pathlib.Path,
  *,
  dtype: Any = None,
  offload: bool = False,
  mesh: Mesh | None = None,
  rules: sharding.Rules | None = None,
) -> tuple[LanguageModel, types.Params]:
  """Loads a causal language model.

  Args:
    path: a local folder with config.json and safetensors, or a hub id.
    dtype: of the parameters; None keeps the file's, bit by bit; 'int8' is for
      kernels to be frozen, see models/int8.py. Activations are float32 unless
      `models.with_options` says otherwise.
    offload: the parameters wait in host memory and come to the device where
      they are used, a layer at a time; for models that only compute.
    mesh: where to; None is the mesh set with `jax.set_mesh`, or else the
      default device. Each device's part is read by itself.
    rules: sharding rules over the default ones.

  Raises:
    FileNotFoundError: no such folder and no such model on the hub.
    ValueError: something is not supported, or the file's tensors are not
      exactly those of the model.
  """
  folder = locate.folder(path)
  reader = safetensors_io.Reader(folder)
  if _SCORE in reader.shapes:
    raise ValueError(
      f'{folder}: a reward model (it has {_SCORE}), not a language model; load '
      'it with load_reward_model'
    )
  model = LanguageModel(_model_config(reader), sharding.freeze_rules(rules))
  return _load(reader, model, dtype, offload, mesh)


def load_reward_model(
  path: str | pathlib.Path,
  *,
  dtype: Any = None,
  offload: bool = False,
  mesh: Mesh | None = None,
  rules: sharding.Rules | None = None,
) -> tuple[ScalarModel, types.Params]:
  """Loads a *ForSequenceClassification of one label; see `load`."""
  folder = locate.folder(path)
  reader = safetensors_io.Reader(folder)
  shape = reader.shapes.get(_SCORE)
  if shape is None or shape[0] != 1:
    found = f'has {shape[0]} labels' if shape else f'lacks {_SCORE}'
    raise ValueError(
      f'{folder}: not a reward model, it {found}; it takes a '
      '*ForSequenceClassification with one label'
    )
  trunk = LanguageModel(_model_config(reader), sharding.freeze_rules(rules))
  return _load(reader, ScalarModel(trunk), dtype, offload, mesh)


def describe(path: str | pathlib.Path) -> Model:
  """The model of a folder, of either kind, without its parameters."""
  reader = safetensors_io.Reader(locate.folder(path))
  trunk = LanguageModel(_model_config(reader))
  return ScalarModel(trunk) if _SCORE in reader.shapes else trunk


def save(
  path: str | pathlib.Path,
  model: Model,
  params: types.Params,
  tokenizer: Any = None,
  *,
  max_shard_bytes: int = safetensors_io.MAX_SHARD_BYTES,
) -> None:
  """Writes a folder that transformers loads; every process must call it.

  A ScalarModel becomes a *ForSequenceClassification with one label; its bias
  is written (as score.bias, which transformers leaves out) only where it is
  not 0. config.json comes last, so a folder that has it is whole.

  Args:
    path: the folder; files of an earlier model there are replaced.
    model: the model.
    params: its parameters, of the types to be written.
    tokenizer: anything with `save(folder)`, `eos_id` and `pad_id`.
    max_shard_bytes: begin another safetensors file beyond this size.

  Raises:
    ValueError: LoRA adapters or int8 kernels, which no such folder holds.
  """
  if model.config.lora is not None or model.config.int8:
    raise ValueError(
      'the model has LoRA adapters or int8 kernels; merge them with '
      'lora.merge, or write adapters with peft.save'
    )
  folder = pathlib.Path(path)
  leader = jax.process_index() == 0
  if leader:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'config.json').unlink(missing_ok=True)
  leaves = weights.flatten(params)
  if 'head/bias' in leaves and not np.any(
    sharding.to_host(leaves['head/bias'])
  ):
    del leaves['head/bias']
  weights.write(
    folder,
    _places(model),
    leaves,
    max_shard_bytes=max_shard_bytes,
    leader=leader,
  )
  if leader:
    if tokenizer is not None:
      tokenizer.save(folder)
    config = _config_json(model, leaves, tokenizer)
    _write_json(folder / 'generation_config.json', _generation(model, config))
    _write_json(folder / 'config.json', config)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('rlaif_jax.hf.save')


# -- loading ----------------------------------------------------------------


def _model_config(reader: safetensors_io.Reader) -> ModelConfig:
  """ModelConfig of a folder, with what it said kept as its origin."""
  folder = reader.folder
  config = _read_json(folder / 'config.json')
  if config is None:
    raise FileNotFoundError(f'{folder}: config.json is missing')
  found = families.config_from_hf(config)
  generation = _read_json(folder / 'generation_config.json') or {}
  family = families.find(found.family)
  aliases = getattr(family, 'ALIASES', {})
  origin = dataclasses.replace(
    found.origin,
    generation=json.dumps(generation),
    prefixed=any(k.startswith(family.PREFIX) for k in reader.shapes),
    renamed=tuple((k, a) for k, a in aliases.items() if a in reader.shapes),
  )
  return dataclasses.replace(found, origin=origin)


def _load(reader: safetensors_io.Reader, model: Model, dtype, offload, mesh):
  """Reads all parameters; returns (model, params)."""
  model = with_options(model, int8=dtype == 'int8')
  abstract = model.abstract_params()
  shapes = weights.flatten(abstract)
  places = _places(model)
  ignored = list(families.find(model.config.family).IGNORED)
  ignored += _tied_copy(reader, model)
  if _BIAS not in reader.shapes:
    places.pop('head/bias', None)
  weights.check(reader, places, shapes, ignored)
  where = _shardings(model, abstract, mesh)
  if offload:
    where = weights.offloaded(where, shapes)
  if model.config.int8:
    leaves = int8.read(reader, places, shapes, where)
  else:
    leaves = weights.read(reader, places, shapes, where, dtype)
  if 'head/bias' in shapes and 'head/bias' not in leaves:
    zero = np.zeros((), leaves['head/kernel'].dtype)
    leaves['head/bias'] = jax.make_array_from_callback(
      (), where['head/bias'], lambda _: zero
    )
  first = leaves[next(iter(places))]
  model = with_options(model, param_dtype=str(first.dtype))
  return model, weights.unflatten(leaves)


def _shardings(model: Model, abstract, mesh: Mesh | None) -> dict[str, Any]:
  """Where each parameter goes."""
  mesh = jax.sharding.get_mesh() if mesh is None else mesh
  if mesh.empty:
    here = SingleDeviceSharding(jnp.zeros(()).device)
    return dict.fromkeys(weights.flatten(abstract), here)
  rules = _trunk(model).rules
  return weights.flatten(
    sharding.shardings(model.param_axes(), abstract, mesh, rules)
  )


def _tied_copy(reader: safetensors_io.Reader, model: Model) -> list[str]:
  """Pattern of the unembedding's key where it repeats the token table.

  Raises:
    ValueError: config.json says that it does, the file says otherwise.
  """
  config = model.config
  names = families.find(config.family).NAME_MAP
  key = _key(config, names['unembedding/kernel'])
  if not config.tie_embeddings or key not in reader.shapes:
    return []
  table = _key(config, names['embed/tokens'])
  if table in reader.shapes and not weights.same(reader, table, key):
    raise ValueError(
      f'{reader.folder}: config.json says tie_word_embeddings, but {key} and '
      f'{table} differ; set it to false to keep both'
    )
  return [re.escape(key)]


# -- both ways --------------------------------------------------------------


def _trunk(model: Model) -> LanguageModel:
  return model.trunk if isinstance(model, ScalarModel) else model


def _places(model: Model) -> dict[str, Tensor]:
  """Where each parameter of `model` lies in its files."""
  c = model.config
  names = families.find(c.family).NAME_MAP
  have = weights.flatten(_trunk(model).abstract_params())
  dims = (('H', c.num_heads), ('K', c.num_kv_heads), ('h', c.head_dim))
  places = {
    path: dataclasses.replace(tensor, key=_key(c, tensor), dims=dims)
    for path, tensor in names.items()
    if path in have
  }
  if isinstance(model, LanguageModel):
    return places
  trunk = {
    f'trunk/{path}': tensor
    for path, tensor in places.items()
    if not path.startswith('unembedding/')
  }
  return trunk | _HEAD


def _key(config: ModelConfig, tensor: Tensor) -> str:
  """A tensor's key as the folder had it."""
  prefix = families.find(config.family).PREFIX
  key = dict(config.origin.renamed).get(tensor.key, tensor.key)
  return key if config.origin.prefixed else key.removeprefix(prefix)


def _read_json(path: pathlib.Path) -> dict[str, Any] | None:
  """A JSON file's object; None where there is no file."""
  if not path.is_file():
    return None
  try:
    return json.loads(path.read_text())
  except json.JSONDecodeError as e:
    raise ValueError(f'{path}: not valid JSON ({e})') from e


# -- saving -----------------------------------------------------------------


def _config_json(model: Model, leaves, tokenizer: Any) -> dict[str, Any]:
  """config.json: what the folder said, with what is written now over it."""
  config = families.config_to_hf(model.config)
  family = families.find(model.config.family)
  scalar = isinstance(model, ScalarModel)
  config['architectures'] = [family.CLASSIFIER if scalar else family.CAUSAL_LM]
  table = leaves['trunk/embed/tokens' if scalar else 'embed/tokens']
  config['dtype' if 'dtype' in config else 'torch_dtype'] = str(table.dtype)
  if scalar:
    config |= {'id2label': {'0': 'LABEL_0'}, 'label2id': {'LABEL_0': 0}}
  if tokenizer is not None:
    for key, value in (
      ('eos_token_id', tokenizer.eos_id),
      # A classifier finds the last real token by the padding after it.
      ('pad_token_id', tokenizer.pad_id if scalar else None),
    ):
      if config.get(key) is None and value is not None:
        config[key] = value
  return config


def _generation(model: Model, config: dict[str, Any]) -> dict[str, Any] | None:
  """generation_config.json: as it was, or the special ids, or none."""
  if isinstance(model, ScalarModel):
    return None
  if kept := json.loads(model.config.origin.generation):
    return kept
  keys = ('bos_token_id', 'eos_token_id', 'pad_token_id')
  found = {k: config[k] for k in keys if config.get(k) is not None}
  return found if 'eos_token_id' in found else None


def _write_json(path: pathlib.Path, value: dict[str, Any] | None) -> None:
  """Writes an object; None removes what an earlier save left."""
  if value is None:
    path.unlink(missing_ok=True)
  else:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + '\n')
