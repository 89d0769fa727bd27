import dataclasses
import gzip
import json

import numpy as np
import pytest

from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import Context, reward_accuracy, statistics


def _pair(i, first, second, p_first, **meta):
  return Example(
    id=str(i), prompt=f'p{i}', pair=(first, second), p_first=p_first, meta=meta
  )


def _context(**kwargs):
  pairs = [
    _pair(0, 'aaaa', 'a', 1.0, confidence=9),
    _pair(1, 'a', 'aaaa', 1.0, confidence=2),
    _pair(2, 'aa', 'aaa', 0.0, confidence=8),
    _pair(3, 'aa', 'bb', 0.0, confidence=1),
  ]
  scores = np.array([[2.0, 1.0], [0.0, 1.0], [0.0, 3.0], [1.0, 1.0]])
  return Context(pairs=pairs, pair_scores={'ai': scores}, **kwargs)


def test_accuracy_and_baseline_by_hand():
  metrics = reward_accuracy.evaluate(_context(), reward_accuracy.Config())
  assert metrics['eval_rewards/accuracies/ai'] == 2.5 / 4
  assert metrics['eval_rewards/accuracies/longer'] == 2.5 / 4
  # (1 - 1 + 3 - 0) / 4: margins in favour of the human's choice.
  assert metrics['eval_rewards/margins/ai'] == pytest.approx(0.75)
  low = metrics['eval_rewards/accuracies/ai_ci_low']
  assert low <= 2.5 / 4 <= metrics['eval_rewards/accuracies/ai_ci_high']


def test_by_confidence():
  config = reward_accuracy.Config(
    confidence_key='confidence', confidence_edges=(5.0,)
  )
  metrics = reward_accuracy.evaluate(_context(), config)
  assert metrics['eval_rewards/accuracies/ai_-inf..5'] == 0.25
  assert metrics['eval_rewards/accuracies/ai_5..inf'] == 1.0
  config = reward_accuracy.Config(confidence_key='sureness')
  with pytest.raises(ValueError, match="pair 0: its meta has no 'sureness'"):
    reward_accuracy.evaluate(_context(), config)


def test_by_length_and_source():
  """Ratios of the lengths are 4, 4, 1.5 and 1."""
  pairs = [
    dataclasses.replace(e, meta={'source': s})
    for e, s in zip(_context().pairs, 'xxyy', strict=True)
  ]
  context = dataclasses.replace(_context(), pairs=pairs)
  config = reward_accuracy.Config(
    length_edges=(1.2, 2.0), source_key='source', num_samples=20
  )
  metrics = reward_accuracy.evaluate(context, config)
  key = 'eval_rewards/accuracies/ai'
  # Right, wrong, right, and a tie of the scores.
  assert metrics[f'{key}_length_-inf..1.2'] == 0.5
  assert metrics[f'{key}_length_1.2..2'] == 1.0
  assert metrics[f'{key}_length_2..inf'] == 0.5
  assert metrics[f'{key}_source_x'] == 0.5
  assert metrics[f'{key}_source_y'] == 0.75
  assert metrics['eval_rewards/accuracies/longer_source_x'] == 0.5


def test_reliability_by_hand():
  """sigmoid(1), twice, and sigmoid(3); a tie promises a half."""
  curve = reward_accuracy.reliability_of(_context(), 'ai')
  assert [c[2] for c in curve] == [1, 2, 1]
  sigmoid = [1 / (1 + np.exp(-x)) for x in (0, 1, 3)]
  np.testing.assert_allclose([c[0] for c in curve], sigmoid)
  np.testing.assert_allclose([c[1] for c in curve], [0.5, 0.5, 1.0])


def test_reliability_is_what_the_calibration_error_is_of():
  rng = np.random.default_rng(1)
  margins, human = rng.normal(0, 2, 300), rng.integers(0, 2, 300)
  curve = reward_accuracy.reliability(margins, human)
  error = sum(n * abs(kept - said) for said, kept, n in curve) / 300
  assert error == pytest.approx(
    reward_accuracy.margin_calibration(margins, human)
  )


def test_calibration_of_planted_margins():
  rng = np.random.default_rng(0)
  margins = rng.normal(0, 2, size=20_000)
  human = (rng.random(20_000) < statistics.sigmoid(margins)).astype(float)
  assert reward_accuracy.margin_calibration(margins, human) < 0.015
  # Three times too sure of itself.
  assert reward_accuracy.margin_calibration(3 * margins, human) > 0.08


def test_calibration_ignores_the_stored_order():
  margins, human = np.array([2.0, -1.0, 0.3]), np.array([1.0, 1.0, 0.0])
  there = reward_accuracy.margin_calibration(margins, human)
  back = reward_accuracy.margin_calibration(-margins, 1 - human)
  assert there == pytest.approx(back)


def test_bad_input_is_named():
  context = Context(
    pairs=_context().pairs, pair_scores={'ai': np.zeros((3, 2))}
  )
  with pytest.raises(ValueError, match=r"'ai': scores are \(3, 2\)"):
    reward_accuracy.evaluate(context, reward_accuracy.Config())
  context = Context(pairs=[Example(id='r7', prompt='p', pair=('a', 'b'))])
  with pytest.raises(ValueError, match='pair r7'):
    reward_accuracy.evaluate(context, reward_accuracy.Config())


def test_longer_is_better_on_real_comparisons(shared_data):
  path = (
    shared_data
    / 'summarize-from-feedback/tldr_human_comparisons_valid.jsonl.gz'
  )
  with gzip.open(path, 'rt', encoding='utf-8') as lines:
    rows = [json.loads(line) for line in lines]
  pairs = [
    Example(str(i), r['prompt'], pair=(r['chosen'], r['rejected']), p_first=1.0)
    for i, r in enumerate(rows)
  ]
  metrics = reward_accuracy.evaluate(
    Context(pairs=pairs), reward_accuracy.Config(num_samples=50)
  )
  points = sum(
    1.0
    if len(r['chosen']) > len(r['rejected'])
    else 0.5
    if len(r['chosen']) == len(r['rejected'])
    else 0.0
    for r in rows
  )
  accuracy = metrics['eval_rewards/accuracies/longer']
  assert accuracy == pytest.approx(points / len(rows))
  assert accuracy == pytest.approx(0.56, abs=0.015)
