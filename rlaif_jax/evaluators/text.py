"""What the texts look like: length, repetition, variety, clean endings."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from rlaif_jax import evaluators


@dataclasses.dataclass(frozen=True)
class Config(evaluators.Config):
  """Options of the text statistics.

  Attributes:
    repeat_size: words per n-gram when counting repetition.
  """

  repeat_size: int = 3


def ngrams(text: str, size: int) -> list[tuple[str, ...]]:
  """The n-grams of `size` words (split at white space) in `text`."""
  words = text.split()
  return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]


def mean_words(texts: Sequence[str]) -> float:
  """Mean number of words, split at white space."""
  return float(np.mean([len(text.split()) for text in texts]))


def mean_chars(texts: Sequence[str]) -> float:
  """Mean number of characters, the paper's measure of length (App. J)."""
  return float(np.mean([len(text) for text in texts]))


def repeated_ngrams(texts: Sequence[str], size: int = 3) -> float:
  """Mean over responses of the share of n-grams that occurred before in it.

  A response with fewer words than an n-gram counts 0.
  """
  shares = []
  for text in texts:
    grams = ngrams(text, size)
    shares.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
  return float(np.mean(shares))


def distinct_ngrams(texts: Sequence[str], size: int) -> float:
  """Different n-grams over all n-grams of all responses ("distinct-n").

  0 where no response has an n-gram. Falls with the number of texts: compare
  only sets of one size.
  """
  counts = collections.Counter(g for text in texts for g in ngrams(text, size))
  return len(counts) / max(counts.total(), 1)


def evaluate(context: evaluators.Context, config: Config) -> dict[str, float]:
  """Statistics `text/<what>/<policy>` of every policy, the baseline too.

  Also `objective/kl/<policy>` where the context knows it.
  """
  metrics = {}
  for name in context.samples:
    texts = context.responses(name)
    metrics |= {
      f'text/words/{name}': mean_words(texts),
      f'text/chars/{name}': mean_chars(texts),
      f'text/repeated_{config.repeat_size}grams/{name}': repeated_ngrams(
        texts, config.repeat_size
      ),
      f'text/distinct_1/{name}': distinct_ngrams(texts, 1),
      f'text/distinct_2/{name}': distinct_ngrams(texts, 2),
    }
    if name in context.ended:
      metrics[f'text/ended/{name}'] = float(np.mean(context.ended[name]))
    if name in context.kl:
      metrics[f'objective/kl/{name}'] = float(context.kl[name])
  return metrics
