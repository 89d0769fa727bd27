"""Words shared with the reference (ROUGE) and with the prompt (copying).

ROUGE (Lin 2004) as F1 over words in lower case, without stemming. It tells a
broken policy from a working one and little more: people's choices follow it
hardly better than length (Stiennon et al., arXiv 2009.01325, section 4.4).
"""

import collections
import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from rlaif_jax import evaluators
from rlaif_jax.evaluators import statistics

_WORD = re.compile(r'\w+')


@dataclasses.dataclass(frozen=True)
class Config(evaluators.Config):
  """Options of the overlap.

  Attributes:
    copy_size: words per n-gram when counting what is copied.
  """

  copy_size: int = 3


def words(text: str) -> list[str]:
  """Runs of letters, digits and underscores, in lower case."""
  return _WORD.findall(text.lower())


def rouge_n(response: str, reference: str, size: int) -> float:
  """F1 of the n-grams of `size` words, each as often as both have it.

  0 where either has none.
  """
  ours, theirs = (_counts(words(text), size) for text in (response, reference))
  return _f1((ours & theirs).total(), ours.total(), theirs.total())


def rouge_l(response: str, reference: str) -> float:
  """F1 of the longest common subsequence of words."""
  ours, theirs = words(response), words(reference)
  return _f1(common_subsequence(ours, theirs), len(ours), len(theirs))


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
  """Length of the longest common subsequence.

  A row of the usual table is one integer, of a bit for each word of `a` that
  is 0 where the length grows (Hyyrö 2004): a few operations for each of `b`.
  """
  places: dict[str, int] = collections.defaultdict(int)
  for i, word in enumerate(a):
    places[word] |= 1 << i
  full = row = (1 << len(a)) - 1
  for word in b:
    match = row & places.get(word, 0)
    row = ((row + match) | (row - match)) & full
  return len(a) - row.bit_count()


def copied(response: str, prompt: str, size: int = 3) -> float:
  """Share of the response's n-grams of words that the prompt has too."""
  ours, source = _counts(words(response), size), _counts(words(prompt), size)
  total = ours.total()
  return sum(n for gram, n in ours.items() if gram in source) / max(total, 1)


def longest_copy(response: str, prompt: str) -> int:
  """Words of the longest run of the response that stands in the prompt."""
  said, source = words(response), f' {" ".join(words(prompt))} '
  longest = start = 0
  for end in range(1, len(said) + 1):
    # A run that is not there is not there with a word more, either.
    while start < end and f' {" ".join(said[start:end])} ' not in source:
      start += 1
    longest = max(longest, end - start)
  return longest


def evaluate(context: evaluators.Context, config: Config) -> dict[str, float]:
  """`text/rouge_1`, `_2`, `_l`, `text/copied_<n>grams`, `text/longest_copy`.

  Each `/<policy>`, of every policy, as the mean over responses with `_ci_low`
  and `_ci_high`, clustered by prompt. ROUGE is over the examples that have a
  reference, and left out where none has.
  """
  clusters, size = context.clusters(), config.copy_size
  known = [i for i, e in enumerate(context.examples) if e.response is not None]
  every = list(range(len(context.examples)))
  rules = {
    'rouge_1': (known, lambda t, e: rouge_n(t, e.response, 1)),
    'rouge_2': (known, lambda t, e: rouge_n(t, e.response, 2)),
    'rouge_l': (known, lambda t, e: rouge_l(t, e.response)),
    f'copied_{size}grams': (every, lambda t, e: copied(t, e.prompt, size)),
    'longest_copy': (every, lambda t, e: longest_copy(t, e.prompt)),
  }
  metrics: dict[str, float] = {}
  for name in context.samples:
    texts = context.responses(name)
    for metric, (rows, rule) in rules.items():
      if not rows:
        continue
      key = f'text/{metric}/{name}'
      values = [rule(texts[i], context.examples[i]) for i in rows]
      ci = statistics.bootstrap_ci(
        values, clusters=clusters[rows], **config.bootstrap()
      )
      metrics |= {key: float(np.mean(values)), **evaluators.interval(key, ci)}
  return metrics


def _counts(found: Sequence[str], size: int) -> collections.Counter:
  grams = zip(*(found[i:] for i in range(size)), strict=False)
  return collections.Counter(grams)


def _f1(shared: int, ours: int, theirs: int) -> float:
  return 2 * shared / (ours + theirs) if shared else 0.0
