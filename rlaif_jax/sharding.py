"""The device mesh, and the rules from logical axes to mesh axes.

Parameters and activations name their axes logically ('embed', 'heads', ...);
one table of rules says which mesh axis splits each. Everything runs under
`jax.set_mesh(mesh)`, a single device being the mesh (1, 1, 1). Mesh axes are
all of type Auto: the compiler places what is not constrained.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

MESH_AXES = ('data', 'fsdp', 'tensor')

MeshAxes = str | tuple[str, ...] | None
Rules = Mapping[str, MeshAxes] | tuple[tuple[str, MeshAxes], ...]

DEFAULT_RULES: Mapping[str, MeshAxes] = {
  'batch': ('data', 'fsdp'),
  'length': None,
  'layers': None,
  'embed': 'fsdp',  # model width, in parameters
  'width': None,  # model width, in activations
  # Lookup tables are split by rows alone: over their width too, the compiler
  # would first rebuild every activation it looks up ("involuntary full
  # rematerialization").
  'vocab_table': ('tensor', 'fsdp'),
  'embed_table': None,
  'position': None,
  'vocab': 'tensor',
  'heads': 'tensor',
  'kv_heads': 'tensor',
  'head_dim': None,
  'mlp': 'tensor',
  'lora': None,  # rank of an adapter
  'norm': None,
}

# Sizes of these are the checkpoint's (50257 tokens, 25 heads, 1 key/value
# head), not the user's to choose: mesh axes are dropped, the last first, until
# the rest divides, and with none left each device holds the whole. Any other
# axis that does not divide is an error.
REPLICATED_IF_INDIVISIBLE = frozenset(
  {'vocab', 'vocab_table', 'heads', 'kv_heads'}
)


def make_mesh(
  config: Mapping[str, int] | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> jax.sharding.Mesh:
  """Mesh with the axes `MESH_AXES`, all Auto.

  Args:
    config: size of each axis; one may be -1 (what is left). Missing axes are
      1, and `data` is -1.
    devices: defaults to all devices of all processes. Devices of several TPU
      slices are laid out with the slices along `data`.

  Raises:
    ValueError: an unknown axis, more than one -1, or sizes that do not multiply
      to the number of devices.
  """
  sizes = {'data': -1, 'fsdp': 1, 'tensor': 1, **(config or {})}
  if unknown := sorted(set(sizes) - set(MESH_AXES)):
    raise ValueError(
      f'mesh: unknown axis {", ".join(unknown)}; the axes are '
      f'{", ".join(MESH_AXES)}'
    )
  devices = list(jax.devices() if devices is None else devices)
  shape = _fill_shape([sizes[a] for a in MESH_AXES], len(devices))
  slices = len({getattr(d, 'slice_index', 0) for d in devices})
  if slices > 1:
    if shape[0] % slices:
      raise ValueError(
        f'mesh: data={shape[0]} must be a multiple of the {slices} slices'
      )
    grid = mesh_utils.create_hybrid_device_mesh(
      (shape[0] // slices, *shape[1:]),
      (slices, 1, 1),
      devices,
      allow_split_physical_axes=True,
    )
    return jax.sharding.Mesh(grid, MESH_AXES, (AxisType.Auto,) * 3)
  # A mesh axis may be part of an axis of a TPU slice: (2, 32, 1) on v6e:8x8.
  grid = mesh_utils.create_device_mesh(
    shape, devices, allow_split_physical_axes=True
  )
  return jax.sharding.Mesh(grid, MESH_AXES, (AxisType.Auto,) * 3)


def named_sharding(
  mesh: jax.sharding.Mesh, *axes: str | None, rules: Rules | None = None
) -> NamedSharding:
  """Sharding of an array whose axes have these logical names.

  Sizes are not looked at; `shardings` also checks that they divide.
  """
  return NamedSharding(mesh, _spec(axes, None, mesh, rules))


def shardings(
  axes: Any,
  shapes: Any,
  mesh: jax.sharding.Mesh,
  rules: Rules | None = None,
) -> Any:
  """NamedShardings of a tree of arrays.

  Args:
    axes: tree of tuples of logical names, one per array axis.
    shapes: the same tree of arrays or ShapeDtypeStructs.
    mesh: the device mesh.
    rules: logical axis -> mesh axis (or axes, or None); defaults to
      `DEFAULT_RULES`.

  Raises:
    ValueError: an unknown logical axis, or a size that its mesh axes do not
      divide (except `REPLICATED_IF_INDIVISIBLE`).
  """

  def one(path, shape, names):
    try:
      return NamedSharding(mesh, _spec(names, shape.shape, mesh, rules))
    except ValueError as e:
      raise ValueError(f'{jax.tree_util.keystr(path)}: {e}') from e

  return jax.tree_util.tree_map_with_path(one, shapes, axes)


def spec(
  shape: Sequence[int], *axes: str | None, rules: Rules | None = None
) -> PartitionSpec:
  """How `constrain` lays out an array of this shape.

  Raises:
    ValueError: an unknown logical axis, with or without a mesh.
  """
  mesh = jax.sharding.get_abstract_mesh()
  return _spec(axes, shape, mesh, rules, strict=False)


def constrain(
  x: jax.Array, *axes: str | None, rules: Rules | None = None
) -> jax.Array:
  """Asks the compiler to lay `x` out by the rules; the values are unchanged.

  Without a mesh set by `jax.set_mesh` it does nothing. Where a size
  does not divide, mesh axes are dropped (for a batch of one row, say).

  Raises:
    ValueError: an unknown logical axis, with or without a mesh.
  """
  where = spec(x.shape, *axes, rules=rules)
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, where)


def shard_batch(
  tree: Any, mesh: jax.sharding.Mesh, *, whole: bool = False
) -> Any:
  """Puts host arrays on the mesh, rows split over ('data', 'fsdp').

  Args:
    tree: NumPy arrays [B, ...] holding this process's rows; scalars (the same
      on every process) are replicated.
    mesh: the device mesh.
    whole: every process holds all rows instead, the same ones.

  Raises:
    ValueError: the rows do not divide over the mesh.
  """
  rows = NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))
  parts = row_parts(mesh)

  def put(path, x):
    x = np.asarray(x)
    if x.ndim == 0:
      return jax.device_put(x, NamedSharding(mesh, PartitionSpec()))
    holders = 1 if whole else jax.process_count()
    if x.shape[0] * holders % parts:
      raise ValueError(
        f'batch{jax.tree_util.keystr(path)}: {x.shape[0]} rows on each of '
        f'{holders} processes do not divide over the mesh (data * '
        f'fsdp = {parts}); choose a multiple'
      )
    if whole:
      return jax.make_array_from_callback(x.shape, rows, lambda at: x[at])
    return jax.make_array_from_process_local_data(rows, x)

  return jax.tree_util.tree_map_with_path(put, tree)


def row_parts(mesh: Any = None) -> int:
  """Parts that a mesh, by default the one that is set, splits rows into."""
  mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
  return mesh.shape.get('data', 1) * mesh.shape.get('fsdp', 1)


def on_one_device() -> bool:
  """Whether the mesh that is set has one device; also without a mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  return mesh.empty or mesh.size == 1


