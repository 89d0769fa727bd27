"""Memory of the process, kept between steps where the chip is the CPU.

XLA for CPU takes its work space anew for every program that it runs. The C
library gives so large a piece back to the system at once, which then has to
find and clear every page of it again: an eighth of a training step.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
from collections.abc import Mapping

# Options of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep(environ: Mapping[str, str] = os.environ) -> bool:
  """Keeps what is freed for what is asked for next; True where that is done.

  One heap for all threads, which never shrinks: only where no accelerator can
  be meant, and with the C library that knows how. Before jax starts threads,
  since those that are there keep heaps of their own.
  """
  if not cpu_alone(environ):
    return False
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return False  # not glibc
  options = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))
  taken = [mallopt(*option) for option in options]
  return all(taken)


def cpu_alone(environ: Mapping[str, str]) -> bool:
  """Whether jax will use the CPU, as far as can be told before it starts."""
  platforms = environ.get('JAX_PLATFORMS', '')
  if platforms:
    return platforms.split(',')[0].strip() == 'cpu'
  plugins = importlib.metadata.entry_points(group='jax_plugins')
  return not plugins and importlib.util.find_spec('libtpu') is None
