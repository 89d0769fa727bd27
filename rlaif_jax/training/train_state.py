"""What training changes, and where each part of it lives on the mesh."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from rlaif_jax.core.types import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Parameters (float32) with their optimiser."""

  step: Int[Array, '']  # steps made, applied or not
  params: Params
  opt_state: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RunningStats:
  """Count, mean and spread of all values so far (Chan et al. 1979)."""

  count: Float[Array, '']
  mean: Float[Array, '']
  squares: Float[Array, '']  # sum of squared distances from the mean

  @classmethod
  def zero(cls) -> 'RunningStats':
    """Nothing seen yet."""
    return cls(jnp.float32(0), jnp.float32(0), jnp.float32(0))

  def update(self, values: Float[Array, ' B']) -> 'RunningStats':
    """Takes in `values`."""
    values = values.astype(jnp.float32)
    size = jnp.float32(values.size)
    count = self.count + size
    mean, gap = values.mean(), values.mean() - self.mean
    return RunningStats(
      count=count,
      mean=self.mean + gap * size / count,
      squares=self.squares
      + jnp.square(values - mean).sum()
      + jnp.square(gap) * self.count * size / count,
    )

  def std(self) -> Float[Array, '']:
    """Population standard deviation; 1 until there are two values."""
    variance = self.squares / jnp.maximum(self.count, 1)
    return jnp.where(self.count > 1, jnp.sqrt(variance), 1.0)


def create(
  params: Params, tx: optax.GradientTransformation, mesh: Mesh | None = None
) -> TrainState:
  """State at step 0, each part placed beside the parameters it belongs to.

  Floating parameters become float32: updates of 1e-5 are lost in bfloat16.
  Those that are float32 are used, not copied, where they are placed already or
  can be as they lie: a step that is given the state frees them.

  Args:
    params: arrays; their own shardings are kept if they are on `mesh`, else
      they are replicated on it.
    tx: optimiser.
    mesh: without one, everything stays on the default device.
  """
  if mesh is None:
    params = _as_float32(jax.tree.map(jnp.asarray, params))
    return TrainState(jnp.int32(0), params, jax.jit(tx.init)(params))
  params = _as_float32(jax.tree.map(lambda x: _place(x, mesh), params))
  where = jax.tree.map(lambda x: x.sharding, params)
  shardings = state_shardings(where, tx, params, mesh)
  # Of parameters that pass through it a program would give copies.
  init = jax.jit(tx.init, out_shardings=shardings.opt_state)
  step = jax.device_put(jnp.int32(0), shardings.step)
  return TrainState(step, params, init(params))


def abstract_state(
  abstract_params: Params,
  params_shardings: Any,
  tx: optax.GradientTransformation,
  mesh: Mesh,
) -> TrainState:
  """The state's ShapeDtypeStructs with shardings; nothing is allocated."""
  shapes = jax.eval_shape(_state_at_zero(tx), abstract_params)
  shardings = state_shardings(params_shardings, tx, abstract_params, mesh)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    shardings,
  )


def state_shardings(
  params_shardings: Any,
  tx: optax.GradientTransformation,
  abstract_params: Params,
  mesh: Mesh,
) -> TrainState:
  """A TrainState of shardings, for out_shardings or a restore.

  A leaf of the optimiser state that mirrors a parameter (its path ends with
  the parameter's and the shape is the same) takes its sharding. Adafactor's
  row and column statistics lack one axis of the parameter, and so of its
  sharding. Everything else (counts, 1-element stand-ins) is replicated.

  Args:
    params_shardings: NamedShardings in the tree of the parameters.
    tx: optimiser.
    abstract_params: shapes in the same tree.
    mesh: for what is replicated.
  """
  flat, _ = jax.tree_util.tree_flatten_with_path(abstract_params)
  owners = {
    path: (leaf.shape, sharding)
    for (path, leaf), sharding in zip(
      flat, jax.tree.leaves(params_shardings), strict=True
    )
  }
  replicated = NamedSharding(mesh, PartitionSpec())

  def of(path, leaf) -> NamedSharding:
    for cut in range(len(path) + 1):
      if path[cut:] in owners:
        shape, sharding = owners[path[cut:]]
        field = jax.tree_util.keystr(path[cut - 1 : cut], simple=True)
        return _mirror(field, leaf.shape, shape, sharding) or replicated
    return replicated

  opt_state = jax.eval_shape(tx.init, abstract_params)
  return TrainState(
    step=replicated,
    params=params_shardings,
    opt_state=jax.tree_util.tree_map_with_path(of, opt_state),
  )


def _mirror(
  field: str,
  shape: tuple[int, ...],
  owner_shape: tuple[int, ...],
  sharding: NamedSharding,
) -> NamedSharding | None:
  """The owner's sharding, less the axis that a factored leaf sums over."""
  if shape == owner_shape:
    return sharding
  if field not in ('v_row', 'v_col') or len(owner_shape) < 2:
    return None
  # optax factors the two largest axes; v_row lacks the largest.
  order = np.argsort(owner_shape)
  axis = int(order[-1] if field == 'v_row' else order[-2])
  if shape != tuple(np.delete(owner_shape, axis)):
    return None
  spec = list(sharding.spec) + [None] * (len(owner_shape) - len(sharding.spec))
  del spec[axis]
  return NamedSharding(sharding.mesh, PartitionSpec(*spec))


def _as_float32(params: Params) -> Params:
  def cast(x):
    same = x.dtype == jnp.float32 or not jnp.issubdtype(x.dtype, jnp.floating)
    return x if same else x.astype(jnp.float32)

  return jax.tree.map(cast, params)


def _state_at_zero(tx: optax.GradientTransformation):
  def init(params: Params) -> TrainState:
    params = _as_float32(params)
    return TrainState(jnp.int32(0), params, tx.init(params))

  return init


def _place(x, mesh: Mesh) -> jax.Array:
  sharding = getattr(x, 'sharding', None)
  if isinstance(sharding, NamedSharding) and sharding.mesh == mesh:
    return x
  return jax.device_put(x, NamedSharding(mesh, PartitionSpec()))
