"""Sections: which there are, and the numbers in them, checked by hand."""

import json
import math
import shutil

import numpy as np
import pytest

from rlaif_jax.report import (
  blocks,
  build,
  curves,
  labelers,
  policies,
  prompts,
  provenance,
  rewards,
  runs,
  samples,
)
from rlaif_jax.report.blocks import Style

_ALL = [
  'runs', 'glance', 'headline', 'frontier', 'length', 'rl', 'reward-models',
  'labelers', 'samples', 'pairs', 'training', 'config', 'environment',
]  # fmt: skip


def sections(*paths):
  return {s.name: s for s in build.sections(runs.load_all(paths))}


def cells(table):
  """{first column: {title: text}} of a table."""
  return {
    row[0].text: {
      title: cell.text
      for title, cell in zip(table.columns[1:], row[1:], strict=True)
    }
    for row in table.rows
  }


def tables(section):
  return [b for b in section.blocks if isinstance(b, blocks.Table)]


def notes(section):
  return [b.text for b in section.blocks if isinstance(b, blocks.Note)]


def figures(section):
  return {
    figure.title: figure
    for block in section.blocks
    if isinstance(block, blocks.Figures)
    for figure in block.figures
  }


# -- which sections -----------------------------------------------------------


def test_a_pipeline_has_all_of_them(pipeline):
  assert list(sections(pipeline)) == _ALL


def test_sections_exist_only_where_their_data_do(tmp_path, write):
  write.rl(tmp_path / 'rl')
  assert list(sections(tmp_path / 'rl')) == ['runs', 'rl', 'environment']
  write.labels(tmp_path / 'labels')
  assert list(sections(tmp_path / 'labels')) == [
    'runs', 'glance', 'labelers', 'pairs', 'environment',
  ]  # fmt: skip
  write.reward(tmp_path / 'reward')
  assert list(sections(tmp_path / 'reward')) == [
    'runs', 'glance', 'reward-models', 'training', 'environment',
  ]  # fmt: skip
  # An evaluation knows of labelers and reward models by their summaries.
  write.evaluation(tmp_path / 'evaluate')
  assert list(sections(tmp_path / 'evaluate')) == [
    'runs', 'glance', 'headline', 'frontier', 'length', 'reward-models',
    'labelers', 'samples', 'environment',
  ]  # fmt: skip
  write.json(tmp_path / 'new' / 'config.json', {'stage': 'sft'})
  assert list(sections(tmp_path / 'new')) == ['runs', 'environment']


# -- policies -----------------------------------------------------------------


def test_headline(pipeline):
  section = sections(pipeline)['headline']
  assert section.intro == 'Judge: oracle.'
  found = cells(tables(section)[0])
  assert list(found) == ['sft', 'rlaif', 'rlhf', 'rlaif vs rlhf']
  assert found['rlaif'] == {
    'win rate': '62.5%', 'p': '0.012', 'length-corrected': '51.0%',
    'KL': '2.25', 'words': '9.5',
  }  # fmt: skip
  assert found['rlhf']['p'] == '<0.001'
  assert found['sft']['win rate'] == '' and found['sft']['KL'] == '0'
  (row,) = [r for r in tables(section)[0].rows if r[0].text == 'rlaif']
  assert row[1].note == '56.2% to 68.8%'
  everything = cells(tables(section)[1])
  assert everything['eval_win_rate/rlaif_win'] == {'value': '0.6'}


def test_the_mean_over_seeds_has_a_spread_and_no_p_value(tmp_path, write):
  metrics = write.METRICS | {'eval_win_rate/rlaif_std': 0.031}
  write.pipeline(tmp_path / 'run')
  summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
  write.json(tmp_path / 'run/summary.json', summary | {'metrics': metrics})
  table = tables(sections(tmp_path / 'run')['headline'])[0]
  assert 'p' not in table.columns
  (row,) = [r for r in table.rows if r[0].text == 'rlaif']
  assert row[1].note == '56.2% to 68.8%, ±3.1%'
  assert '± is the standard deviation' in table.caption


