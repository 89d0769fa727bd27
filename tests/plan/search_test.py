"""Factorisations, what a search tries first and when it stops."""

import numpy as np
import pytest

from rlaif_jax.plan import chips, compiling, programs, report, search, work
from rlaif_jax.plan.compiling import Result


def test_factorisations():
  found = search.factorisations(16)
  assert len(found) == len(set(found)) == 15
  assert all(np.prod(f) == 16 for f in found)
  assert search.factorisations(1) == [(1, 1, 1)]


class _Fake:
  """A program of a given size on a mesh."""

  def __init__(self, name, held):
    self.name, self.held = name, held

  def argument_bytes(self):
    return self.held

  def resident_bytes(self):
    return 0


@pytest.fixture
def tried(monkeypatch):
  """Which (mesh, programs) are compiled; only tensor >= 4 fits."""
  seen = []

  def of_config(config, mesh, only):
    data, fsdp, tensor = mesh.shape.values()
    if data == 8:
      raise ValueError('batch does not divide')
    held = 64 // (fsdp * tensor)
    return [_Fake('small', held), _Fake('large', held)]

  def compile_all(known, topology, mesh, *, stop_early, say):
    assert stop_early
    shape = tuple(mesh.shape.values())
    seen.append((shape, [p.name for p in known]))
    peak = 10 if shape[2] >= 4 else 1000
    return [
      Result('large', 1, 0, 0, 0, 100, work.Work(), peak=peak, seconds=1.0)
    ]

  monkeypatch.setattr(programs, 'of_config', of_config)
  monkeypatch.setattr(compiling, 'compile_all', compile_all)
  return seen


def topology(memory=100):
  import jax

  chip = chips.Chip(1.0, 1.0, 1.0, memory)
  return chips.Topology('cpu:8', chip, jax.devices()[:8])


@pytest.mark.multidevice
def test_search_begins_where_least_is_held(tried):
  found = search.search(
    None, topology(), skip=[(1, 4, 2)], first=['large'], wanted=2
  )
  # fsdp * tensor = 8 holds least; of these, least tensor first.
  assert [shape for shape, _ in tried] == [(1, 8, 1), (1, 2, 4), (1, 1, 8)]
  assert {tuple(names) for _, names in tried} == {('large', 'small')}
  by_shape = {a.shape: a for a in found}
  assert (1, 4, 2) not in by_shape
  assert by_shape[8, 1, 1].reason == 'batch does not divide'
  assert by_shape[1, 8, 1].reason == 'large does not fit'
  assert by_shape[1, 2, 4].reason == by_shape[1, 1, 8].reason == ''
  text = report.attempts(found)
  assert text.index('| 1, 2, 4 | yes |') < text.index('| 1, 8, 1 | large')


@pytest.mark.multidevice
def test_what_cannot_fit_is_not_compiled(tried):
  found = search.search(None, topology(memory=8), wanted=99)
  assert {a.shape for a in found if 'alone' in a.reason} == {
    (2, 1, 4), (2, 2, 2), (2, 4, 1), (4, 1, 2), (4, 2, 1),
  }  # fmt: skip
  assert all(fsdp * tensor == 8 for (_, fsdp, tensor), _ in tried)
