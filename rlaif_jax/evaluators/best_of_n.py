"""Best of n: the score of the best of n samples against the KL it costs.

Picking the best of n samples is the strongest simple rival of RL and the
classic picture of over-optimisation: draw the score over sqrt(KL) beside the
policies' own (Gao et al., arXiv 2210.10760).
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from rlaif_jax import evaluators
from rlaif_jax.evaluators import statistics


@dataclasses.dataclass(frozen=True)
class Config(evaluators.Config):
  """Options of the best-of-n curve.

  Attributes:
    sizes: values of n; those above the number of samples are left out.
  """

  sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)


def kl(n: int) -> float:
  """KL of the best of n to the policy that made the samples, in nats.

  log n - (n - 1) / n: exact where no two samples score alike, else an upper
  bound (Beirami et al., arXiv 2401.01879).
  """
  return math.log(n) - (n - 1) / n


def expected_best(
  scores: ArrayLike, sizes: Sequence[int], worth: ArrayLike | None = None
) -> np.ndarray:
  """Expected worth of the best-scored of n out of m samples [len(sizes)].

  The mean over all subsets of n, which is unbiased for every n <= m: the i-th
  from below is the best of C(i - 1, n - 1) of the C(m, n) subsets. Samples of
  one score share what they have.

  Args:
    scores: what the best is chosen by [m].
    sizes: values of n, 1 to m.
    worth: what the chosen one is worth to another judge, who tells whether
      choosing helps or games the score [m]; the score itself where None.

  Raises:
    ValueError: no samples, lengths differ, a value is not finite, or an n
      outside 1 to m.
  """
  by = statistics.finite(scores, 'scores')
  value = by if worth is None else statistics.finite(worth, 'worth')
  m = len(by)
  if len(value) != m:
    raise ValueError(f'{m} scores but {len(value)} values of their worth')
  for n in sizes:
    if not 1 <= n <= m:
      raise ValueError(f'best of {n} cannot be estimated from {m} samples')
  _, place, count = np.unique(by, return_inverse=True, return_counts=True)
  mean = np.bincount(place, weights=value) / count
  above = np.cumsum(count)  # samples up to and with each score
  curve = []
  for n in sizes:
    subsets = [math.comb(int(i), n) for i in [0, *above]]
    share = [
      (b - a) / subsets[-1]  # exact integers: no overflow for large m
      for a, b in itertools.pairwise(subsets)
    ]
    curve.append(float(np.dot(share, mean)))
  return np.array(curve)


def evaluate(context: evaluators.Context, config: Config) -> dict[str, float]:
  """`eval_best_of/<policy>_<n>`: expected judge's score of the best of n.

  Several samples of a prompt are examples that repeat it; the prompt with the
  fewest sets how far n goes. With `_ci_low`, `_ci_high`, clustered by prompt,
  and `_kl` in nats.
  """
  prompts = [example.prompt for example in context.examples]
  fewest = min(collections.Counter(prompts).values(), default=0)
  sizes = [n for n in config.sizes if n <= fewest]
  clusters = context.clusters()
  metrics = {}
  for name in context.samples:
    scores = context.judged(name)
    groups = [scores[clusters == c] for c in range(clusters.max() + 1)]
    curves = np.array([expected_best(group, sizes) for group in groups])
    for n, values in zip(sizes, curves.T, strict=True):
      key = f'eval_best_of/{name}_{n}'
      ci = statistics.bootstrap_ci(values, **config.bootstrap())
      metrics |= {
        key: float(values.mean()),
        **evaluators.interval(key, ci),
        f'{key}_kl': kl(n),
      }
  return metrics
