"""From saved ratings to the paper's numbers, by hand and by planted truths."""

import itertools
import json

import numpy as np
import pytest

from rlaif_jax import evaluators
from rlaif_jax.evaluators import _agreement, ranking, statistics
from rlaif_jax.rating import __main__ as program
from rlaif_jax.rating import numbers, results, sheet

CONFIG = evaluators.Config(num_samples=200)


def _rate(key, worth):
  """What a rater says who prefers the policy of higher worth(policy, item)."""
  said = {}
  for i, item in enumerate(key.items):
    values = [worth(name, item) for name in item.policies]
    if key.mode == 'harmless':
      said[i] = 'harmless' if values[0] else 'harmful'
    elif key.mode == 'ranking':
      said[i] = [1 + sum(v > mine for v in values) for mine in values]
    else:
      a, b = values
      said[i] = 'A' if a > b else 'B' if b > a else '='
  return said


def _metrics(key, files):
  return numbers.metrics(key, results.read_all(files, key), CONFIG)


# -- pairs --------------------------------------------------------------------


def _two(count=4, mode='pairwise'):
  rows = [
    {'id': str(i), 'prompt': f'p{i}', 'responses': {'rl': 'x', 'sft': 'y'}}
    for i in range(count)
  ]
  return sheet.make(rows, mode, limit=0).key


def test_win_rate_by_hand(save):
  key = _two(4)
  # rl wins prompts 0 and 1, ties on 2, loses 3.
  worth = {'p0': 1, 'p1': 1, 'p2': 0, 'p3': -1}
  said = _rate(key, lambda name, item: worth[f'p{item.id}'] * (name == 'rl'))
  metrics = _metrics(key, [save(key, 'ann', said)])
  name = 'eval_win_rate/rl_vs_sft'
  assert metrics[name] == 0.625
  assert metrics[f'{name}_win'] == 0.5
  assert metrics[f'{name}_tie'] == metrics[f'{name}_loss'] == 0.25
  assert metrics[f'{name}_p_value'] == statistics.binomial_test(2, 3)
  assert metrics[f'{name}_ratings'] == 4
  assert metrics[f'{name}_ci_low'] < 0.625 < metrics[f'{name}_ci_high']
  # One rater agrees with nobody; two policies need no Elo.
  assert not [m for m in metrics if 'kappa' in m or 'elo' in m]


def test_letters_are_translated(save):
  key = _two(40)
  for letter, index in (('A', 0), ('B', 1)):
    said = dict.fromkeys(range(40), letter)
    metrics = _metrics(key, [save(key, 'ann', said, name=letter)])
    won = np.mean([item.policies[index] == 'rl' for item in key.items])
    assert 0.2 < won < 0.8
    assert metrics['eval_win_rate/rl_vs_sft'] == pytest.approx(won)
    # Who always takes the same letter is found out.
    assert metrics['rating/first_chosen'] == (letter == 'A')
    assert metrics['rating/first_chosen_p_value'] < 1e-9


def test_raters_of_one_prompt_are_one_observation(save):
  key = _two(6)
  said = _rate(key, lambda name, item: name == 'rl')
  one = _metrics(key, [save(key, 'ann', said)])
  more = _metrics(key, [save(key, f'ann{i}', said) for i in range(5)])
  name = 'eval_win_rate/rl_vs_sft'
  assert more[f'{name}_ratings'] == 30
  assert more[f'{name}_p_value'] == one[f'{name}_p_value']
  assert one[f'{name}_p_value'] == pytest.approx(2 / 2**6)
  assert more['rating/kappa'] == 1 and more['rating/agreement'] == 1


def test_raters_of_one_pair_are_one_look_at_the_order(save):
  key = _two(6)
  files = [save(key, f'ann{i}', dict.fromkeys(range(6), 'A')) for i in range(3)]
  metrics = _metrics(key, files)
  assert metrics['rating/first_chosen'] == 1
  assert metrics['rating/first_chosen_p_value'] == pytest.approx(2 / 2**6)


def test_kappa_by_hand(save):
  key = _two(4)
  files = [
    save(key, name, dict(enumerate(said)))
    for name, said in (('ann', 'AAB='), ('bob', 'AB=='), ('cy', 'ABB'))
  ]
  metrics = _metrics(key, files)
  # Item 3 has two raters only.
  counts = [[3, 0, 0], [1, 0, 2], [0, 1, 2], [0, 2, 0]]
  assert metrics['rating/kappa'] == pytest.approx(
    _agreement.fleiss_kappa(counts)
  )
  assert metrics['rating/agreement'] == pytest.approx((1 + 2 / 3 + 1) / 4)
  assert metrics['rating/kappa_items'] == 4


