"""Label reports: by hand, on planted truths, and against plain loops."""

import gzip
import json
import math

import numpy as np
import pytest

from rlaif_jax.data import records
from rlaif_jax.data.datasets import Example
from rlaif_jax.data.records import PreferenceRecord
from rlaif_jax.evaluators import (
  Context,
  Labels,
  alignment,
  label_report,
  statistics,
)

FAST = label_report.Config(num_samples=50)
SURE = ((-0.1, -3.0), (-3.0, -0.1))  # log-probs of an answer "1", of one "2"


def record(i, p_first, human=None, orders=None, **kwargs):
  """`orders`: probability of the first slot in order 12 and in order 21."""
  logprobs = {}
  if orders is not None:
    for key, p in zip(('logprobs_12', 'logprobs_21'), orders, strict=True):
      logprobs[key] = (math.log(p), math.log(1 - p))
  meta = {'human_p_first': human, **kwargs.pop('meta', {})}
  fields = dict(prompt=f'p{i}', response_1='one', response_2='other')
  return PreferenceRecord(
    id=str(i), p_first=p_first, meta=meta, **logprobs, **{**fields, **kwargs}
  )


def averaged(i, orders, human=None, **kwargs):
  """A record whose label is the mean of both orders."""
  return record(i, (orders[0] + 1 - orders[1]) / 2, human, orders, **kwargs)


def report(rows, config=FAST, **kwargs):
  return label_report.report(label_report.from_records(rows, **kwargs), config)


def assert_json(found):
  json.dumps(found, allow_nan=False)


# -- by hand ------------------------------------------------------------------


def test_agreement_by_hand():
  rows = [
    record(0, 0.9, 1.0),
    record(1, 0.2, 0.0),
    record(2, 0.5, 1.0),
    record(3, 0.7, 0.0),
    record(4, 0.9, 0.5),
    record(5, 0.9),  # nobody said
  ]
  found = report(rows)
  assert found['labels'] == 6
  assert found['human_labels'] == 5
  assert found['alignment']['rate'] == pytest.approx(3 / 5)
  assert found['alignment']['count'] == 5
  assert found['alignment']['ties'] == found['alignment']['human_ties'] == 0.2
  # Same: + and -, of + - 0 + + against + - + - 0; by chance 3 2 + 1 2 + 1 1.
  chance = (3 * 2 + 1 * 2 + 1 * 1) / 25
  assert found['alignment']['kappa'] == pytest.approx(
    (2 / 5 - chance) / (1 - chance)
  )
  low, high = (found['alignment'][k] for k in ('ci_low', 'ci_high'))
  assert low <= 3 / 5 <= high
  assert_json(found)


def test_by_confidence_by_hand():
  rows = [
    record(0, 0.55, 1.0),  # |2p - 1| = 0.1
    record(1, 0.4, 1.0),  # 0.2, at the edge: the upper bin
    record(2, 0.35, 0.0),  # 0.3
    record(3, 1.0, 1.0),  # 1, in the last bin
    record(4, 0.0),
  ]
  found = report(rows)['by_confidence']
  short = [(b['low'], b['high'], b['count'], b['rate']) for b in found]
  assert short == [(0.0, 0.2, 1, 1.0), (0.2, 0.4, 2, 0.5), (0.8, 1.0, 1, 1.0)]


def test_by_group():
  rows = [
    record(0, 0.9, 1.0, prompt_name='a', meta={'source': 'x'}),
    record(1, 0.9, 0.0, prompt_name='a', meta={'source': 'y'}),
    record(2, 0.9, 1.0, prompt_name='b', meta={'source': 'y'}),
  ]
  found = report(rows)['by']  # one labeler and no task: nothing to tell apart
  assert {k: v['rate'] for k, v in found['prompt_name'].items()} == {
    'a': 0.5,
    'b': 1.0,
  }
  assert set(found) == {'prompt_name'}
  found = report(rows, by=['source'])['by']
  assert {k: v['count'] for k, v in found['source'].items()} == {'x': 1, 'y': 2}


