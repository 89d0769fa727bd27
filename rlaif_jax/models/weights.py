"""Parameters, as flat {path: array}, from and to safetensors.

A path is the keys of the parameter tree joined by '/'. Parameters under
'layers' are stacked [L, ...] here and one tensor per layer in the files.
"""

import functools
import itertools
import math
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from rlaif_jax import offload, sharding
from rlaif_jax.models import safetensors_io, tensors
from rlaif_jax.models.tensors import Tensor

_ROWS = 4096  # of a table compared at a time
# Bytes of a parameter; a larger one meets its other layers on the devices.
_AT_ONCE = 1 << 28


def check(
  reader: safetensors_io.Reader,
  places: Mapping[str, Tensor],
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  ignored: Sequence[str] = (),
) -> None:
  """Every tensor is used, every parameter found, every shape as it must be.

  Args:
    reader: the files.
    places: where each parameter lies.
    shapes: of every parameter.
    ignored: patterns of keys that hold no parameter.

  Raises:
    ValueError: it is not so; the message lists both sets.
  """
  need = {
    key: tensors.source_shape(tensor, _unstacked(tensor, shapes[path].shape))
    for path, tensor in places.items()
    for key in tensor.keys(*shapes[path].shape)
  }
  buffer = re.compile('|'.join(f'(.*\\.)?(?:{p})' for p in ignored) or r'(?!)')
  missing = sorted(set(need) - set(reader.shapes))
  unused = sorted(
    k for k in set(reader.shapes) - set(need) if not buffer.fullmatch(k)
  )
  if missing or unused:
    raise ValueError(
      f'{reader.folder}: the tensors are not those that config.json describes; '
      f'missing: {_listing(missing)}; not used: {_listing(unused)}'
    )
  for key, shape in need.items():
    if reader.shapes[key] != shape:
      raise ValueError(
        f'{reader.folder}: {key} has shape {list(reader.shapes[key])}, by '
        f'config.json it must be {list(shape)}'
      )


def read(
  reader: safetensors_io.Reader,
  places: Mapping[str, Tensor],
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  where: Mapping[str, Sharding],
  dtype: Any = None,
) -> dict[str, jax.Array]:
  """Reads every parameter, each device's part by itself.

  The host holds one tensor of the files at a time, or all layers of a parameter
  where these are small; of either, only the parts that its devices need.

  Args:
    reader: the files, found right by `check`.
    places: where each parameter lies.
    shapes: of every parameter.
    where: sharding of every parameter; one in host memory is read by way of the
      device.
    dtype: to cast to; None keeps the file's type, bit by bit.
  """

  def one(path, tensor):
    here = offload.in_device_memory(where[path])
    leaf = _read_one(reader, tensor, shapes[path], here, dtype)
    return settled(leaf, where[path])

  return {path: one(path, tensor) for path, tensor in places.items()}


def offloaded(where: Any, shapes: Any) -> Any:
  """Shardings of parameters that wait in host memory: all but vectors.

  These, with one axis beside that of the layers, are small, and XLA for TPU
  cannot take those of one layer from where those of all are.
  """

  def one(path, sharding_, shape):
    names = jax.tree_util.keystr(path, simple=True, separator='/').split('/')
    vector = len(shape.shape) - ('layers' in names) < 2
    return sharding_ if vector else offload.in_host_memory(sharding_)

  return jax.tree_util.tree_map_with_path(one, where, shapes)


def settled(leaf: jax.Array, where: Sharding) -> jax.Array:
  """A parameter in host memory if that is where it belongs."""
  if offload.is_in_host_memory(where):
    leaf = jax.block_until_ready(jax.device_put(leaf, where))
  return leaf


def write(
  folder: pathlib.Path,
  places: Mapping[str, Tensor],
  leaves: Mapping[str, Any],
  *,
  max_shard_bytes: int,
  leader: bool,
) -> None:
  """Writes parameters where `places` says; see `safetensors_io.write`."""
  parts: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
  for path, at in _in_file_order(places, leaves):
    key = places[path].key.format(*at)
    parts.setdefault(key, []).append((path, at))

  def spec(key):
    path = parts[key][0][0]
    shape = _unstacked(places[path], leaves[path].shape)
    shape = tensors.source_shape(places[path], shape)
    return shape, np.dtype(leaves[path].dtype)

  def fetch(key):
    return tensors.write(
      [
        (
          places[path],
          sharding.to_host(leaves[path][at] if at else leaves[path]),
        )
        for path, at in parts[key]
      ]
    )

  safetensors_io.write(
    folder,
    {key: spec(key) for key in parts},
    fetch,
    max_shard_bytes=max_shard_bytes,
    leader=leader,
  )


