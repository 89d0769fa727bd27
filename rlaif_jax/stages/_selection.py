"""Which samples are learned from: rules on their scores, and hindsight."""

import dataclasses
from collections.abc import Hashable, Sequence

import numpy as np

from rlaif_jax.data.datasets import Example

RULES = ('all', 'best', 'threshold', 'quantile')


def choose(
  scores: np.ndarray, groups: Sequence[Hashable], rule: str, threshold: float
) -> tuple[np.ndarray, float | None]:
  """Places of the samples that a rule keeps, in their order.

  'all'        every one (the Grow step of ReST, arXiv 2308.08998)
  'best'       the best of each group, of equal ones the first: best-of-K
               (rejection sampling of Llama 2, arXiv 2307.09288, 3.2.3)
  'threshold'  those whose score is above `threshold` (ReST's Improve step)
  'quantile'   those whose score is that of this quantile or above, so the
               best 1 - threshold of them

  Args:
    scores: [n] float.
    groups: n keys; the samples of a prompt, of one round, have the same.
    rule: one of `RULES`.
    threshold: a score, or a share in [0, 1).

  Returns:
    Indices [m] int, and the score that was the limit, None where none was.
  """
  every = np.arange(len(scores))
  if rule == 'all':
    return every, None
  if rule == 'best':
    best: dict[Hashable, int] = {}
    for i, group in enumerate(groups):
      if group not in best or scores[i] > scores[best[group]]:
        best[group] = i
    return np.array(sorted(best.values()), int), None
  if rule == 'threshold':
    return every[scores > threshold], threshold
  limit = float(np.quantile(scores, threshold))
  return every[scores >= limit], limit


def check(rule: str, threshold: float) -> None:
  """Raises ValueError for a rule that there is not, or no such quantile."""
  if rule not in RULES:
    raise ValueError(
      f'config.select={rule!r}; use one of {", ".join(map(repr, RULES))}'
    )
  if rule == 'quantile' and not 0 <= threshold < 1:
    raise ValueError(
      f'config.threshold={threshold} is no quantile; give a share in [0, 1)'
    )


def grades(scores: np.ndarray, count: int) -> np.ndarray:
  """Grade [n] in 0..count - 1 of each score, worst first, in equal shares.

  A score at a limit between two shares gets the better grade.
  """
  limits = np.quantile(scores, np.arange(1, count) / count)
  return np.searchsorted(limits, scores, side='right')


def instruct(example: Example, instruction: str) -> Example:
  """The example with an instruction in its prompt's first paragraph."""
  if not instruction:
    return example
  return dataclasses.replace(
    example, prompt=f'{instruction}\n\n{example.prompt}'
  )