def test_position_by_hand():
  rows = [
    averaged(0, (0.9, 0.8)),  # slot 1 twice
    averaged(1, (0.6, 0.6)),
    averaged(2, (0.7, 0.9)),
    averaged(3, (0.2, 0.4)),  # slot 2 twice
    averaged(4, (0.8, 0.1)),  # response 1 twice
    averaged(5, (0.5, 0.6)),  # no verdict in one order
    record(6, 0.9),  # nothing known
  ]
  found = report(rows)['position']
  assert found['count'] == 6
  assert found['same_position']['rate'] == pytest.approx(4 / 6)
  assert found['flip_rate'] == pytest.approx(4 / 5)
  assert found['first_slot']['rate'] == pytest.approx((2 * 3 + 1 + 1.5) / 12)
  assert found['favoured_slot'] == 1
  assert found['favoured_share'] == 0.75
  assert found['p_value'] == statistics.binomial_test(3, 4)


def test_what_is_not_known_is_left_out():
  found = report([record(0, 0.9), record(1, 0.2)])
  assert set(found) == {'labels', 'human_labels', 'length'}
  assert 'human' not in found['length']
  assert 'correlation' not in found['length']  # both pairs differ alike
  consistent = report([averaged(0, (0.9, 0.1))])['position']
  assert {'favoured_slot', 'favoured_share', 'p_value'}.isdisjoint(consistent)
  undecided = report([averaged(0, (0.5, 0.5))])['position']
  assert 'flip_rate' not in undecided
  assert undecided['first_slot']['rate'] == 0.5
  tied = report([averaged(0, (0.9, 0.1), 0.5)])['order']
  assert set(tied) == {'order_12', 'order_21'}
  assert 'shown_first' not in tied['order_12']


def test_accuracy_by_order_by_hand():
  rows = [
    # (first slot in 12, in 21), human: right in 12 / right in 21
    averaged(0, (0.9, 0.8), 1.0),  # yes (shown first), no (shown second)
    averaged(1, (0.9, 0.2), 1.0),  # yes (first), yes (second)
    averaged(2, (0.8, 0.9), 0.0),  # no (second), yes (first)
    averaged(3, (0.8, 0.2), 0.5),  # a tie: half each
    averaged(4, (0.9, 0.5), 0.0),  # no (second), half (first)
  ]
  found = report(rows)['order']
  assert found['order_12']['rate'] == pytest.approx(2.5 / 5)
  assert found['order_21']['rate'] == pytest.approx(3 / 5)
  assert found['order_12']['shown_first']['rate'] == 1.0
  assert found['order_12']['shown_first']['count'] == 2
  assert found['order_12']['shown_second']['rate'] == 0.0
  assert found['order_21']['shown_first']['rate'] == 0.75
  assert found['order_21']['shown_second']['rate'] == 0.5
  assert found['shown_first']['rate'] == pytest.approx(3.5 / 4)
  assert found['shown_second']['rate'] == pytest.approx(1 / 4)
  difference = found['first_over_second']
  assert difference['difference'] == pytest.approx(2.5 / 4)
  assert (difference['better'], difference['worse']) == (3, 0)
  assert difference['p_value'] == statistics.binomial_test(3, 3)


def test_debiasing_by_hand():
  rows = [
    averaged(0, (0.9, 0.6), 1.0),  # 12 right, 21 wrong, mean 0.65 right
    averaged(1, (0.6, 0.9), 1.0),  # 12 right, 21 wrong, mean 0.35 wrong
    averaged(2, (0.6, 0.9), 0.0),  # 12 wrong, 21 right, mean right
    averaged(3, (0.9, 0.1), 1.0),  # all right
    averaged(4, (0.7, 0.7), 1.0),  # 12 right, 21 wrong, mean a tie
  ]
  found = report(rows)['debiasing']
  assert found['averaged']['rate'] == pytest.approx(3.5 / 5)
  assert found['order_12']['rate'] == pytest.approx(4 / 5)
  assert found['order_21']['rate'] == pytest.approx(2 / 5)
  over = found['over_order_12']
  assert over['difference'] == pytest.approx(-0.5 / 5)
  assert (over['better'], over['worse']) == (1, 2)
  assert over['p_value'] == statistics.binomial_test(1, 3) == 1.0
  over = found['over_order_21']
  assert over['difference'] == pytest.approx(1.5 / 5)
  assert (over['better'], over['worse']) == (2, 0)
  assert over['p_value'] == pytest.approx(0.5)
  assert found['over_single']['difference'] == pytest.approx(0.5 / 5)