def replicate(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """Puts the whole of every array on every device of the mesh."""
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def to_host(tree: Any) -> Any:
  """NumPy copies of global arrays; every process must call it."""

  def get(x):
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
      return multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)

  return jax.tree.map(get, tree)


def wait_for_all(name: str) -> None:
  """Returns once every process is here; what others wrote can be read then."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def without(mesh_axis: str, rules: Rules | None = None) -> Rules:
  """The rules, over the default ones, with nothing split along `mesh_axis`."""

  def rest(axes: MeshAxes) -> MeshAxes:
    names = (axes,) if isinstance(axes, str) else tuple(axes or ())
    return tuple(name for name in names if name != mesh_axis) or None

  table = {**DEFAULT_RULES, **dict(rules or {})}
  return {name: rest(axes) for name, axes in table.items()}


def freeze_rules(rules: Rules | None) -> tuple[tuple[str, MeshAxes], ...]:
  """Rules as a hashable tuple, for use in static arguments."""
  return tuple(
    (name, tuple(axes) if isinstance(axes, list) else axes)
    for name, axes in sorted(dict(rules or {}).items())
  )


def _fill_shape(shape: list[int], count: int) -> tuple[int, ...]:
  """The mesh shape with its -1 filled in."""
  if shape.count(-1) > 1 or any(n < 1 and n != -1 for n in shape):
    raise ValueError(
      f'mesh: sizes {dict(zip(MESH_AXES, shape, strict=True))} must be '
      'positive, one of them may be -1'
    )
  known = math.prod(n for n in shape if n != -1)
  if -1 in shape and count % known == 0:
    shape[shape.index(-1)] = count // known
  if math.prod(shape) != count:
    raise ValueError(
      f'mesh: sizes {dict(zip(MESH_AXES, shape, strict=True))} do not '
      f'multiply to the {count} devices; set one axis to -1'
    )
  return tuple(shape)


def _spec(
  axes: Sequence[str | None],
  shape: Sequence[int] | None,
  mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
  rules: Rules | None,
  strict: bool = True,
) -> PartitionSpec:
  """PartitionSpec of logical `axes`; checks sizes where `shape` is given."""
  table = {**DEFAULT_RULES, **dict(rules or {})}
  if unknown := sorted({a for a in axes if a is not None} - set(table)):
    raise ValueError(
      f'no sharding rule for the logical axis {", ".join(unknown)}; known: '
      f'{", ".join(sorted(table))}'
    )
  if shape is not None and len(shape) != len(axes):
    raise ValueError(f'axes {tuple(axes)} do not fit the shape {tuple(shape)}')
  spec, used = [], set()
  for i, axis in enumerate(axes):
    names = _mesh_axes(table.get(axis), mesh)
    if twice := used.intersection(names):
      raise ValueError(
        f'the rules use mesh axis {", ".join(twice)} twice in {tuple(axes)}'
      )
    kept = names if shape is None else _dividing(names, shape[i], mesh)
    if kept != names and strict and axis not in REPLICATED_IF_INDIVISIBLE:
      raise ValueError(
        f'the axis {axis!r} of size {shape[i]} does not divide over '
        f'{_product(names, mesh)}; choose another mesh or rule'
      )
    names = kept
    used.update(names)
    spec.append(names or None)
  return PartitionSpec(*spec)


def _dividing(names: tuple[str, ...], size: int, mesh) -> tuple[str, ...]:
  """The mesh axes, the last ones dropped until their product divides."""
  while size % math.prod(mesh.shape[n] for n in names):
    names = names[:-1]
  return names


def _product(names: tuple[str, ...], mesh) -> str:
  """Mesh axes and sizes for a message."""
  return 'the mesh axes ' + ' * '.join(f'{n}={mesh.shape[n]}' for n in names)


def _mesh_axes(axes: MeshAxes, mesh) -> tuple[str, ...]:
  """The named axes that this mesh has and lets the compiler place."""
  names = (axes,) if isinstance(axes, str) else tuple(axes or ())
  auto = {
    name
    for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
    if kind == AxisType.Auto
  }
  return tuple(n for n in names if n in auto)
