"""Figures on the experts' choices of hhh-alignment, by plain loops."""

import gzip
import json

import numpy as np
import pytest

from rlaif_jax.data import records
from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import Context, Labels, alignment


def _labeler(first: str, second: str) -> float:
  """Log-odds of the first slot: it is shown first, or it is much longer.

  A labeler with a taste for the first place that length can overrule.
  """
  ratio = len(first) / len(second)
  return 0.5 + np.log(ratio) if ratio != 1 else 0.5


def test_a_labeler_of_the_experts_pairs(shared_data):
  path = shared_data / 'hhh-alignment/hhh_alignment_dev.jsonl.gz'
  with gzip.open(path, 'rt', encoding='utf-8') as lines:
    rows = [json.loads(line) for line in lines]
  pairs = [
    (r['chosen'].strip(), r['rejected'].strip())
    if i % 2 else (r['rejected'].strip(), r['chosen'].strip())
    for i, r in enumerate(rows)
  ]  # fmt: skip
  human = [float(i % 2) for i in range(len(rows))]
  own = np.array([[_labeler(a, b), 0.0] for a, b in pairs])
  swapped = np.array([[_labeler(b, a), 0.0] for a, b in pairs])
  p_12 = 1 / (1 + np.exp(-own[:, 0]))
  p_21 = 1 - 1 / (1 + np.exp(-swapped[:, 0]))
  p = (p_12 + p_21) / 2
  context = Context(
    pairs=[
      Example(id=str(i), prompt=r['prompt'], pair=pair, p_first=human[i])
      for i, (r, pair) in enumerate(zip(rows, pairs, strict=True))
    ],
    labels=Labels(p, own, swapped),
  )
  found = alignment.evaluate(context, alignment.Config(num_samples=20))

  agreed = ties = same = first = flips = decided = 0
  table = {}
  for i in range(len(rows)):
    verdict = 0 if abs(p[i] - 0.5) < 1e-6 else 1 if p[i] > 0.5 else -1
    truth = 1 if human[i] == 1 else -1
    ties += verdict == 0
    agreed += 0.5 if verdict == 0 else float(verdict == truth)
    table[verdict, truth] = table.get((verdict, truth), 0) + 1
    slots = [1 if own[i, 0] > 0 else -1, 1 if swapped[i, 0] > 0 else -1]
    same += slots[0] == slots[1]
    first += slots == [1, 1]
    decided += 1
    flips += slots[0] == slots[1]
  n = len(rows)
  chance = sum(
    sum(v for (a, _), v in table.items() if a == c)
    * sum(v for (_, b), v in table.items() if b == c)
    for c in (-1, 0, 1)
  ) / n**2  # fmt: skip
  observed = (table.get((1, 1), 0) + table.get((-1, -1), 0)) / n
  assert found['labeler/alignment'] == pytest.approx(agreed / n)
  assert found['labeler/ties'] == pytest.approx(ties / n)
  assert found['labeler/kappa'] == pytest.approx(
    (observed - chance) / (1 - chance)
  )
  assert found['labeler/position_bias'] == pytest.approx(same / n)
  assert found['labeler/position_bias_first'] == pytest.approx(first / same)
  assert found['labeler/flip_rate'] == pytest.approx(flips / decided)
  assert found['labeler/favoured_slot'] == 1
  assert 0.1 < found['labeler/position_bias'] < 0.9


def test_experts_choose_as_the_file_says(shared_data):
  """Read as preferences, the chosen one is preferred wherever it is put."""
  path = shared_data / 'hhh-alignment/hhh_alignment_dev.jsonl.gz'
  with gzip.open(path, 'rt', encoding='utf-8') as lines:
    rows = [json.loads(line) for line in lines]
  for record, row in zip(records.read_preferences(path), rows, strict=True):
    assert record.pair[0 if record.p_first == 1 else 1] == row['chosen'].strip()