def test_debiasing_is_about_the_orders_whatever_else_is_in_the_label():
  rows = [averaged(i, (0.9, 0.6), 1.0) for i in range(2)]
  panel = [record(r.id, 0.1, 1.0, (0.9, 0.6)) for r in rows]
  # Both fall and rise together, or labels would be read as the worse one's.
  panel.append(record('x', 0.05, 1.0, (0.6, 0.6)))
  found = report(panel)
  assert found['alignment']['rate'] == 0.0
  assert found['debiasing']['averaged']['rate'] == pytest.approx(2.5 / 3)


def test_calibration_by_hand():
  rows = [
    record(0, 0.72, 1.0),
    record(1, 0.28, 1.0),  # as sure, and wrong
    record(2, 1.0, 1.0),
    record(3, 0.5, 0.0),
  ]
  found = report(rows)['calibration']
  assert found['ece'] == pytest.approx((2 * 0.22 + 0 + 0) / 4)
  assert found['brier'] == pytest.approx((0.28**2 + 0.72**2 + 0 + 0.25) / 4)
  assert found['nll'] == pytest.approx(
    -(math.log(0.72) + math.log(0.28) + math.log(0.5)) / 4, abs=1e-5
  )
  assert found['mean_confidence'] == pytest.approx((2 * 0.72 + 1 + 0.5) / 4)
  curve = [(b['low'], b['high'], b['count'], b['rate']) for b in found['curve']]
  assert curve == [
    (0.5, 0.55, 1, 0.5),
    (0.7, 0.75, 2, 0.5),
    (0.95, 1.0, 1, 1.0),
  ]
  assert found['curve'][1]['confidence'] == pytest.approx(0.72)
  wrong = report([record(0, 1.0, 0.0)])['calibration']
  assert wrong['nll'] == pytest.approx(-math.log(1e-6))  # and not infinite


def test_the_stored_order_of_pairs_changes_nothing():
  rng = np.random.default_rng(0)
  rows, turned = [], []
  for i in range(60):
    orders, human = rng.uniform(0.05, 0.95, 2), float(rng.integers(3)) / 2
    texts = 'x' * int(rng.integers(1, 9)), 'y' * int(rng.integers(1, 9))
    there = dict(response_1=texts[0], response_2=texts[1])
    back = dict(response_1=texts[1], response_2=texts[0])
    rows.append(averaged(i, orders, human, **there))
    turned.append(averaged(i, orders[::-1], 1 - human, **back))
  first, second = report(rows), report(turned)
  for order in ('order', 'debiasing'):  # these name the stored order
    for found in (first, second):
      found[order].pop('order_12'), found[order].pop('order_21')
  for found in (first, second):
    for key in ('over_order_12', 'over_order_21'):
      found['debiasing'].pop(key)
  flat = [dict(label_report._flat(f, '')) for f in (first, second)]
  assert flat[0] == pytest.approx(flat[1])
  assert first['by_confidence'] == second['by_confidence']


def test_length_by_hand():
  rows = [
    record(0, 0.9, 0.0, response_1='long', response_2='x'),
    record(1, 0.8, 0.0, response_1='x', response_2='long'),
    record(2, 0.5, 1.0, response_1='long', response_2='x'),
    record(3, 0.9, response_1='a', response_2='b'),
    record(4, 0.1, response_1='x', response_2='long'),
  ]
  found = report(rows)['length']
  assert found['rate'] == pytest.approx((1 + 0 + 0.5 + 0.5 + 1) / 5)
  assert found['rate'] == pytest.approx(
    alignment.length_bias([r.p_first for r in rows], [r.pair for r in rows])[
      'labeler/longer_rate'
    ]
  )
  assert found['p_value'] == statistics.binomial_test(2, 3)
  assert found['correlation'] == pytest.approx(
    np.corrcoef([0.9, 0.8, 0.5, 0.9, 0.1], [3, -3, 3, 0, -3])[0, 1]
  )
  assert found['human']['rate'] == pytest.approx((0 + 1 + 1) / 3)
  assert found['human']['count'] == 3


