"""Labels of several sources in one training, and pairs of like length.

RLHF mixed with RLAIF (2309.00267, section 4.5 of v2): human and AI labels
together, more of one than of the other, or AI labels first and human ones
after them.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from rlaif_jax.data import pipeline
from rlaif_jax.data.datasets import Example

ORDERS = ('mixed', 'in_turn')


def config() -> ConfigDict:
  """Sources beside the stage's own; none by default."""
  return ConfigDict(
    dict(
      labels=(),  # preference files, or workdirs of label stages
      counts=(),  # pairs of each source, the stage's own first; () = all
      # 'mixed': as if they were one; 'in_turn': one source after the other,
      # each for its share of the steps.
      order='mixed',
    )
  )


@dataclasses.dataclass(frozen=True)
class Mix:
  """Examples by source.

  Attributes:
    parts: of each source, in order.
    order: one of `ORDERS`.
  """

  parts: tuple[Sequence[Example], ...]
  order: str = 'mixed'

  def __len__(self) -> int:
    """Examples of all sources."""
    return sum(len(part) for part in self.parts)

  @functools.cached_property
  def every(self) -> list[Example]:
    """Examples of all sources, one source after the other."""
    return [example for part in self.parts for example in part]

  def rows(
    self, seed: int, at: int, batch_size: int, num_steps: int
  ) -> list[Example]:
    """This host's share of the examples of batch `at` of `num_steps`.

    A function of its arguments alone, so that a run that goes on takes the
    same.
    """
    part, at = self._place(at, num_steps)
    rows = pipeline.batch_indices(
      seed, at, batch_size, len(part),
      process_index=jax.process_index(), process_count=jax.process_count(),
    )  # fmt: skip
    return [part[i] for i in rows]

  def _place(self, at: int, num_steps: int) -> tuple[Sequence[Example], int]:
    """(examples to take batch `at` from, its number among theirs)."""
    if self.order == 'mixed':
      return self.every, at
    sizes = np.cumsum([0, *map(len, self.parts)])
    starts = np.round(sizes / sizes[-1] * num_steps).astype(int)
    which = int(np.searchsorted(starts[1:-1], at, side='right'))
    return self.parts[which], at - int(starts[which])


def check(block: ConfigDict) -> None:
  """Raises ValueError for what can be known to be wrong before labels load."""
  if block.order not in ORDERS:
    raise ValueError(
      f'config.mix.order={block.order!r}; use one of {", ".join(ORDERS)}'
    )
  if block.counts and len(block.counts) != 1 + len(block.labels):
    raise ValueError(
      f'config.mix.counts={tuple(block.counts)} should have '
      f"{1 + len(block.labels)} numbers: of the stage's own labels, and of "
      'each of config.mix.labels'
    )


def take(
  block: ConfigDict, parts: Sequence[Sequence[Example]], names: Sequence[str]
) -> Mix:
  """The mix of the sources called `names`, the first `counts` of each.

  Raises:
    ValueError: a source has fewer than it is to give, or is to give none.
  """
  counts = block.counts or [len(part) for part in parts]
  for part, count, name in zip(parts, counts, names, strict=True):
    if not 0 < count <= len(part):
      raise ValueError(
        f'config.mix.counts: {count} of {name}, which has {len(part)} that can '
        'be learned from'
      )
  return Mix(
    tuple(part[:n] for part, n in zip(parts, counts, strict=True)), block.order
  )


def match_lengths(
  examples: Sequence[Example], gap: float, source: str
) -> list[Example]:
  """Pairs whose lengths differ by at most the share `gap` of the longer one.

  In characters, as the rule "the longer one is better" counts; so a reward
  model cannot learn that rule. Rows without a pair stay.

  Raises:
    ValueError: no pair is left.
  """

  def alike(example: Example) -> bool:
    if example.pair is None:
      return True
    short, long = sorted(map(len, example.pair))
    return long - short <= gap * long

  kept = [example for example in examples if alike(example)]
  if not kept:
    raise ValueError(
      f'{source}: no pair has responses whose lengths differ by at most '
      f'{gap:g} of the longer one; raise config.length_gap'
    )
  return kept
