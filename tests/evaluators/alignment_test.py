import gzip
import json
import math

import numpy as np
import pytest

from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import Context, Labels, alignment, statistics


def test_alignment_by_hand():
  metrics = alignment.alignment([0.9, 0.2, 0.5, 0.7], [1.0, 0.0, 1.0, 0.0])
  assert metrics['labeler/alignment'] == pytest.approx(2.5 / 4)
  assert metrics['labeler/ties'] == 0.25
  # Verdicts + - 0 + against + - + -: po = 1/2, pe = 1/4 + 1/8 = 3/8.
  assert metrics['labeler/kappa'] == pytest.approx(0.125 / 0.625)
  assert (
    metrics['labeler/alignment_ci_low']
    <= 2.5 / 4
    <= metrics['labeler/alignment_ci_high']
  )


def test_a_human_tie_counts_half():
  metrics = alignment.alignment([0.9, 0.9], [0.5, 1.0])
  assert metrics['labeler/alignment'] == 0.75


def test_entropy_in_nats():
  metrics = alignment.alignment([0.5, 1.0], [1.0, 1.0])
  assert metrics['labeler/entropy'] == pytest.approx(math.log(2) / 2)


def test_labels_must_be_probabilities():
  with pytest.raises(ValueError, match=r'probabilities in \[0, 1\]'):
    alignment.alignment([1.2], [1.0])
  with pytest.raises(ValueError, match='1 margins but 2'):
    alignment.alignment([0.2], [1.0, 0.0])


def _logprobs(p_slot_1):
  p = np.array(p_slot_1)
  return np.log(np.stack([p, 1 - p], axis=1))


def test_position_bias_by_hand():
  # Slot 1 twice (three pairs), slot 2 twice (one), consistent (two).
  order_12 = _logprobs([0.9, 0.6, 0.7, 0.2, 0.8, 0.3])
  order_21 = _logprobs([0.8, 0.6, 0.9, 0.4, 0.1, 0.6])
  metrics = alignment.position_bias(order_12, order_21)
  assert metrics['labeler/position_bias'] == pytest.approx(4 / 6)
  assert metrics['labeler/position_bias_first'] == 0.75
  assert metrics['labeler/favoured_slot'] == 1
  assert metrics['labeler/flip_rate'] == pytest.approx(4 / 6)
  assert metrics['labeler/first_rate'] == pytest.approx(8 / 12)
  assert metrics['labeler/position_bias_p_value'] == statistics.binomial_test(
    3, 4
  )


def test_labels_that_name_the_worse_response_favour_the_other_slot():
  order = _logprobs([0.9, 0.8])
  metrics = alignment.position_bias(order, order, prefers='worse')
  assert metrics['labeler/position_bias'] == 1.0
  assert metrics['labeler/favoured_slot'] == 2
  assert metrics['labeler/first_rate'] == 0.0
  with pytest.raises(ValueError, match="'better' or 'worse'"):
    alignment.position_bias(order, order, prefers='best')


def test_ties_between_slots_are_no_bias():
  metrics = alignment.position_bias(
    _logprobs([0.5, 0.9]), _logprobs([0.9, 0.1])
  )
  assert metrics['labeler/position_bias'] == 0.0
  assert metrics['labeler/position_bias_first'] == 0.5
  assert metrics['labeler/position_bias_p_value'] == 1.0
  assert metrics['labeler/favoured_slot'] == 0
  assert metrics['labeler/flip_rate'] == 0.0
  assert metrics['labeler/first_rate'] == pytest.approx(2.5 / 4)


def test_only_differences_of_logprobs_count():
  a, b = _logprobs([0.9, 0.3]), _logprobs([0.6, 0.2])
  assert alignment.position_bias(a, b) == alignment.position_bias(a - 3, b - 1)


def test_position_bias_refuses_other_shapes():
  with pytest.raises(ValueError, match=r'must be \[n, 2\]'):
    alignment.position_bias(np.zeros(3), np.zeros((3, 2)))
  with pytest.raises(ValueError, match='2 pairs in one order, 3'):
    alignment.position_bias(np.zeros((2, 2)), np.zeros((3, 2)))


def test_length_bias_by_hand():
  pairs = [('long', 'x'), ('x', 'long'), ('a', 'b'), ('long', 'x')]
  found = alignment.length_bias([0.9, 0.8, 1.0, 0.5], pairs)
  assert found == {'labeler/longer_rate': (1 + 0 + 0.5 + 0.5) / 4}
  flipped = [pair[::-1] for pair in pairs]
  assert alignment.length_bias([0.1, 0.2, 0.0, 0.5], flipped) == found
  with pytest.raises(ValueError, match='2 labels of 4 pairs'):
    alignment.length_bias([0.1, 0.2], pairs)