def test_cost_is_the_papers():
  meta = dict(tokens_in=2 * 830, tokens_out=2 * 61, seconds=1.5)
  rows = [record(0, 0.9, meta=meta), record(1, 0.9)]
  config = label_report.Config(num_samples=5, price_in=0.03, price_out=0.06)
  found = report(rows, config)['cost']
  assert found == {
    'tokens_in': 1660.0,
    'tokens_out': 122.0,
    'seconds': 1.5,
    'dollars': pytest.approx(0.05712),
  }
  assert 'dollars' not in report(rows)['cost']
  assert 'cost' not in report([record(0, 0.9)])


def test_first_shown_by_hand():
  rows = [
    record(0, 1.0, meta={'first_shown': 0}),
    record(1, 0.0, meta={'first_shown': 1}),
    record(2, 1.0, meta={'first_shown': 1}),
    record(3, 0.5, meta={'first_shown': 1}),
    record(4, 1.0, meta={'first_shown': None}),
  ]
  found = report(rows)['first_shown']
  assert found['rate'] == pytest.approx(2.5 / 4)
  assert found['count'] == 4
  assert found['p_value'] == statistics.binomial_test(2, 3)


# -- what labels mean ---------------------------------------------------------


@pytest.mark.parametrize('shift', [0.0, 3.0])
def test_labels_that_name_the_worse_response_are_told_by_the_numbers(shift):
  rng = np.random.default_rng(1)
  rows, plain = [], []
  for i in range(40):
    own, swapped = rng.uniform(0.1, 0.9, 2)
    p = (own + 1 - swapped) / 2
    # A calibration shifts all labels to one side.
    label = statistics.sigmoid(math.log((1 - p) / p) + shift)
    rows.append(record(i, float(label), 1.0, (own, swapped), prompt_name='w'))
    plain.append(averaged(i, (1 - own, 1 - swapped), 1.0))
  # Another prompt in the same file asks for the better one.
  rows += plain
  data = label_report.from_records(rows)
  np.testing.assert_allclose(data.logprobs_12[:40], data.logprobs_12[40:])
  np.testing.assert_allclose(data.logprobs_21[:40], data.logprobs_21[40:])


def test_one_record_alone_is_read_either_way():
  better = label_report.from_records([averaged(0, (0.9, 0.2))])
  worse = label_report.from_records([record(0, 0.15, None, (0.9, 0.2))])
  np.testing.assert_allclose(better.margins(), -np.array(worse.margins()))


def test_intervals_are_over_prompts():
  rng = np.random.default_rng(2)
  once = [record(i, 0.9, float(rng.integers(2))) for i in range(40)]
  often = [row for row in once for _ in range(5)]
  config = label_report.Config(num_samples=500)
  narrow = report(often, config)['alignment']
  wide = report(once, config)['alignment']
  for key in ('rate', 'ci_low', 'ci_high'):
    assert narrow[key] == pytest.approx(wide[key])
  assert narrow['count'] == 200


def test_given_human_labels_replace_those_of_the_records():
  rows = [record(0, 0.9, 1.0), record(1, 0.9, 1.0)]
  found = report(rows, human=[0.0, None])
  assert found['human_labels'] == 1
  assert found['alignment']['rate'] == 0.0


def test_bad_input_is_named():
  with pytest.raises(ValueError, match=r'probabilities in \[0, 1\]'):
    report([record(0, 0.9, 2.0)])
  with pytest.raises(ValueError, match='human_p_first in the meta'):
    report([record(0, 0.9, 'yes')])
  with pytest.raises(ValueError, match='pair 0: log-probs of two labels'):
    label_report.from_records(
      [PreferenceRecord('0', 'p', 'a', 'b', 0.5, logprobs_12=(1.0,))]
    )
  with pytest.raises(ValueError, match='there are none'):
    label_report.evaluate(Context(), label_report.Config())
  with pytest.raises(ValueError, match="'better' or 'worse'"):
    labels = Labels(np.array([0.5]), prefers='best')
    label_report.evaluate(Context(labels=labels), label_report.Config())


