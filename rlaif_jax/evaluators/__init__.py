"""Evaluators: how good a model is (NumPy only).

An evaluator is a module `evaluators/<name>.py` with

  Config                                  frozen dataclass of its options
  evaluate(context, config) -> dict[str, float]

found by its file name; there is no registry to edit. A metric of one policy
is named `<metric>/<policy>`; what belongs to a metric is a suffix of its name,
such as `_ci_low` and `_ci_high`. `statistics.py` is what they share.
"""

import dataclasses
import importlib
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import _agreement, statistics

Judge = Callable[[Example, str], float]
Pair = tuple[str, str]  # of policies


@dataclasses.dataclass(frozen=True)
class Config:
  """Options that all evaluators share: how intervals are made.

  Attributes:
    level: coverage of the confidence intervals.
    num_samples: number of bootstrap resamples.
    seed: fixes the resamples.
  """

  level: float = 0.95
  num_samples: int = 2000
  seed: int = 0

  def bootstrap(self) -> dict[str, Any]:
    """The keyword arguments of the bootstrap functions."""
    return dict(level=self.level, num_samples=self.num_samples, seed=self.seed)


@dataclasses.dataclass(frozen=True)
class Labels:
  """What a labeler said about the pairs of a context.

  Attributes:
    p_first: averaged probability that the first response is better [n].
    logprobs_12: log-probs of the two label strings, pair in order [n, 2].
    logprobs_21: the same with the pair swapped [n, 2].
    prefers: 'better', or 'worse' where the labels name the worse response.
  """

  p_first: np.ndarray
  logprobs_12: np.ndarray | None = None
  logprobs_21: np.ndarray | None = None
  prefers: str = 'better'


