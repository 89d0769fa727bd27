"""Memory and threads of processes of their own."""

import os
import pathlib
import subprocess
import sys

import pytest

from rlaif_jax import host

_FAULTS = """
import os, resource, sys
from rlaif_jax import host
kept = sys.argv[1] == 'keep' and host.keep_memory()
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
def test_only_where_the_cpu_is_meant(monkeypatch, platforms, expected):
  environ = {'JAX_PLATFORMS': platforms, 'JAX_NUM_CPU_DEVICES': '4'}
  assert host.cpu_alone(environ) == expected
  if not expected:
    monkeypatch.setattr(host, 'keep_memory', pytest.fail)
    host.prepare(environ)
    assert 'PJRT_NPROC' not in environ


def test_plugins_of_accelerators_are_seen(monkeypatch):
  points = host.importlib.metadata
  monkeypatch.setattr(points, 'entry_points', lambda group: ())
  monkeypatch.setattr(host.importlib.util, 'find_spec', lambda name: None)
  assert host.cpu_alone({})
  monkeypatch.setattr(points, 'entry_points', lambda group: (group,))
  assert not host.cpu_alone({})


_THREADS = """
import pathlib
from rlaif_jax import host
host.prepare()
import jax
jax.devices()
names = pathlib.Path('/proc/self/task').glob('*/comm')
print(sum('XLAEigen' in name.read_text() for name in names))
"""


@pytest.mark.skipif(
  not pathlib.Path('/proc/self/task').is_dir(), reason='no /proc'
)
@pytest.mark.parametrize(
  'environ,expected',
  [
    ({'JAX_NUM_CPU_DEVICES': '8'}, 128),
    ({'XLA_FLAGS': '--xla_force_host_platform_device_count=4'}, 64),
    ({'JAX_NUM_CPU_DEVICES': '8', 'PJRT_NPROC': '11'}, 11),
    (
      {
        'JAX_NUM_CPU_DEVICES': '2',
        'XLA_FLAGS': '--xla_force_host_platform_device_count=4',
      },
      32,
    ),
    ({}, len(os.sched_getaffinity(0))),
  ],
)
def test_threads_of_collectives(environ, expected):
  """As many as one device's unfinished collectives, times the devices.

  With one for each device, `main` with eight devices hung every other time.
  """
  out = subprocess.run(
    [sys.executable, '-c', _THREADS],
    env={**os.environ, 'XLA_FLAGS': '', **environ},
    check=True,
    capture_output=True,
    text=True,
  ).stdout
  assert int(out) == expected