def test_several_runs_have_rows_of_their_own(tmp_path, write):
  write.pipeline(tmp_path / 'a')
  write.pipeline(tmp_path / 'b')
  found = sections(tmp_path / 'a', tmp_path / 'b')
  rows = [tuple(c.text for c in row[:3]) for row in
          tables(found['headline'])[0].rows]  # fmt: skip
  assert rows[1:3] == [('a', 'rlaif', '62.5%'), ('a', 'rlhf', '75.0%')]
  assert ('b', 'rlaif', '62.5%') in rows
  (legend,) = [b.legend for b in found['frontier'].blocks]
  names = [name for name, _ in legend]
  assert names == [f'{r} · {p}' for r in 'ab' for p in ('sft', 'rlaif', 'rlhf')]
  styles = dict(legend)
  # The same policy in the same colour; runs differ otherwise.
  assert styles['a · rlaif'].colour == styles['b · rlaif'].colour
  assert styles['a · rlaif'].dash != styles['b · rlaif'].dash
  assert len({styles[f'a · {p}'].colour for p in ('sft', 'rlaif')}) == 2


def test_evaluations_of_a_folder_are_named_by_their_steps(tmp_path, write):
  write.evaluation(tmp_path / 'all' / 'one')
  write.evaluation(tmp_path / 'all' / 'two')
  found = policies.evaluations(runs.load_all([tmp_path / 'all']))
  assert [e.source for e in found] == ['one', 'two']


def test_frontier_has_policies_at_their_kl(pipeline):
  found = figures(sections(pipeline)['frontier'])
  assert list(found) == ['Win rate against sft', "The judge's mean score"]
  drawn = found['Win rate against sft'].svg
  at = 'KL to the reference (nats a response)'
  assert f'rlaif: 62.5% (56.2% to 68.8%), {at} 2.25' in drawn
  assert f'sft: 50.0%, {at} 0' in drawn
  # Mean of 0.5, 0.75, 0.5, 0.75, 0.5, 0.75.
  assert 'rlaif: 0.625 (0.5' in found["The judge's mean score"].svg


def test_best_of_n(tmp_path, write):
  curve = {
    'eval_best_of/sft_1': 0.5, 'eval_best_of/sft_1_kl': 0.0,
    'eval_best_of/sft_4': 0.7, 'eval_best_of/sft_4_kl': 0.64,
    'eval_best_of/sft_4_ci_low': 0.6, 'eval_best_of/sft_4_ci_high': 0.8,
  }  # fmt: skip
  write.evaluation(tmp_path / 'run', write.METRICS | curve)
  section = sections(tmp_path / 'run')['frontier']
  names = [name for name, _ in section.blocks[1].legend]
  assert names == ['sft, best of n', 'sft', 'rlaif', 'rlhf']


def test_length_control(pipeline):
  found = cells(tables(sections(pipeline)['length'])[0])
  assert found == {
    'rlaif': {'as judged': '62.5%', 'at equal length (ratio)': '51.0%',
              'length ratio': '1.25'},
  }  # fmt: skip


def test_at_a_glance(pipeline, write):
  rows = [{'step': 1, 'objective/kl': 'nan', 'val/sampler_gap': 0.2}]
  write.lines(pipeline / 'rlhf' / 'metrics.jsonl', rows)
  found = notes(sections(pipeline)['glance'])
  assert found == [
    'rlaif beats sft: win rate 62.5% (56.2% to 68.8%), but not clearly so at '
    'equal length: 51.0% (45.0% to 57.0%).',
    'rlhf beats sft: win rate 75.0% (70.0% to 80.0%).',
    'reward_ai: accuracy on human pairs 70.0% (62.0% to 78.0%), not clearly '
    'more than preferring the longer response (65.0%).',
    'labels_ai: 60.0% of the pairs got the same slot in both orders; most '
    'labels are about the place of a response.',
    'rlhf: NaN or infinite metrics in 1 steps, first in step 1.',
    'rlhf: sampled and recomputed log-probs differ by up to 0.200 nats a '
    'token.',
  ]


# -- training -----------------------------------------------------------------