def test_a_label_that_cannot_occur_is_no_gap():
  row = PreferenceRecord(
    *('0', 'p', 'a', 'b', 1.0),
    logprobs_12=(0.0, -math.inf),
    logprobs_21=(-math.inf, 0.0),
    meta={'human_p_first': 1.0},
  )
  found = report([row])
  assert found['position']['flip_rate'] == 0.0
  assert found['debiasing']['averaged']['rate'] == 1.0
  assert_json(found)


def test_evaluate_is_the_report_in_one_level():
  rows = [averaged(i, (0.9, 0.8), float(i % 2)) for i in range(6)]
  data = label_report.from_records(rows)
  pairs = [
    Example(r.id, r.prompt, pair=r.pair, p_first=h)
    for r, h in zip(rows, data.human, strict=True)
  ]
  # The same labels by a prompt that asks for the worse one.
  labels = Labels(
    data.p_first,
    data.logprobs_12[:, ::-1],
    data.logprobs_21[:, ::-1],
    prefers='worse',
  )
  flat = label_report.evaluate(Context(pairs=pairs, labels=labels), FAST)
  found = label_report.report(data, FAST)
  assert flat['label_report/position/favoured_slot'] == 1
  assert flat['label_report/order/order_12/shown_first/rate'] == 1.0
  assert flat == dict(label_report._flat(found, 'label_report'))


# -- planted truths -----------------------------------------------------------


def _planted(rng, n, bias=0.0, sharpness=1.0):
  """Pairs whose human follows sigmoid(d), and a labeler who sees d + bias."""
  rows = []
  for i in range(n):
    d = rng.normal(0, 1.5)
    human = float(rng.random() < statistics.sigmoid(d))
    orders = [float(statistics.sigmoid(sharpness * x + bias)) for x in (d, -d)]
    rows.append(averaged(i, orders, human))
  return rows


def test_calibrated_labels_have_no_calibration_error():
  rng = np.random.default_rng(3)
  found = report(_planted(rng, 20_000), FAST)['calibration']
  assert found['ece'] < 0.015
  for b in found['curve']:
    assert b['rate'] == pytest.approx(b['confidence'], abs=0.05)
  sure = report(_planted(rng, 5000, sharpness=4.0), FAST)['calibration']
  assert sure['ece'] > 0.1
  assert sure['nll'] > found['nll'] + 0.1


def test_a_planted_position_bias_is_found_and_averaged_out():
  rng = np.random.default_rng(4)
  found = report(_planted(rng, 1500, bias=-1.5))
  assert found['position']['favoured_slot'] == 2
  assert found['position']['favoured_share'] == 1.0
  assert found['position']['p_value'] < 1e-10
  assert found['position']['first_slot']['ci_high'] < 0.4
  assert found['order']['first_over_second']['ci_high'] < -0.2
  assert found['debiasing']['over_single']['ci_low'] > 0.02
  assert found['debiasing']['over_single']['p_value'] < 1e-3
  none = report(_planted(rng, 1500))
  assert none['position']['same_position']['rate'] == 0.0
  assert none['debiasing']['over_single']['difference'] == 0.0


# -- real judges, recomputed with plain loops ---------------------------------


def _rows(path):
  with gzip.open(path, 'rt', encoding='utf-8') as lines:
    return [json.loads(line) for line in lines]


def _judge_records(shared_data):
  """{(judge, style): (records, [(gold, winner in 12, winner in 21)])}."""
  texts = {
    (r['subset'], r['idx']): r
    for r in _rows(shared_data / 'llmbar/llmbar_dev.jsonl.gz')
  }
  groups = {}
  for r in _rows(shared_data / 'llmbar/llmbar_ai_judge_outputs_dev.jsonl.gz'):
    item = texts[r['subset'], r['idx']]
    answers = r['winner_12'], r['winner_21']
    if None in answers:
      continue
    made, plain = groups.setdefault((r['judge'], r['style']), ([], []))
    plain.append((str(item['label']), *answers))
    made.append(
      PreferenceRecord(
        id=f'{r["subset"]}-{r["idx"]}',
        prompt=item['input'],
        response_1=item['output_1'],
        response_2=item['output_2'],
        p_first=answers.count('1') / 2,
        logprobs_12=SURE[answers[0] != '1'],
        logprobs_21=SURE[answers[1] != '2'],  # 2 is shown first there
        meta={'human_p_first': float(str(item['label']) == '1')},
      )
    )
  return groups


