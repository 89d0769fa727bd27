"""The process where the chips are the CPU's: set up before JAX starts."""

import ctypes
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Mapping, MutableMapping

# Options of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8

# Collectives of one program that a device may have begun and not ended. There
# is no bound; with eight devices 4 were enough in all runs, and 1 was not.
_COLLECTIVES = 16
_FAKE_DEVICES = re.compile(r'--xla_force_host_platform_device_count=(\d+)')


def prepare(environ: MutableMapping[str, str] = os.environ) -> None:
  """Memory and threads as programs on the CPU need them; else nothing."""
  if cpu_alone(environ):
    keep_memory()
    add_threads(_devices(environ), environ)


def keep_memory() -> bool:
  """Keeps what is freed for what is asked for next; True where that is done.

  XLA for CPU takes its work space anew for every program that it runs. The C
  library gives so large a piece back to the system at once, which then has to
  find and clear every page of it again: an eighth of a training step. So: one
  heap for all threads, which never shrinks, with the C library that knows how.
  Before jax starts threads, since those that are there keep heaps of their own.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return False  # not glibc
  options = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))
  taken = [mallopt(*option) for option in options]
  return all(taken)


def add_threads(
  devices: int, environ: MutableMapping[str, str] = os.environ
) -> None:
  """Threads enough for the collectives of several devices of one process.

  A collective holds a thread of XLA for CPU until its peers arrive, and a
  program goes on to the next one meanwhile. There are no more threads than
  devices or cores: all could wait for peers that find no thread, until XLA
  ends the process after 40 seconds. Once jax has started this has no effect.
  """
  if devices > 1:
    environ.setdefault('PJRT_NPROC', str(_COLLECTIVES * devices))


def _devices(environ: Mapping[str, str]) -> int:
  """How many devices jax will make of this CPU."""
  own = environ.get('JAX_NUM_CPU_DEVICES', '')
  if own not in ('', '-1'):
    return int(own)
  return int((_FAKE_DEVICES.findall(environ.get('XLA_FLAGS', '')) or [1])[-1])


def cpu_alone(environ: Mapping[str, str]) -> bool:
  """Whether jax will use the CPU, as far as can be told before it starts."""
  platforms = environ.get('JAX_PLATFORMS', '')
  if platforms:
    return platforms.split(',')[0].strip() == 'cpu'
  plugins = importlib.metadata.entry_points(group='jax_plugins')
  return not plugins and importlib.util.find_spec('libtpu') is None
