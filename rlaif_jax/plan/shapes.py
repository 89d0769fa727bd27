"""From a model path of a config to the model, without its weights."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import huggingface_hub
import jax
from absl import logging
from ml_collections import ConfigDict

from rlaif_jax import models, offload, sharding
from rlaif_jax.models import heads, locate, weights
from rlaif_jax.stages import _lora, _options

# Name -> (hub id of those weights, config.json as far as shapes go).
SHAPES: Mapping[str, tuple[str, dict[str, Any]]] = {
  'gemma2_2b': (
    'google/gemma-2-2b',
    dict(
      model_type='gemma2',
      vocab_size=256000,
      hidden_size=2304,
      intermediate_size=9216,
      num_hidden_layers=26,
      num_attention_heads=8,
      num_key_value_heads=4,
      head_dim=256,
      query_pre_attn_scalar=256,
      sliding_window=4096,
      max_position_embeddings=8192,
      torch_dtype='bfloat16',
    ),
  ),
  'gemma2_9b': (
    'google/gemma-2-9b',
    dict(
      model_type='gemma2',
      vocab_size=256000,
      hidden_size=3584,
      intermediate_size=14336,
      num_hidden_layers=42,
      num_attention_heads=16,
      num_key_value_heads=8,
      head_dim=256,
      query_pre_attn_scalar=256,
      sliding_window=4096,
      max_position_embeddings=8192,
      torch_dtype='bfloat16',
    ),
  ),
  'llama3_8b': (
    'meta-llama/Meta-Llama-3-8B',
    dict(
      model_type='llama',
      vocab_size=128256,
      hidden_size=4096,
      intermediate_size=14336,
      num_hidden_layers=32,
      num_attention_heads=32,
      num_key_value_heads=8,
      max_position_embeddings=8192,
      rope_theta=500000.0,
      rms_norm_eps=1e-5,
      tie_word_embeddings=False,
      torch_dtype='bfloat16',
    ),
  ),
  'qwen3_8b': (
    'Qwen/Qwen3-8B',
    dict(
      model_type='qwen3',
      vocab_size=151936,
      hidden_size=4096,
      intermediate_size=12288,
      num_hidden_layers=36,
      num_attention_heads=32,
      num_key_value_heads=8,
      head_dim=128,
      max_position_embeddings=40960,
      rope_theta=1000000.0,
      tie_word_embeddings=False,
      torch_dtype='bfloat16',
    ),
  ),
}


@dataclasses.dataclass(frozen=True)
class Sharded:
  """A model, and its parameters as shapes that say where they go."""

  model: Any  # LanguageModel or ScalarModel
  params: Any


def hf_config(path: str) -> dict[str, Any]:
  """config.json of a model path: a name or hub id of `SHAPES`, or as in
  `models.locate`. Weights are not looked at.

  Raises:
    ValueError: an empty path.
    FileNotFoundError: there is no such model.
  """
  # An instruction-tuned sibling has the same shapes.
  base = re.sub(r'-(it|Instruct)$', '', path)
  for name, (hub_id, config) in SHAPES.items():
    if base in (name, hub_id):
      return dict(config)
  folder = pathlib.Path(locate.resolve(path))
  if not folder.is_dir():
    try:
      found = huggingface_hub.hf_hub_download(path, 'config.json')
    except (huggingface_hub.errors.HfHubHTTPError, OSError, ValueError) as e:
      raise FileNotFoundError(
        f'{path}: no such folder, the hub did not give its config.json, and '
        f'it is none of the known shapes: {", ".join(SHAPES)}'
      ) from e
    folder = pathlib.Path(found).parent
  return json.loads((folder / 'config.json').read_text())


def file_dtype(config: Mapping[str, Any]) -> str:
  """Type of the weights in a model's folder, by its config.json."""
  return config.get('dtype') or config.get('torch_dtype') or 'float32'


def language_model(
  config: Mapping[str, Any],
  mesh: jax.sharding.Mesh,
  rules: Mapping[str, Any],
  **options: Any,
) -> Sharded:
  """What `hf.load` gives for a config.json, but for the numbers."""
  model = models.build(config, **options)
  model = dataclasses.replace(model, rules=sharding.freeze_rules(rules))
  return place(model, mesh, rules)


def policy(
  block: ConfigDict, config: Mapping[str, Any], mesh, rules
) -> Sharded:
  """What `stages.common.load_policy` gives for a model block."""
  options = {**_options.running(block), **weights_of(_lora.base_dtype(block))}
  found = language_model(config, mesh, rules, **options)
  lora = _lora.describe(block, found.model)
  if lora is None:
    return found
  return place(models.with_options(found.model, lora=lora), mesh, rules)


def weights_of(dtype: str) -> dict[str, Any]:
  """Options of a model whose weights were loaded as this type."""
  if dtype == 'int8':
    return dict(param_dtype='bfloat16', int8=True)
  return dict(param_dtype=dtype)


def scalar(trunk: Sharded, mesh, rules) -> Sharded:
  """What `stages.common.scalar_from` gives."""
  return place(heads.ScalarModel(trunk.model), mesh, rules)


def offloaded(found: Sharded) -> Sharded:
  """The model as `hf.load(offload=True)` has it."""
  where = jax.tree.map(lambda x: x.sharding, found.params)
  where = weights.offloaded(where, found.params)
  if not any(map(offload.is_in_host_memory, jax.tree.leaves(where))):
    logging.warning(
      'The compiler knows no host memory of these chips: offloaded weights are '
      'planned as if they were on the chip.'
    )
  return Sharded(found.model, attach(found.params, where))


def place(model: Any, mesh: jax.sharding.Mesh, rules) -> Sharded:
  """The model with its parameters as the rules shard them on `mesh`."""
  abstract = model.abstract_params()
  where = sharding.shardings(model.param_axes(), abstract, mesh, rules)
  return Sharded(model, attach(abstract, where))


def attach(tree: Any, where: Any) -> Any:
  """Shapes that carry their shardings; `where` is one of them or a tree."""
  if isinstance(where, jax.sharding.Sharding):
    where = jax.tree.map(lambda _: where, tree)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, where
  )
