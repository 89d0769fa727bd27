"""Rewards: what a finished text is worth.

A reward is a module `rewards/<name>.py` with

  make(config, *, policy_tokenizer, mesh, rules) -> Reward

where `config` is a `reward` block (stages/_rewards.py). It is found by its file
name; there is no registry to edit. One that has options of its own defines a
frozen dataclass `Config` of them, which raises ValueError on a value that is
not allowed, and reads it as `Config(**config.options)`.
"""

import importlib
import pathlib
import types
from collections.abc import Sequence
from typing import Any, Protocol

import jax

from rlaif_jax.core.types import Rollout
from rlaif_jax.data.datasets import Example

# What `spent` names: verdicts of a labeler, and tokens it read and wrote.
LABELS, TOKENS = 'labeler/labels', 'labeler/tokens'


class Reward(Protocol):
  """Scores finished responses; higher is better."""

  def score(self, rollout: Rollout, examples: Sequence[Example]) -> jax.Array:
    """Scores [B] float32 of the responses, given the prompts' examples.

    May stay on the device (reward model with the policy's tokenizer) or go
    through the host (labeler prompts); the caller does not wait for it.
    """
    ...


def spent(reward: Reward) -> dict[str, Any]:
  """What the last call of `score` took of a labeler; {} where none is asked.

  LABELS and TOKENS are numbers, or scalars still on the device. A reward that
  asks a labeler keeps them in `spent`; one around another has it in `reward`.
  """
  inner = getattr(reward, 'reward', None)
  return dict(getattr(reward, 'spent', {})) if inner is None else spent(inner)


def names() -> list[str]:
  """Names of the rewards: the public modules of this folder."""
  return sorted(
    path.stem
    for path in pathlib.Path(__file__).parent.glob('*.py')
    if not path.stem.startswith('_')
  )


def load(name: str) -> types.ModuleType:
  """Imports the reward `name`; ValueError lists what exists otherwise."""
  if name not in names():
    raise ValueError(
      f'config.reward.name={name!r} is not a reward; there are: '
      f'{", ".join(names())}'
    )
  return importlib.import_module(f'rlaif_jax.rewards.{name}')