def _recomputed(plain):
  """What the report says of a judge, with nothing but loops."""
  n = len(plain)
  agree = same = slot_1_twice = first_answers = ties = 0
  right_12 = right_21 = right_first = right_second = 0
  table = {}
  for gold, own, swapped in plain:
    if own == swapped:
      verdict = own
      agree += own == gold
    else:
      verdict = 'tie'
      ties += 1
      agree += 0.5
      same += 1  # another response in the other order: the same slot
      slot_1_twice += own == '1'
    table[verdict, gold] = table.get((verdict, gold), 0) + 1
    first_answers += (own == '1') + (swapped == '2')
    right_12 += own == gold
    right_21 += swapped == gold
    # In order 12 the first response is shown first, in 21 the second one.
    if gold == '1':
      right_first += own == gold
      right_second += swapped == gold
    else:
      right_first += swapped == gold
      right_second += own == gold
  observed = chance = 0
  for category in ('1', '2', 'tie'):
    observed += table.get((category, category), 0) / n
    by_judge = sum(c for (v, _), c in table.items() if v == category)
    by_human = sum(c for (_, g), c in table.items() if g == category)
    chance += by_judge / n * by_human / n
  return {
    'agreement': agree / n,
    'kappa': (observed - chance) / (1 - chance),
    'ties': ties / n,
    'same_position': same / n,
    'flip_rate': same / n,
    'first_slot': first_answers / (2 * n),
    'favoured_share': max(slot_1_twice, same - slot_1_twice) / same,
    'favoured_slot': 1 if slot_1_twice > same / 2 else 2,
    'order_12': right_12 / n,
    'order_21': right_21 / n,
    'shown_first': right_first / n,
    'shown_second': right_second / n,
  }


def test_llmbar_judges_equal_a_plain_recomputation(shared_data):
  groups = _judge_records(shared_data)
  assert len(groups) == 10
  for made, plain in groups.values():
    found = report(made)
    position, order = found['position'], found['order']
    assert {
      'agreement': found['alignment']['rate'],
      'kappa': found['alignment']['kappa'],
      'ties': found['alignment']['ties'],
      'same_position': position['same_position']['rate'],
      'flip_rate': position['flip_rate'],
      'first_slot': position['first_slot']['rate'],
      'favoured_share': position['favoured_share'],
      'favoured_slot': position['favoured_slot'],
      'order_12': order['order_12']['rate'],
      'order_21': order['order_21']['rate'],
      'shown_first': order['shown_first']['rate'],
      'shown_second': order['shown_second']['rate'],
    } == pytest.approx(_recomputed(plain), abs=1e-12)
    assert_json(found)
    assert found['debiasing']['averaged'] == {
      key: found['alignment'][key]
      for key in ('rate', 'ci_low', 'ci_high', 'count')
    }


def test_llmbar_figures_of_the_data_readme(shared_data):
  groups = _judge_records(shared_data)
  gpt4 = report(groups['GPT-4', 'vanilla'][0])
  assert gpt4['order']['order_12']['rate'] == pytest.approx(0.81, abs=0.01)
  assert gpt4['order']['order_21']['rate'] == pytest.approx(0.85, abs=0.01)
  assert 1 - gpt4['position']['flip_rate'] == pytest.approx(0.92, abs=0.01)
  falcon = report(groups['Falcon', 'cot'][0])['position']
  assert falcon['same_position']['rate'] > 0.85
  assert falcon['favoured_slot'] == 1
  assert falcon['favoured_share'] > 0.99
  # Nearly pure position bias: right where the right one is shown first.
  order = report(groups['Falcon', 'cot'][0])['order']
  assert order['first_over_second']['ci_low'] > 0.75