def test_rl(pipeline):
  section = sections(pipeline)['rl']
  found = figures(section)
  assert list(found)[:6] == [
    'Reward', 'KL to the reference (nats a response)',
    'Response length (tokens)', 'Entropy (nats a token)',
    'Reward less the KL penalty', 'Reward against KL, as training went',
  ]  # fmt: skip
  assert 'policy/optim/grad_norm' in found
  assert 'time/eta_s' not in found
  for name in ('rlaif', 'rlhf'):
    assert f'data-series="{name}"' in found['Reward'].svg
  # Steps 1 to 5 and 46 to 50 of 50, on the way from 0 to 1.
  ends = cells(tables(section)[0])
  assert ends['rlaif']['Reward'] == '0.0600 → 0.960'
  assert ends['rlaif']['steps'] == '50'
  assert cells(tables(section)[1])['rlaif']['Reward'] == '▁▂▂▃▄▄▅▆▆▇▇█'


def test_seeds_are_a_mean_with_a_range():
  def step(values):
    rows = [{'step': i, 'a': v} for i, v in enumerate(values)]
    return runs.Step('x', 'x', None, {}, tuple(rows))

  series = curves.series_of([step([1, 2]), step([3, 6])], 'a', 'x', Style())
  assert series.y == [2, 4]
  assert (series.low, series.high) == ([1, 2], [3, 6])
  # One of them is behind.
  series = curves.series_of([step([1, 2]), step([3])], 'a', 'x', Style())
  assert series.y == [2, 2]
  assert curves.series_of([step([1])], 'b', 'x', Style()) is None


def test_running_means():
  values = np.arange(75.0)
  assert curves.running_mean(values)[1:-1] == pytest.approx(values[1:-1])
  values[10] = math.nan
  smooth = curves.running_mean(values)
  assert math.isnan(smooth[10])
  assert smooth[9] == pytest.approx(8.5)  # of 8 and 9 alone
  few = np.array([3.0, 1.0, 2.0])
  assert curves.running_mean(few).tolist() == few.tolist()


def test_thinning_keeps_the_mean():
  values = np.arange(1000.0)
  thin = curves.thin(values)
  assert len(thin) <= 240
  assert thin[0] == 2.0 and np.mean(thin) == pytest.approx(values.mean())
  assert curves.thin(np.array([1.0, 2.0])) == [1.0, 2.0]


# -- feedback -----------------------------------------------------------------


def test_reward_models(pipeline):
  section = sections(pipeline)['reward-models']
  # The evaluation measured the same: it is not shown twice.
  assert cells(tables(section)[0]) == {
    'reward_ai': {
      'trained on pairs': '200', 'accuracy': '70.0%',
      'longer is better': '65.0%', 'calibration error': '3.1%',
    },
  }  # fmt: skip
  assert 'Reliability' not in figures(section)


def test_reliability_of_a_reward_model(tmp_path, write):
  write.reward(tmp_path / 'run')
  summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
  summary[rewards.RELIABILITY] = {'model': [[0.6, 0.55, 30], [0.9, 0.8, 10]]}
  summary['eval_rewards/accuracies/model_0..0.5'] = 0.4
  write.json(tmp_path / 'run' / 'summary.json', summary)
  section = sections(tmp_path / 'run')['reward-models']
  drawn = figures(section)['Reliability'].svg
  assert 'run: 55.0% where 60.0% was said (30 of them)' in drawn
  assert cells(tables(section)[1]) == {'run': {'0..0.5': '40.0%'}}


def test_labelers(pipeline, write):
  section = sections(pipeline)['labelers']
  assert cells(tables(section)[0]) == {
    'labels_ai': {
      'pairs': '200', 'agreement': '66.0%', 'flips': '60.0%',
      'same position twice': '60.0%', 'favoured slot': 'first',
    },
  }  # fmt: skip
  assert tables(section)[0].rows[0][-1].note == '75.0% of those, p <0.001'
  assert labelers.position_parts(write.LABELS) == pytest.approx(
    (0.45, 0.15, 0.4)
  )
  drawn = figures(section)['Both orders of a pair'].svg
  assert 'labels_ai: second slot twice 15.0%' in drawn


def test_labels_before_their_stage_has_finished(tmp_path, write):
  write.labels(tmp_path / 'run', finished=False)
  table = tables(sections(tmp_path / 'run')['labelers'])[0]
  assert cells(table)['run'] == {
    'pairs': '200', 'agreement': '75.0%', 'kappa': '0.00', 'flips': '50.0%',
    'same position twice': '50.0%',
  }  # fmt: skip


