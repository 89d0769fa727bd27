"""Perplexity: how likely a language model finds the responses.

exp(nats / tokens) over all tokens of a policy's responses, ends included. Low
is fluent to that model, and also dull: repetition and boilerplate are likely.
Compare policies under one model only, since tokens differ between models.
"""

import dataclasses

import numpy as np

from rlaif_jax import evaluators
from rlaif_jax.evaluators import statistics


@dataclasses.dataclass(frozen=True)
class Config(evaluators.Config):
  """Options of the perplexity."""


def perplexity(nats: np.ndarray, tokens: np.ndarray) -> float:
  """exp of the mean cost of a token.

  Args:
    nats: cost of each response, -log p [n].
    tokens: tokens of each response [n].

  Raises:
    ValueError: no tokens, lengths differ, or a cost is not finite.
  """
  cost = statistics.finite(nats, 'costs of responses in nats')
  count = statistics.finite(tokens, 'tokens of responses')
  if cost.shape != count.shape or not count.sum() > 0:
    raise ValueError(f'{len(cost)} costs of {len(count)} responses of tokens')
  return float(np.exp(cost.sum() / count.sum()))


def evaluate(context: evaluators.Context, config: Config) -> dict[str, float]:
  """`text/perplexity/<policy>` with `_ci_low` and `_ci_high`, by prompt.

  Raises:
    ValueError: no language model has read the responses.
  """
  if not context.nats:
    raise ValueError(
      'perplexity needs a language model that reads the responses; name one '
      '(of the evaluate stage: config.reader.path)'
    )
  metrics, clusters = {}, context.clusters()
  for name, costs in context.nats.items():
    nats, tokens = (np.asarray(x, float) for x in costs)
    key = f'text/perplexity/{name}'
    metrics[key] = perplexity(nats, tokens)
    ci = statistics.bootstrap_statistic(
      lambda i, n=nats, t=tokens: perplexity(n[i], t[i]),
      len(nats),
      clusters=clusters,
      **config.bootstrap(),
    )
    metrics |= evaluators.interval(key, ci)
  return metrics