@pytest.mark.parametrize('judge', ['ai_gpt35_result', 'ai_pandalm7b_result'])
def test_pandalm_judges_equal_a_plain_recomputation(shared_data, judge):
  p_of = {'1': 1.0, '2': 0.0, '0': 0.5, 'Tie': 0.5}
  made, plain = [], []
  for r in _rows(shared_data / 'pandalm/pandalm_testset_dev.jsonl.gz'):
    votes = [str(r[f'annotator{k}']) for k in (1, 2, 3)]
    majority = max(votes, key=votes.count)
    verdict = {'Tie': '0'}.get(str(r[judge]), str(r[judge]))
    if verdict == 'garbage':
      continue
    # A few responses are numbers or true and false.
    texts = [str(r[f'response{k}']) for k in (1, 2)]
    plain.append((majority, verdict, *map(len, texts)))
    made.append(
      record(
        r['idx'],
        p_of[verdict],
        p_of[majority],
        prompt=r['instruction'],
        response_1=texts[0],
        response_2=texts[1],
        meta={'first_shown': 0},  # each pair was judged once, as it stands
      )
    )
  n = len(plain)
  points = exact = ties = human_ties = longer = first = 0
  table = {}
  for human, verdict, chars_1, chars_2 in plain:
    exact += human == verdict
    points += 0.5 if '0' in (human, verdict) else human == verdict
    ties += verdict == '0'
    human_ties += human == '0'
    first += {'1': 1, '0': 0.5, '2': 0}[verdict]
    if verdict == '0' or chars_1 == chars_2:
      longer += 0.5
    else:
      longer += (verdict == '1') == (chars_1 > chars_2)
    table[verdict, human] = table.get((verdict, human), 0) + 1
  chance = 0
  for category in ('0', '1', '2'):
    by_judge = sum(c for (v, _), c in table.items() if v == category)
    by_human = sum(c for (_, h), c in table.items() if h == category)
    chance += by_judge / n * by_human / n
  found = report(made)
  assert found['alignment']['count'] == n
  assert found['alignment']['rate'] == pytest.approx(points / n)
  assert found['alignment']['kappa'] == pytest.approx(
    (exact / n - chance) / (1 - chance)
  )
  assert found['alignment']['ties'] == pytest.approx(ties / n)
  assert found['alignment']['human_ties'] == pytest.approx(human_ties / n)
  assert found['length']['rate'] == pytest.approx(longer / n)
  assert found['first_shown']['rate'] == pytest.approx(first / n)
  assert 'position' not in found  # that takes both orders
  assert_json(found)


def _pandalm_both_orders(shared_data, judge):
  """[(first row, answer, answer to the swapped pair, majority)] of a judge.

  Some models said the same, so some pairs are there in both orders. Answers
  are '1' and '2' for the slots, '0' for a tie.
  """
  known, result = {}, []
  for r in _rows(shared_data / 'pandalm/pandalm_testset_dev.jsonl.gz'):
    answer = {'Tie': '0'}.get(str(r[judge]), str(r[judge]))
    if answer == 'garbage':
      continue
    texts = [str(r[f'response{k}']) for k in (1, 2)]
    task = r['instruction'], r['input']
    for other, before in known.get((task, *texts[::-1]), ()):
      votes = [str(other[f'annotator{k}']) for k in (1, 2, 3)]
      result.append((other, before, answer, max(votes, key=votes.count)))
    known.setdefault((task, *texts), []).append((r, answer))
  return result