def test_reliability_of_labels(tmp_path, write):
  write.labels(tmp_path / 'run')
  labels = runs.load_all([tmp_path / 'run'])[0].steps[0].labels
  series, counts = labelers.reliability(labels, 'x', Style())
  assert (series.x, series.y) == ([pytest.approx(0.8)], [0.75])
  assert counts == [200]
  assert series.low[0] < 0.75 < series.high[0]


def test_human_labels_have_no_position(tmp_path, write):
  write.labels(tmp_path / 'run')
  rows = [{'id': '1', 'prompt': 'x', 'response_1': 'a', 'response_2': 'b',
           'p_first': 1.0, 'meta': {'human_p_first': 1.0}}]  # fmt: skip
  write.lines(tmp_path / 'run/labels/preferences.jsonl', rows)
  write.json(tmp_path / 'run/summary.json', {'pairs': 1})
  section = sections(tmp_path / 'run')['labelers']
  assert not figures(section)


def test_alignment_by_prompt(pipeline, write):
  assert 'prompts' not in sections(pipeline)
  summary = json.loads((pipeline / 'summary.json').read_text())
  variant = {
    'alignment': 0.74,
    'ci_low': 0.7,
    'ci_high': 0.78,
    'flip_rate': 0.2,
  }
  summary[prompts.ALIGNMENT_TABLE] = {
    'tiny:l': {'tldr': {'base': variant, 'detailed': {'alignment': 0.7}}},
    'tiny:xs': {'tldr': {'base': {'alignment': 0.55}}},
  }
  write.json(pipeline / 'summary.json', summary)
  section = sections(pipeline)['prompts']
  rows = [tuple(c.text for c in row) for row in tables(section)[0].rows]
  assert rows == [
    ('tiny:l', 'tldr', 'base', '74.0%', '20.0%'),
    ('tiny:l', 'tldr', 'detailed', '70.0%', ''),
    ('tiny:xs', 'tldr', 'base', '55.0%', ''),
  ]
  assert 'tiny:l: 74.0% (70.0% to 78.0%), base' in figures(section)['tldr'].svg


def test_label_stages_with_different_prompts_are_compared(tmp_path, write):
  write.labels(tmp_path / 'a')
  write.labels(tmp_path / 'b', prompt='summary_detailed')
  section = sections(tmp_path / 'a', tmp_path / 'b')['prompts']
  rows = [tuple(c.text for c in row[:4]) for row in tables(section)[0].rows]
  assert rows == [
    ('a · tiny:l', 'tldr', 'summary_base', '66.0%'),
    ('b · tiny:l', 'tldr', 'summary_detailed', '66.0%'),
  ]


# -- texts --------------------------------------------------------------------


def test_samples(pipeline, write):
  (browser,) = sections(pipeline)['samples'].blocks
  assert [row.id for row in browser.rows] == [f'test-{i}' for i in range(6)]
  row = browser.rows[1]
  assert [text.name for text in row.texts] == [
    'sft', 'rlaif', 'rlhf', 'reference',
  ]  # fmt: skip
  assert [text.score for text in row.texts] == [0.5, 0.75, 0.25, None]
  assert row.tags == ('rlaif beats sft', 'rlhf loses to sft')
  assert browser.rows[0].tags[0] == 'rlaif ties with sft'
  assert browser.rows[0].texts[1].text == write.HOSTILE


def test_samples_are_limited(tmp_path, write):
  write.evaluation(tmp_path / 'run', count=310)
  (browser,) = sections(tmp_path / 'run')['samples'].blocks
  assert len(browser.rows) == 300
  assert browser.caption == '300 of 310 prompts.'


def test_runs_that_answered_the_same_prompts_share_rows(tmp_path, write):
  write.evaluation(tmp_path / 'a', count=3)
  write.evaluation(tmp_path / 'b', count=2)
  (browser,) = sections(tmp_path / 'a', tmp_path / 'b')['samples'].blocks
  assert [len(row.texts) for row in browser.rows] == [7, 7, 4]
  names = [text.name for text in browser.rows[0].texts]
  assert names == ['a · sft', 'a · rlaif', 'a · rlhf', 'b · sft', 'b · rlaif',
                   'b · rlhf', 'reference']  # fmt: skip


