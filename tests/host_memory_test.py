"""Memory that is kept, in processes of their own."""

import subprocess
import sys

import pytest

from rlaif_jax import host_memory

_FAULTS = """
import os, resource, sys
from rlaif_jax import host_memory
kept = sys.argv[1] == 'keep' and host_memory.keep({'JAX_PLATFORMS': 'cpu'})
import jax, jax.numpy as jnp

@jax.jit
def step(x):
  y = jnp.sin(x)
  return (y @ y.T).sum()

x = jnp.ones((512, 16384))
for _ in range(3):
  step(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
  step(x).block_until_ready()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> tuple[bool, int]:
  out = subprocess.run(
    [sys.executable, '-c', _FAULTS, how],
    check=True,
    capture_output=True,
    text=True,
  ).stdout
  kept, count = out.split()
  return kept == 'True', int(count)


def test_pages_are_not_asked_for_again():
  _, before = _faults('leave')
  kept, after = _faults('keep')
  if not kept:
    pytest.skip('the C library is not glibc')
  assert before > 5000  # each step takes tens of MB
  assert after < before / 10


@pytest.mark.parametrize(
  'platforms,expected',
  [('cpu', True), ('cpu,cuda', True), ('cuda,cpu', False), ('tpu', False)],
)
def test_only_where_the_cpu_is_meant(platforms, expected):
  assert host_memory.cpu_alone({'JAX_PLATFORMS': platforms}) == expected
  if not expected:
    assert not host_memory.keep({'JAX_PLATFORMS': platforms})


def test_plugins_of_accelerators_are_seen(monkeypatch):
  points = host_memory.importlib.metadata
  monkeypatch.setattr(points, 'entry_points', lambda group: ())
  monkeypatch.setattr(
    host_memory.importlib.util, 'find_spec', lambda name: None
  )
  assert host_memory.cpu_alone({})
  monkeypatch.setattr(points, 'entry_points', lambda group: (group,))
  assert not host_memory.cpu_alone({})