@pytest.mark.parametrize('judge', ['ai_gpt35_result', 'ai_pandalm7b_result'])
def test_pandalm_pairs_in_both_orders_equal_a_plain_recomputation(
  shared_data, judge
):
  both = _pandalm_both_orders(shared_data, judge)
  n = len(both)
  assert n >= 35
  same = first = slot_1_twice = decided = right = right_first = choices = 0
  made = []
  orders = {'1': SURE[0], '2': SURE[1], '0': (-0.7, -0.7)}
  p_of = {'1': 0.75, '2': 0.25, '0': 0.5}  # less than sure: ties have weight
  for i, (r, own, swapped, human) in enumerate(both):
    first += {'1': 1, '0': 0.5, '2': 0}[own]
    first += {'1': 1, '0': 0.5, '2': 0}[swapped]
    decided += own != '0' and swapped != '0'
    same += own == swapped != '0'
    slot_1_twice += own == swapped == '1'
    right += 0.5 if '0' in (own, human) else own == human
    if human != '0':  # shown first: in slot 1 of one of the two orders
      choices += 1
      answer = own if human == '1' else swapped
      right_first += {'1': 1, '0': 0.5, '2': 0}[answer]
    made.append(
      record(
        i,
        (p_of[own] + 1 - p_of[swapped]) / 2,
        {'1': 1.0, '2': 0.0, '0': 0.5}[human],
        prompt=r['instruction'],
        response_1=str(r['response1']),
        response_2=str(r['response2']),
        logprobs_12=orders[own],
        logprobs_21=orders[swapped],
      )
    )
  found = report(made)
  position = found['position']
  assert position['same_position']['rate'] == pytest.approx(same / n)
  assert position['flip_rate'] == pytest.approx(same / decided)
  assert position['first_slot']['rate'] == pytest.approx(first / (2 * n))
  assert position['favoured_share'] == pytest.approx(
    max(slot_1_twice, same - slot_1_twice) / same
  )
  assert position['p_value'] == statistics.binomial_test(slot_1_twice, same)
  order = found['order']
  assert order['order_12']['rate'] == pytest.approx(right / n)
  assert order['shown_first']['count'] == choices
  assert order['shown_first']['rate'] == pytest.approx(right_first / choices)


def test_hhh_experts_and_length_by_category(shared_data):
  path = shared_data / 'hhh-alignment/hhh_alignment_dev.jsonl.gz'
  experts = records.read_preferences(path)
  # A labeler that always takes the longer response.
  made = [
    record(
      r.id,
      0.5 + 0.5 * np.sign(len(r.response_1) - len(r.response_2)),
      r.p_first,
      prompt=r.prompt,
      response_1=r.response_1,
      response_2=r.response_2,
      meta={'source': r.meta['source']},
    )
    for r in experts
  ]
  points, counts = {}, {}
  for r in _rows(path):
    chosen, rejected = len(r['chosen'].strip()), len(r['rejected'].strip())
    point = 0.5 if chosen == rejected else float(chosen > rejected)
    points[r['source']] = points.get(r['source'], 0) + point
    counts[r['source']] = counts.get(r['source'], 0) + 1
  found = report(made, by=['source'])
  assert found['alignment']['rate'] == pytest.approx(
    sum(points.values()) / sum(counts.values())
  )
  assert found['length']['human']['rate'] == found['alignment']['rate']
  by_source = found['by']['source']
  assert {k: v['count'] for k, v in by_source.items()} == counts
  assert {k: v['rate'] for k, v in by_source.items()} == pytest.approx(
    {k: points[k] / counts[k] for k in points}
  )


def test_first_shown_of_a_real_judge(shared_data):
  path = (
    shared_data
    / 'summarize-from-feedback/tldr_posts_policy_ai_judged_dev.jsonl.gz'
  )
  made, first, total, longer = [], 0, 0, 0
  for i, r in enumerate(_rows(path)):
    pair = r['reference_response'], r['policy_response']
    if r['ai_preferred'] is None or pair[0] == pair[1]:
      continue
    reference = r['ai_preferred'] == 'reference'
    shown = 1 if int(r['shuffled_index']) == 0 else 0  # 0: the policy as A
    total += 1
    first += reference == (shown == 0)
    if len(pair[0]) == len(pair[1]):
      longer += 0.5
    else:
      longer += reference == (len(pair[0]) > len(pair[1]))
    made.append(
      record(
        i,
        float(reference),
        prompt=r['query'],
        response_1=pair[0],
        response_2=pair[1],
        meta={'first_shown': shown},
      )
    )
  found = report(made)
  assert found['first_shown']['count'] == total > 300
  assert found['first_shown']['rate'] == pytest.approx(first / total)
  assert found['first_shown']['p_value'] == pytest.approx(
    statistics.binomial_test(first, total)
  )
  assert found['length']['rate'] == pytest.approx(longer / total)