def test_items_left_out_do_not_count(save):
  key = _two(4)
  said = _rate(key, lambda name, item: name == 'rl')
  left = next(iter(said))
  metrics = _metrics(key, [save(key, 'ann', said | {left: None})])
  assert metrics['eval_win_rate/rl_vs_sft_ratings'] == 3
  read = results.read(save(key, 'ann', said | {left: None}), key)
  assert read.left_out == 1 and left not in read.values


# -- rankings -----------------------------------------------------------------


def test_rankings_are_all_their_pairs(save, rows):
  key = sheet.make(rows, 'ranking').key

  # ann: rlaif > rlhf = sft throughout; bob turns it round on one prompt.
  def ann(name, item):
    return name == 'rlaif'

  def bob(name, item):
    return -ann(name, item) if item.id == 'test-2' else ann(name, item)

  files = [save(key, 'ann', _rate(key, ann)), save(key, 'bob', _rate(key, bob))]
  metrics = _metrics(key, files)
  for other in ('rlhf', 'sft'):
    name = f'eval_win_rate/rlaif_vs_{other}'
    assert metrics[name] == pytest.approx(0.9)
    assert metrics[f'{name}_tie'] == 0
    # By prompts: four for rlaif, one undecided.
    assert metrics[f'{name}_p_value'] == pytest.approx(2 / 2**4)
  assert metrics['eval_win_rate/rlhf_vs_sft'] == 0.5
  assert metrics['eval_win_rate/rlhf_vs_sft_tie'] == 1
  assert metrics['rating/kendall_w'] == pytest.approx((4 * 1 + 0) / 5)
  assert metrics['rating/kendall_w_items'] == 5
  assert 'rating/kappa' not in metrics and 'rating/first_chosen' not in metrics
  s = ranking.log_strengths([[0, 9, 9], [1, 0, 5], [1, 5, 0]])
  assert metrics['eval_elo/rlaif'] == pytest.approx(
    ranking.ELO * (s[0] - s[2]), abs=1e-6
  )
  assert metrics['eval_elo/sft'] == 0


def test_planted_strengths_are_found(save):
  """Raters who follow Luce's model over 300 prompts."""
  truth = {'good': 1.0, 'fair': 0.4, 'poor': 0.0}
  rows = [
    {'id': str(i), 'prompt': f'p{i}', 'responses': dict.fromkeys(truth, 'x')}
    for i in range(300)
  ]
  key = sheet.make(rows, 'ranking', limit=0).key
  rng = np.random.default_rng(0)
  files = [
    save(key, name, _rate(key, lambda p, item: truth[p] + rng.gumbel()))
    for name in ('ann', 'bob', 'cy')
  ]
  metrics = _metrics(key, files)
  for a, b in itertools.combinations(truth, 2):
    name = f'eval_win_rate/{a}_vs_{b}'
    expected = float(statistics.sigmoid(truth[a] - truth[b]))
    assert metrics[name] == pytest.approx(expected, abs=0.04)
    assert metrics[f'{name}_ci_low'] < expected < metrics[f'{name}_ci_high']
  assert metrics['eval_elo/good'] == pytest.approx(ranking.ELO, abs=25)


# -- harmlessness -------------------------------------------------------------


def test_harmless_rates_by_hand(save):
  key = _two(4, 'harmless')

  def ann(name, item):
    return name == 'rl' or item.id == '0'

  def bob(name, item):
    return ann(name, item) and item.id != '3'

  metrics = _metrics(
    key, [save(key, 'ann', _rate(key, ann)), save(key, 'bob', _rate(key, bob))]
  )
  assert metrics['eval_harmless_rate/rl'] == 7 / 8
  assert metrics['eval_harmless_rate/sft'] == 2 / 8
  assert metrics['eval_harmless_rate/rl_ratings'] == 8
  # By prompts: 0, 1, 1, 1/2.
  name = 'eval_harmless_difference/rl_vs_sft'
  assert metrics[name] == pytest.approx(5 / 8)
  assert metrics[f'{name}_p_value'] == pytest.approx(2 / 2**3)
  # Both were asked of eight responses, and differ on one.
  counts = [[0, 2]] * 4 + [[2, 0]] * 3 + [[1, 1]]
  assert metrics['rating/kappa'] == pytest.approx(
    _agreement.fleiss_kappa(counts)
  )
  assert metrics['rating/agreement'] == 7 / 8


def test_what_was_not_rated_is_not_there(save, rows):
  key = sheet.make(rows, 'harmless').key
  said = {
    i: 'harmless'
    for i, item in enumerate(key.items)
    if item.policies != ('sft',)
  }
  metrics = _metrics(key, [save(key, 'ann', said)])
  assert metrics['eval_harmless_rate/rlaif'] == 1
  assert not [name for name in metrics if 'sft' in name]
  key = sheet.make(rows, 'pairwise').key
  only = next(
    i for i, item in enumerate(key.items) if 'sft' not in item.policies
  )
  metrics = _metrics(key, [save(key, 'bob', {only: '='})])
  assert metrics['eval_win_rate/rlaif_vs_rlhf'] == 0.5
  assert not [name for name in metrics if 'sft' in name or 'elo' in name]
  assert 'rating/first_chosen' not in metrics


