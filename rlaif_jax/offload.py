"""Arrays that wait in their hosts' memory until a program uses them."""

import jax

_HOST = 'pinned_host'  # memory of the host that chips read from directly


def in_host_memory(where: jax.sharding.Sharding) -> jax.sharding.Sharding:
  """Sharding of an array that waits in its hosts' memory, split as `where`.

  A jitted function that takes it brings it to the chips with `on_device`.
  Devices that are described only may know no such memory: it stays `where`.
  """
  return where.with_memory_kind(_HOST)


def is_in_host_memory(where: jax.sharding.Sharding) -> bool:
  """Whether `in_host_memory` made this sharding."""
  return where.memory_kind == _HOST


def in_device_memory(where: jax.sharding.Sharding) -> jax.sharding.Sharding:
  """The sharding that `in_host_memory` was given."""
  return where.with_memory_kind('device') if is_in_host_memory(where) else where


def on_device(x: jax.Array) -> jax.Array:
  """`x` in the chips' memory, where it is computed with; also inside of jit.

  Of an array that waits in host memory this is a copy, which the compiler lets
  live as long as it is used; in a loop over layers that is one layer long.
  """
  if jax.typeof(x).memory_space == jax.memory.Space.Host:
    return jax.device_put(x, jax.memory.Space.Device)
  return x
