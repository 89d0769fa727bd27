"""Dynamic sampling: a batch of groups whose scores differ.

DAPO (Yu et al. 2025, arXiv 2503.14476, section 3.2): a group whose samples all
score the same has no advantage and gives no gradient. So such groups give way
to those of further prompts, until the batch has none of them or
`config.max_sampling_rounds` rollouts were made; 1 is off. Any algorithm that
samples in groups can have it. What is still the same then stays in the batch.

A rollout follows from its number and the policy alone: its prompts and its keys
do. Step t takes rollout t; with dynamic sampling it takes as many as it needs,
and the checkpoint has the number of the next one. Samples stay on the devices,
but which groups differ goes to the host, which waits for it once a round.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from rlaif_jax import algorithms, sharding
from rlaif_jax.core import masking, returns
from rlaif_jax.core.types import PromptBatch, Rollout, TokenBatch
from rlaif_jax.data.datasets import Example
from rlaif_jax.stages._rl_update import RLState


class Drawn(NamedTuple):
  """A batch of scored samples."""

  rollout: Rollout
  scores: Float[Array, ' B']
  examples: list[Example]  # [B], all hosts'
  texts: TokenBatch | None  # to learn beside; _ptx.py
  spent: dict[str, Any]  # what scoring took, see rewards.spent


def start(config: ConfigDict) -> Int[Array, ''] | None:
  """`RLState.draws` of a new run."""
  return jnp.int32(0) if config.max_sampling_rounds > 1 else None


class Rounds:
  """Makes the batch of a step, in one round or several."""

  def __init__(
    self, config: ConfigDict, options: Any, mesh, eos_ids: tuple[int, ...]
  ):
    self._limit, self._mesh = config.max_sampling_rounds, mesh
    self._group = algorithms.count(options, 'group_size')
    self._differing = jax.jit(
      functools.partial(
        differing, self._group, eos_ids, config.missing_eos_penalty
      )
    )
    self._numbers: dict[int, range] = {}

  def collect(
    self, draw: Callable[[int], Drawn], state: RLState, at: int
  ) -> tuple[RLState, Drawn, dict[str, float]]:
    """(state, batch, metrics) of step `at`; `draw(n)` makes rollout n."""
    if state.draws is None:
      self._numbers[at] = range(at, at + 1)
      return state, draw(at), {}
    first = int(state.draws)
    kept = draw(first)
    good = self._look(kept)
    rounds, found = 1, good.mean()
    while rounds < self._limit and not good.all():
      new = draw(first + rounds)
      more = self._look(new)
      kept, good = self._join(kept, good, new, more)
      rounds, found = rounds + 1, found + more.mean()
    self._numbers[at] = range(first, first + rounds)
    draws = sharding.replicate(np.int32(first + rounds), self._mesh)
    metrics = {
      'sampling/rounds': rounds,
      'sampling/useful_groups': found / rounds,  # of those sampled
    }
    return dataclasses.replace(state, draws=draws), kept, metrics

  def numbers(self, at: int) -> range:
    """Which rollouts step `at` took, once it has begun."""
    return self._numbers[at]

  def _look(self, drawn: Drawn) -> Bool[np.ndarray, ' M']:
    found = self._differing(drawn.rollout, drawn.scores)
    return sharding.to_host(found)

  def _join(self, kept: Drawn, good, new: Drawn, more) -> tuple[Drawn, Any]:
    """The batch of both that has most groups to learn from, and which do."""
    good = np.concatenate([good, more])
    order = first_good(good, len(more))
    rows = rows_of(order, self._group)
    rollout, scores = merge(
      (kept.rollout, kept.scores), (new.rollout, new.scores), rows
    )
    examples = kept.examples + new.examples
    spent = {k: kept.spent[k] + new.spent[k] for k in kept.spent}
    batch = Drawn(
      rollout,
      scores,
      [examples[i] for i in rows],
      kept.texts,
      spent,
    )
    return batch, good[order]


def differing(
  group_size: int,
  eos_ids: tuple[int, ...],
  missing_eos_penalty: float,
  rollout: Rollout,
  scores: Float[Array, ' B'],
) -> Bool[Array, ' M']:
  """Whether what the responses of each group score is not all the same.

  The penalty for a missing end counts, as in the update (but for the scale that
  `reward_scaling` gives the scores there).
  """
  if missing_eos_penalty:
    ended = masking.has_end(
      rollout.response_tokens, rollout.response_mask, eos_ids
    )
    scores = scores - missing_eos_penalty * ~ended
  return returns.unequal_groups(scores, group_size)


def first_good(
  good: Bool[np.ndarray, ' N'], count: int
) -> Int[np.ndarray, ' M']:
  """`count` groups: those that are good, then others, each in their order."""
  return np.argsort(~good, kind='stable')[:count].astype(np.int32)


def rows_of(groups: Int[np.ndarray, ' M'], size: int) -> Int[np.ndarray, ' B']:
  """The rows of these groups of `size`, a group's beside each other."""
  rows = groups[:, None] * size + np.arange(size, dtype=np.int32)
  return rows.reshape(-1)


@jax.jit
def merge(
  kept: tuple[Rollout, Float[Array, ' B']],
  new: tuple[Rollout, Float[Array, ' B']],
  rows: Int[Array, ' M'],
) -> tuple[Rollout, Float[Array, ' M']]:
  """These rows of two scored batches, the new one's after the other's."""

  def take(a, b):
    taken = jnp.concatenate([a, b])[rows]
    return sharding.constrain(taken, 'batch', *[None] * (a.ndim - 1))

  rollouts = as_wide([kept[0], new[0]])
  return jax.tree.map(take, (rollouts[0], kept[1]), (rollouts[1], new[1]))


def as_wide(batches: list) -> list:
  """Rollouts or prompts, left-padded to the longest prompt of them all."""
  tokens, mask = (
    ('tokens', 'mask')
    if isinstance(batches[0], PromptBatch)
    else ('prompt_tokens', 'prompt_mask')
  )
  width = max(getattr(batch, mask).shape[1] for batch in batches)

  def widen(batch):
    before = width - getattr(batch, mask).shape[1]
    wide = {
      name: jnp.pad(getattr(batch, name), ((0, 0), (before, 0)))
      for name in (tokens, mask)
    }
    return dataclasses.replace(batch, **wide)

  return [widen(batch) for batch in batches]
