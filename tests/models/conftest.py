"""Tiny checkpoints with what transformers computes from them."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
import pytest

from rlaif_jax.models import hf

FOLDER = pathlib.Path(__file__).parent / 'fixtures'


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
  """A fixture folder; see make_fixtures.py."""

  path: pathlib.Path
  reference: dict[str, np.ndarray]

  @property
  def rows(self) -> list[np.ndarray]:
    return [self.reference[f'tokens_{i}'] for i in range(3)]

  def padded(self, side: str, length: int = 24, pad_id: int = 63):
    """All rows in one batch: (tokens, mask) [3, length]."""
    tokens = np.full((3, length), pad_id, np.int32)
    mask = np.zeros((3, length), bool)
    for i, row in enumerate(self.rows):
      n = len(row)
      at = slice(length - n, length) if side == 'left' else slice(n)
      tokens[i, at] = row
      mask[i, at] = True
    return tokens, mask

  @functools.cached_property
  def language_model(self):
    return hf.load(self.path)

  @functools.cached_property
  def reward_model(self):
    return hf.load_reward_model(self.path)


@functools.cache
def checkpoint(name: str) -> Checkpoint:
  path = FOLDER / name
  return Checkpoint(path, dict(np.load(path / 'reference.npz')))


def names(reward: bool) -> list[str]:
  found = sorted(p.name for p in FOLDER.iterdir() if p.is_dir())
  return [n for n in found if n.endswith('_reward') == reward]


@pytest.fixture(scope='session', params=names(reward=False))
def lm(request) -> Checkpoint:
  """Each causal language model fixture in turn."""
  return checkpoint(request.param)


@pytest.fixture(scope='session', params=names(reward=True))
def rm(request) -> Checkpoint:
  """Each reward model fixture in turn."""
  return checkpoint(request.param)


@pytest.fixture(scope='session')
def load_checkpoint():
  """A fixture by name."""
  return checkpoint


@pytest.fixture(scope='session')
def forward():
  """`model.apply` compiled once per model."""

  def apply(model, params, tokens, mask=None, cache=None):
    return model.apply(params, tokens, mask=mask, cache=cache)

  return jax.jit(apply, static_argnums=0)