# -- files --------------------------------------------------------------------


@pytest.mark.parametrize(
  ('values', 'changes', 'message'),
  [
    ({99: 'A'}, {}, 'rating 1: there is no item 99'),
    ({0: 'C'}, {}, "rating 1: 'C' is none of A, B, ="),
    ({0: [1, 2]}, {}, 'is none of A, B, ='),
    ({0: 'A'}, {'sheet': 'other'}, 'ratings of page other, but the key'),
    ({0: 'A'}, {'mode': 'ranking'}, 'ratings of page'),
    ({0: 'A'}, {'format': 'x'}, 'not a file that a rating page saved'),
    ({0: 'A'}, {'ratings': 3}, '"ratings" are no list'),
    ({0: 'A'}, {'ratings': [3]}, 'rating 1:'),
    ({}, {'ratings': [{'item': True, 'value': 'A'}]}, 'no item True'),
    ({}, {'ratings': [{'item': 1, 'value': 'A'}] * 2}, 'rated twice'),
    ({}, {}, 'nothing is rated'),
    ({0: None}, {}, 'nothing is rated'),
  ],
)
def test_bad_ratings_are_named(save, values, changes, message):
  key = _two()
  with pytest.raises(ValueError, match=message):
    results.read_all([save(key, 'ann', values, **changes)], key)


@pytest.mark.parametrize(
  'value', [[1, 2], [1, 2, 4], [0, 1, 2], [1, 2, True], 'ABC', [1.5, 1, 1]]
)
def test_bad_rankings_are_named(save, rows, value):
  key = sheet.make(rows, 'ranking').key
  with pytest.raises(ValueError, match='no ranking of 3 responses'):
    results.read(save(key, 'ann', {0: value}), key)


def test_one_file_per_rater(save, tmp_path):
  key = _two()
  one, two = (save(key, 'ann', {0: 'A'}, name=n) for n in ('one', 'two'))
  with pytest.raises(ValueError, match="two.json: a second file of rater 'ann"):
    results.read_all([one, two], key)
  # Without a name, the file's is taken.
  nameless = save(key, '', {0: 'A'}, name='three')
  assert results.read(nameless, key).rater == 'three'
  (tmp_path / 'bad.json').write_text('{')
  with pytest.raises(ValueError, match=r'bad\.json: not JSON'):
    results.read(tmp_path / 'bad.json', key)


# -- the program --------------------------------------------------------------


@pytest.mark.parametrize('mode', sheet.MODES)
def test_program(samples, save, tmp_path, capsys, mode):
  page = tmp_path / 'rate.html'
  program.main(['page', str(samples), str(page), '--mode', mode, '--seed', '3'])
  assert 'items) and its key' in capsys.readouterr().out
  key = sheet.read_key(tmp_path / 'rate.key.json')
  files = [
    save(key, name, _rate(key, lambda p, item: p == 'rlaif'))
    for name in ('[red]ann', 'bob')
  ]
  out = tmp_path / 'numbers' / 'out.json'
  program.main(
    ['import', *map(str, files), '--key', str(tmp_path / 'rate.key.json'),
     '--json', str(out)]
  )  # fmt: skip
  written = json.loads(out.read_text())
  full = evaluators.Config()
  expected = numbers.metrics(key, results.read_all(files, key), full)
  assert written['metrics'] == expected and len(expected) > 10
  assert written['raters']['bob'] == {'rated': len(key.items), 'left_out': 0}
  shown = capsys.readouterr().out
  assert '[red]ann' in shown
  if mode == 'harmless':
    assert 'rlaif vs sft' in shown and 'harmless' in shown
  else:
    assert 'rlaif vs rlhf' in shown and '100.0% (100.0 to 100.0)' in shown
  assert ("Kendall's W" if mode == 'ranking' else "Fleiss' kappa") in shown


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['page', 'missing.jsonl', 'out.html'], 'missing.jsonl'),
    (['page', 'SAMPLES', 'out.html', '--policies', 'sft,ppo'], "'ppo'"),
    (['import', 'x.json', '--key', 'missing.key.json'], 'missing.key.json'),
  ],
)
def test_mistakes_are_one_line(
  samples, tmp_path, monkeypatch, capsys, arguments, message
):
  monkeypatch.chdir(tmp_path)
  arguments = [str(samples) if a == 'SAMPLES' else a for a in arguments]
  with pytest.raises(SystemExit) as stopped:
    program.main(arguments)
  error = capsys.readouterr().err
  assert stopped.value.code == 1
  assert error.startswith('error: ') and message in error
  assert error.count('\n') == 1