def same(reader: safetensors_io.Reader, first: str, second: str) -> bool:
  """Whether two tensors of the files are equal."""
  shape = reader.shapes[first]
  if shape != reader.shapes[second]:
    return False
  ends = [(i, min(i + _ROWS, shape[0])) for i in range(0, shape[0], _ROWS)]
  return all(
    np.array_equal(
      reader.fetch(first, (slice(*rows),)),
      reader.fetch(second, (slice(*rows),)),
    )
    for rows in ends
  )


def flatten(tree: Any) -> dict[str, Any]:
  """{path: leaf} of a nested dict; tuples are leaves."""
  out = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      out |= {f'{key}/{k}': v for k, v in flatten(value).items()}
    else:
      out[key] = value
  return out


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """The nested dict of {path: leaf}."""
  tree: dict[str, Any] = {}
  for path, leaf in leaves.items():
    *parents, name = path.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree


def _read_one(
  reader: safetensors_io.Reader,
  tensor: Tensor,
  spec: jax.ShapeDtypeStruct,
  where: Sharding,
  dtype: Any,
) -> jax.Array:
  """One parameter, with all its layers."""
  keys = np.array(tensor.keys(*spec.shape), object)
  dtype = np.dtype(dtype or reader.dtype(keys[0]))
  depth, shape = tensor.depth, _unstacked(tensor, spec.shape)
  keys = keys.reshape(spec.shape[:depth])
  large = math.prod(spec.shape) * dtype.itemsize > _AT_ONCE

  def one(key, index):
    fetch = functools.partial(reader.fetch, key)
    return tensors.read(tensor, shape, index, fetch)

  def part(index):
    if not depth:
      return one(keys.item(), index).astype(dtype, copy=False)
    wanted = keys[index[:depth]]
    first = one(wanted.flat[0], index[depth:])
    out = np.empty((wanted.size, *first.shape), dtype)
    out[0] = first
    for i, key in enumerate(wanted.flat[1:], 1):
      out[i] = one(key, index[depth:])
    return out.reshape(wanted.shape + first.shape)

  def layer(number, index):
    return one(keys[number], index).astype(dtype, copy=False)

  if large and depth == 1 and (beside := _within_layer(where)) is not None:
    return _stack(layer, spec.shape, dtype, where, beside)
  # Waiting lets go of the host's copy before the next parameter is read.
  return jax.block_until_ready(
    jax.make_array_from_callback(spec.shape, where, part)
  )


def _within_layer(where: Sharding) -> Sharding | None:
  """Sharding of one layer; None where the layers themselves are split."""
  if not isinstance(where, NamedSharding):
    return where
  first, *rest = where.spec or (None,)
  return None if first else NamedSharding(where.mesh, PartitionSpec(*rest))


def _stack(
  layer: Callable[[int, Any], np.ndarray],
  shape: Sequence[int],
  dtype: np.dtype,
  where: Sharding,
  beside: Sharding,
) -> jax.Array:
  """A parameter put together on its devices, one layer after the other."""
  zeros = functools.partial(jnp.zeros, shape, dtype)
  put = functools.partial(jax.lax.dynamic_update_index_in_dim, axis=0)
  put = jax.jit(put, donate_argnums=0, out_shardings=where)
  stack = jax.jit(zeros, out_shardings=where)()
  for number in range(shape[0]):
    part = jax.make_array_from_callback(
      tuple(shape[1:]), beside, functools.partial(layer, number)
    )
    stack = jax.block_until_ready(put(stack, part, np.int32(number)))
  return stack


def _in_file_order(places, leaves):
  """(path, numbers in its key) of every tensor.

  First what comes before the layers, then the layers, then the rest.
  """
  paths = [p for p in places if p in leaves]
  stacked = [p for p in paths if places[p].depth]
  first = paths.index(stacked[0])
  plain = [p for p in paths if p not in stacked]
  yield from ((p, ()) for p in plain if paths.index(p) < first)
  for layer in range(leaves[stacked[0]].shape[0]):
    for p in stacked:
      more = leaves[p].shape[1 : places[p].depth]
      for numbers in itertools.product(*map(range, more)):
        yield p, (layer, *numbers)
  yield from ((p, ()) for p in plain if paths.index(p) > first)


def _unstacked(tensor: Tensor, shape: Sequence[int]) -> tuple[int, ...]:
  return tuple(shape[tensor.depth :])


def _listing(keys: Sequence[str]) -> str:
  """The first few keys, and how many more."""
  more = f' and {len(keys) - 8} more' if len(keys) > 8 else ''
  return ', '.join(keys[:8]) + more if keys else 'none'
