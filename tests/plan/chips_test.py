"""Names of topologies, and what to do where a compiler is missing."""

import importlib.util

import pytest

from rlaif_jax.plan import chips


@pytest.mark.parametrize('name', ['v5e', 'v5e:4', 'v9:2x2', 'h200:x', 'cpu:a'])
def test_unknown_names_are_told(name):
  with pytest.raises(ValueError, match=f'topology={name!r} is unknown'):
    chips.load(name)


@pytest.mark.multidevice
def test_own_devices():
  assert len(chips.load('cpu:8').devices) == 8
  with pytest.raises(ValueError, match='has 8 devices'):
    chips.load('cpu:9')


@pytest.mark.parametrize('name', ['v5e:2x2', 'h200:8'])
def test_a_missing_extra_says_what_to_install(monkeypatch, name):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ModuleNotFoundError, match=r'pip install -e \.\[aot\]'):
    chips.load(name)
  assert chips.missing(name)
  assert chips.missing('cpu:8') is None