def test_evaluate_joins_both():
  pairs = [
    Example(id=str(i), prompt='p', pair=('a', 'b'), p_first=p)
    for i, p in enumerate([1.0, 0.0])
  ]
  order = _logprobs([0.9, 0.8])
  labels = Labels(np.array([0.8, 0.4]), order, order[:, ::-1])
  context = Context(pairs=pairs, labels=labels)
  metrics = alignment.evaluate(context, alignment.Config(num_samples=20))
  assert metrics['labeler/alignment'] == 1.0
  assert metrics['labeler/flip_rate'] == 0.0
  with pytest.raises(ValueError, match='there are none'):
    alignment.evaluate(Context(pairs=pairs), alignment.Config())


# -- real judges, recomputed with plain loops --------------------------------


def _rows(path):
  with gzip.open(path, 'rt', encoding='utf-8') as lines:
    return [json.loads(line) for line in lines]


def _judgements(shared_data):
  """{(judge, style): [(gold, winner in order 12, winner in order 21)]}."""
  gold = {
    (r['subset'], r['idx']): str(r['label'])
    for r in _rows(shared_data / 'llmbar/llmbar_dev.jsonl.gz')
  }
  groups = {}
  for r in _rows(shared_data / 'llmbar/llmbar_ai_judge_outputs_dev.jsonl.gz'):
    if r['winner_12'] in ('1', '2') and r['winner_21'] in ('1', '2'):
      groups.setdefault((r['judge'], r['style']), []).append(
        (
          gold[r['subset'], r['idx']],
          r['winner_12'],
          r['winner_21'],
        )
      )
  return groups


def _answers(rows):
  """Log-probs per order of a judge that is sure of every answer."""
  first_12 = np.array([w12 == '1' for _, w12, _ in rows])
  first_21 = np.array([w21 == '2' for _, _, w21 in rows])  # 2 was shown first
  return [
    np.where(f[:, None], [-0.1, -3.0], [-3.0, -0.1])
    for f in (first_12, first_21)
  ]


def test_llmbar_judges_equal_a_plain_recomputation(shared_data):
  groups = _judgements(shared_data)
  assert len(groups) >= 9
  for rows in groups.values():
    metrics = alignment.position_bias(*_answers(rows))
    same = [(g, a, b) for g, a, b in rows if a != b]
    # Contradicting itself on the response means staying with the slot.
    assert metrics['labeler/flip_rate'] == pytest.approx(len(same) / len(rows))
    assert metrics['labeler/position_bias'] == metrics['labeler/flip_rate']
    first = sum(1 for _, a, _ in same if a == '1')
    if same:
      assert metrics['labeler/position_bias_first'] == pytest.approx(
        first / len(same)
      )
    answered_first = sum((a == '1') + (b == '2') for _, a, b in rows)
    assert metrics['labeler/first_rate'] == pytest.approx(
      answered_first / (2 * len(rows))
    )

    p_first = [((a == '1') + (b == '1')) / 2 for _, a, b in rows]
    human = [float(g == '1') for g, _, _ in rows]
    aligned = alignment.alignment(p_first, human, num_samples=20)
    points = sum(0.5 if a != b else float(a == g) for g, a, b in rows)
    assert aligned['labeler/alignment'] == pytest.approx(points / len(rows))
    assert aligned['labeler/ties'] == pytest.approx(len(same) / len(rows))


def test_llmbar_figures_of_the_data_readme(shared_data):
  groups = _judgements(shared_data)
  gpt4 = groups['GPT-4', 'vanilla']
  assert np.mean([g == a for g, a, _ in gpt4]) == pytest.approx(0.81, abs=0.02)
  bias = alignment.position_bias(*_answers(gpt4))
  assert 1 - bias['labeler/flip_rate'] == pytest.approx(0.92, abs=0.015)
  falcon = [rows for key, rows in groups.items() if key[0] == 'Falcon']
  worst = max(
    alignment.position_bias(*_answers(rows))['labeler/position_bias']
    for rows in falcon
  )
  assert worst > 0.8  # almost pure position bias


def test_pandalm_agreement_and_kappa(shared_data):
  rows = _rows(shared_data / 'pandalm/pandalm_testset_dev.jsonl.gz')
  to_p = {1: 1.0, 2: 0.0, 0: 0.5}
  a = np.array([to_p[r['annotator1']] for r in rows])
  b = np.array([to_p[r['annotator2']] for r in rows])
  metrics = alignment.alignment(a, b, num_samples=20)
  points = sum(
    0.5 if 0.5 in (x, y) else float(x == y) for x, y in zip(a, b, strict=True)
  )
  assert metrics['labeler/alignment'] == pytest.approx(points / len(rows))
  observed = np.mean(a == b)
  chance = sum(np.mean(a == v) * np.mean(b == v) for v in (0.0, 0.5, 1.0))
  assert metrics['labeler/kappa'] == pytest.approx(
    (observed - chance) / (1 - chance)
  )