def test_labelled_pairs(pipeline):
  (browser,) = sections(pipeline)['pairs'].blocks
  assert len(browser.rows) == 200
  first, second = browser.rows[:2]
  assert first.source == 'labels_ai'
  assert first.tags == ('disagrees with the data', 'flips with the order')
  assert second.tags == ('agrees with the data', 'same in both orders')
  assert second.note == 'label 80.0% for the first; the data says 100.0%'


def test_very_long_texts_are_cut():
  assert samples.cut('a' * 20_005) == 'a' * 20_000 + '… (5 more characters)'
  assert samples.cut(None) == 'None'


# -- provenance ---------------------------------------------------------------


def test_state_of_a_run(pipeline):
  (pipeline / 'summary.json').unlink()
  shutil.rmtree(pipeline / 'evaluate')
  section = sections(pipeline)['runs']
  assert notes(section) == ['main is not finished: evaluate not started.']
  found = cells(tables(section)[0])
  assert found['rlaif'] == {
    'stage': 'rl', 'state': 'finished', 'took': '60 s'
  }  # fmt: skip
  assert found['evaluate']['state'] == 'not started'


def test_problems_are_said(pipeline):
  (pipeline / 'rlaif' / 'summary.json').write_text('{')
  assert 'is damaged' in notes(sections(pipeline)['runs'])[0]


def test_config_differences(tmp_path, write):
  write.rl(tmp_path / 'a', nested={'beta': 0.1, 'same': 1})
  write.rl(tmp_path / 'b', nested={'beta': 0.2, 'same': 1}, extra='x')
  (table,) = tables(sections(tmp_path / 'a', tmp_path / 'b')['config'])
  assert cells(table) == {
    'nested.beta': {'a': '0.1', 'b': '0.2'},
    'extra': {'a': '(absent)', 'b': '"x"'},
  }
  write.rl(tmp_path / 'c', nested={'beta': 0.1, 'same': 1})
  section = sections(tmp_path / 'a', tmp_path / 'c')['config']
  assert notes(section) == ['Between the runs: the configs are the same.']


def test_rl_steps_of_a_run_are_compared(pipeline):
  (table,) = tables(sections(pipeline)['config'])
  assert table.title == 'Between the RL steps'
  # A path inside the run is shown as the run sees it.
  assert cells(table) == {
    'reward': {'rlaif': '"reward_ai"', 'rlhf': '"reward_human"'}
  }


def test_environment(pipeline, write):
  section = sections(pipeline)['environment']
  assert 'were not recorded' in notes(section)[0]
  record = {'command': 'python -m x', 'jax': {'version': '0.11.0'}}
  write.json(pipeline / runs.ENVIRONMENT_FILE, record)
  section = sections(pipeline)['environment']
  assert not notes(section)
  found = cells(tables(section)[0])
  assert found['command'] == {'main': 'python -m x'}
  assert found['jax.version'] == {'main': '0.11.0'}
  assert found['seeds'] == {'main': '0'}
  code = [b for b in section.blocks if isinstance(b, blocks.Code)]
  assert json.loads(code[0].text)['stage'] == 'pipeline'
  assert figures(section)['Seconds a step'].caption == '75 s in all.'


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [(0.2, '0 s'), (89, '89 s'), (600, '10 min'), (7200, '2.0 h')],
)
def test_durations(seconds, text):
  assert provenance.duration(seconds) == text


# -- blocks -------------------------------------------------------------------


@pytest.mark.parametrize(
  ('value', 'text'),
  [(0, '0'), (3, '3'), (12345, '12,345'), (2.351, '2.35'), (0.04571, '0.0457'),
   (178.7, '179'), (1e-7, '1e-07'), (-0.5, '-0.500'), (123456.7, '1.23e+05')],
)  # fmt: skip
def test_numbers(value, text):
  assert blocks.plain(value) == text


def test_columns_that_nobody_fills_are_left_out():
  table = blocks.table(
    'x', [('a', {'one': '1'}), ('b', {'one': '2', 't': '3'})]
  )
  assert table.columns == ('x', 'one', 't')
  assert [c.text for c in table.rows[0]] == ['a', '1', '']