@dataclasses.dataclass(frozen=True)
class Context:
  """What there is to evaluate; an evaluator says what it misses.

  Attributes:
    examples: the prompts that were answered [n].
    samples: for each policy, its response to each example [n].
    baseline: the policy that the others are compared with, such as 'sft'.
    judge: worth of a response; higher is better.
    scores: the judge's scores of samples [n], where they are known already.
    preferred: what a judge who compares said of two policies: 1 the first is
      better, 0 the second, 0.5 a tie, or in between; NaN where nothing [n].
    averaged: the same by the mean of both orders of presentation, of judges
      who saw both and whose `preferred` needs both to agree.
    flipped: whether such a judge's verdict changed with the order [n].
    axes: scores of samples [n] by axis, such as empathy, and policy.
    nats: for each policy, what each response costs a language model [n], and
      how many tokens that is [n].
    ended: for each policy, whether its response ended by itself [n].
    kl: for each policy, its mean sequence KL to the SFT model, in nats.
    pairs: human comparisons [m]; `pair` and the human's `p_first` are set.
    labels: the labeler's verdicts on `pairs`.
    pair_scores: for each reward model, its scores of `pairs` [m, 2].
  """

  examples: Sequence[Example] = ()
  samples: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
  baseline: str = ''
  judge: Judge | None = None
  scores: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  preferred: Mapping[Pair, np.ndarray] = dataclasses.field(default_factory=dict)
  averaged: Mapping[Pair, np.ndarray] = dataclasses.field(default_factory=dict)
  flipped: Mapping[Pair, np.ndarray] = dataclasses.field(default_factory=dict)
  axes: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(
    default_factory=dict
  )
  nats: Mapping[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(
    default_factory=dict
  )
  ended: Mapping[str, Sequence[bool]] = dataclasses.field(default_factory=dict)
  kl: Mapping[str, float] = dataclasses.field(default_factory=dict)
  pairs: Sequence[Example] = ()
  labels: Labels | None = None
  pair_scores: Mapping[str, np.ndarray] = dataclasses.field(
    default_factory=dict
  )

  def responses(self, policy: str) -> Sequence[str]:
    """The responses [n] of `policy`.

    Raises:
      ValueError: no samples of that name, or not one per example.
    """
    if policy not in self.samples:
      known = ', '.join(self.samples) or 'none'
      raise ValueError(f'no samples of policy {policy!r}; there are: {known}')
    texts = self.samples[policy]
    if len(texts) != len(self.examples) or not texts:
      raise ValueError(
        f'policy {policy!r} has {len(texts)} responses to '
        f'{len(self.examples)} prompts; one each is needed'
      )
    return texts

  def judged(self, policy: str) -> np.ndarray:
    """The judge's scores [n] of `policy`, known ones or by asking it.

    Raises:
      ValueError: no judge, or a score that is not a finite number.
    """
    texts = self.responses(policy)
    if policy in self.scores:
      scores = self.scores[policy]
    elif self.judge is not None:
      rows = zip(self.examples, texts, strict=True)
      scores = [self.judge(example, text) for example, text in rows]
    else:
      raise ValueError(f'no judge, and no scores of policy {policy!r}')
    if len(scores) != len(texts):
      raise ValueError(
        f'policy {policy!r}: {len(scores)} scores of {len(texts)} responses'
      )
    return statistics.finite(scores, f'scores of policy {policy!r}')

  def compared(self, a: str, b: str, tie_margin: float) -> np.ndarray:
    """Preference [n] for `a` over `b`: 1, 0, 0.5 for a tie, or in between.

    By a judge who compares, where there is one, NaN where it said nothing;
    else by the scores, of which those within `tie_margin` tie.

    Raises:
      ValueError: neither is known, or nothing was said of any example.
    """
    found = of_pair(self.preferred, a, b)
    if found is None:
      if self.preferred and not (self.scores or self.judge):
        raise ValueError(f'the judge has not compared {a!r} with {b!r}')
      return _agreement.preferences(self.judged(a), self.judged(b), tie_margin)
    if len(found) != len(self.examples) or np.isnan(found).all():
      raise ValueError(
        f'{a!r} and {b!r}: {int(np.isfinite(found).sum())} comparisons of '
        f'{len(self.examples)} prompts'
      )
    return found

  def clusters(self) -> np.ndarray:
    """Number of the distinct prompt of each example [n]."""
    prompts = [example.prompt for example in self.examples]
    return np.unique(prompts, return_inverse=True)[1]

  def contestants(self) -> list[str]:
    """The policies other than the baseline."""
    return [name for name in self.samples if name != self.baseline]

  def human(self) -> np.ndarray:
    """Human probability that the first of each of `pairs` is better [m].

    Raises:
      ValueError: no pairs, or one without responses or human label.
    """
    for example in self.pairs:
      if example.pair is None or example.p_first is None:
        raise ValueError(f'pair {example.id}: responses or human label missing')
    return statistics.finite([e.p_first for e in self.pairs], 'human labels')


def of_pair(
  table: Mapping[Pair, np.ndarray], a: str, b: str
) -> np.ndarray | None:
  """What `table` has of A against B, whichever it names first, or None."""
  if (a, b) in table:
    return np.asarray(table[a, b], float)
  return 1 - np.asarray(table[b, a], float) if (b, a) in table else None


def with_scores(context: Context) -> Context:
  """`context` with every policy judged once, for several evaluators to use."""
  scores = {name: context.judged(name) for name in context.samples}
  return dataclasses.replace(context, scores=scores)


def interval(key: str, ci: statistics.Interval) -> dict[str, float]:
  """The two metrics of the confidence interval of the metric `key`."""
  return {f'{key}_ci_low': ci.low, f'{key}_ci_high': ci.high}


def names() -> list[str]:
  """Names of the evaluators: the public modules of this folder."""
  return sorted(
    path.stem
    for path in pathlib.Path(__file__).parent.glob('*.py')
    if not path.stem.startswith('_') and path.stem != 'statistics'
  )


def load(name: str) -> types.ModuleType:
  """Imports the evaluator `name`; ValueError lists what exists otherwise."""
  if name not in names():
    raise ValueError(
      f'{name!r} is not an evaluator; there are: {", ".join(names())}'
    )
  return importlib.import_module(f'rlaif_jax.evaluators.{name}')
