"""What all programs of a plan are made of: shapes that know where they go."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from rlaif_jax import offload
from rlaif_jax.plan import shapes, work
from rlaif_jax.training import train_state


@dataclasses.dataclass(frozen=True)
class Program:
  """One program, and what is in a chip's memory while it runs.

  Attributes:
    name: step and program.
    lower: gives a jax.stages.Lowered, with the mesh set; takes the programs of
      the plan that are compiled already, by their names.
    params: weights among its arguments.
    optimizer: state of optimisers among its arguments.
    others: its other arguments.
    resident: what the stage keeps on the devices beside the arguments.
    work: of one run.
  """

  name: str
  lower: Callable[[Mapping[str, Any]], Any]
  params: Any
  optimizer: Any
  others: Any
  resident: Any
  work: work.Work

  def beside(self, resident: Any) -> 'Program':
    """The program in a stage that holds all of `resident`."""
    return dataclasses.replace(self, resident=resident)

  def argument_bytes(self) -> int:
    """What its arguments take on each chip."""
    return bytes_per_chip(self.params, self.optimizer, self.others)

  def resident_bytes(self) -> int:
    """What stays beside them, in the same memory."""
    mine = (self.params, self.optimizer, self.others)
    return bytes_per_chip(mine, self.resident) - bytes_per_chip(mine)


@dataclasses.dataclass(frozen=True)
class Context:
  """What a stage stands in: its mesh, rules and the steps beside it."""

  mesh: jax.sharding.Mesh
  rules: Mapping[str, Any]
  steps: Mapping[str, ConfigDict] = dataclasses.field(default_factory=dict)

  def start(self, path: str) -> tuple[dict[str, Any], str]:
    """(config.json, type of the weights) of a model path.

    A step's product has the shapes of what it started from, in float32.

    Raises:
      ValueError: a step that there is not.
    """
    if not path.startswith('step:'):
      config = shapes.hf_config(path)
      return config, shapes.file_dtype(config)
    block = self.steps.get(path.removeprefix('step:'))
    if block is None:
      raise ValueError(f'{path}: the config has no step of this name')
    inner = block.policy if 'policy' in block else block.model
    return self.start(inner.path)[0], 'float32'

  def policy(self, block: ConfigDict, path: str = '') -> shapes.Sharded:
    """What a stage loads for a model block, from `path` if that is given."""
    config, _ = self.start(path or block.path)
    return shapes.policy(block, config, self.mesh, self.rules)

  def frozen(
    self, path: str, weights: str, offload: bool, **options: Any
  ) -> shapes.Sharded:
    """A language model that only computes, its weights of a type, '' = own."""
    config, own = self.start(path)
    options |= shapes.weights_of(weights or own)
    found = shapes.language_model(config, self.mesh, self.rules, **options)
    return shapes.offloaded(found) if offload else found

  def frozen_scalar(
    self, path: str, weights: str, offload: bool
  ) -> shapes.Sharded:
    """A reward model that only computes."""
    found = self.scalar(self.frozen(path, weights, False))
    return shapes.offloaded(found) if offload else found

  def scalar(self, trunk: shapes.Sharded) -> shapes.Sharded:
    """A reward or value model on a trunk."""
    return shapes.scalar(trunk, self.mesh, self.rules)

  def rows(self, *shape: int, dtype: Any = jnp.int32) -> Any:
    """An array of a batch, its rows split over the mesh."""
    where = NamedSharding(self.mesh, PartitionSpec(('data', 'fsdp')))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

  def replicated(self, make: Callable[[], Any]) -> Any:
    """What `make` gives, whole on every chip."""
    where = NamedSharding(self.mesh, PartitionSpec())
    return shapes.attach(jax.eval_shape(make), where)

  def key(self) -> Any:
    """A random key."""
    return self.replicated(lambda: jax.random.key(0))

  def state(self, params: Any, tx) -> train_state.TrainState:
    """What `train_state.create` gives for these parameters."""
    wide = jax.tree.map(_as_float32, params)
    where = jax.tree.map(lambda x: x.sharding, wide)
    return train_state.abstract_state(wide, where, tx, self.mesh)


def bytes_per_chip(*trees: Any) -> int:
  """What abstract trees take on each chip; a leaf that repeats counts once.

  What waits in host memory takes nothing.
  """
  leaves = {id(leaf): leaf for leaf in jax.tree.leaves(trees)}
  total = 0
  for leaf in leaves.values():
    if offload.is_in_host_memory(leaf.sharding):
      continue
    size = 1
    for n in leaf.sharding.shard_shape(leaf.shape):
      size *= n
    # Random keys have no type that NumPy knows, and are 8 bytes.
    total += size * getattr(leaf.dtype, 'itemsize', 8)
  return total


def _as_float32(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
  floating = jnp.issubdtype(x.dtype, jnp.floating)
  dtype = jnp.float32 if floating else x.dtype
  return jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)
