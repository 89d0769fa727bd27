"""Perplexity by hand."""

import math

import numpy as np
import pytest

from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import Context, perplexity


def test_by_hand():
  """4 and 6 tokens that cost 2 and 18 nats: 2 each, not (0.5 + 3) / 2."""
  assert perplexity.perplexity([2.0, 18.0], [4, 6]) == pytest.approx(
    math.exp(2)
  )
  # A uniform model over 50 tokens has a perplexity of 50.
  assert perplexity.perplexity([5 * math.log(50)], [5]) == pytest.approx(50)


@pytest.mark.parametrize(
  ('nats', 'tokens', 'message'),
  [
    ([1.0], [1, 2], '1 costs of 2 responses'),
    ([0.0], [0], '1 costs of 1 responses'),
    ([math.inf], [1], 'row 0 is inf'),
  ],
)
def test_errors(nats, tokens, message):
  with pytest.raises(ValueError, match=message):
    perplexity.perplexity(nats, tokens)


def test_evaluate_resamples_prompts():
  rng = np.random.default_rng(0)
  nats, tokens = rng.uniform(5, 30, 40), rng.integers(3, 12, 40)
  examples = [Example(id=str(i), prompt=f'p{i // 2}') for i in range(40)]
  context = Context(
    examples=examples,
    samples={'sft': ['x'] * 40},
    baseline='sft',
    nats={'sft': (nats, tokens)},
  )
  metrics = perplexity.evaluate(context, perplexity.Config(num_samples=300))
  assert metrics['text/perplexity/sft'] == pytest.approx(
    math.exp(nats.sum() / tokens.sum())
  )
  # The same resamples, by a plain loop over clusters.
  draws = []
  rows = np.random.default_rng(0)
  order = sorted({e.prompt for e in examples})
  for _ in range(300):
    drawn = rows.integers(20, size=20)
    i = [k for d in drawn for k, e in enumerate(examples)
         if e.prompt == order[d]]  # fmt: skip
    draws.append(math.exp(nats[i].sum() / tokens[i].sum()))
  low, high = np.quantile(draws, [0.025, 0.975])
  assert metrics['text/perplexity/sft_ci_low'] == pytest.approx(low)
  assert metrics['text/perplexity/sft_ci_high'] == pytest.approx(high)


def test_without_a_reader():
  context = Context(examples=[Example(id='0', prompt='p')])
  with pytest.raises(ValueError, match='config.reader.path'):
    perplexity.evaluate(context, perplexity.Config())
