"""core/types.py: the shared dataclasses are pytrees that jit can carry."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from rlaif_jax.core import types


def _build(cls):
  fields = dataclasses.fields(cls)
  return cls(**{f.name: jnp.full((2, 3), i) for i, f in enumerate(fields)})


_CLASSES = [
  types.Cache,
  types.ModelOutput,
  types.TokenBatch,
  types.PromptBatch,
  types.PairBatch,
  types.Rollout,
  types.Targets,
  types.TokenStats,
]


@pytest.mark.parametrize('cls', _CLASSES)
def test_each_field_is_a_leaf_in_order(cls):
  leaves = jax.tree.leaves(_build(cls))
  assert [int(x[0, 0]) for x in leaves] == list(range(len(leaves)))
  static = [f for f in dataclasses.fields(cls) if f.metadata.get('static')]
  assert len(leaves) == len(dataclasses.fields(cls)) - len(static)


@pytest.mark.parametrize('cls', _CLASSES)
def test_survives_jit_and_is_frozen(cls):
  value = jax.jit(lambda x: x)(_build(cls))
  assert isinstance(value, cls)
  with pytest.raises(dataclasses.FrozenInstanceError):
    setattr(value, dataclasses.fields(cls)[0].name, None)


def test_none_is_an_empty_subtree():
  stats = types.TokenStats(logprobs=jnp.zeros((1, 2)), entropy=None)
  assert len(jax.tree.leaves(stats)) == 1
  assert jax.tree.map(lambda x: x + 1, stats).entropy is None
