"""Sections of scores by context, label quality and notes, checked by hand."""

import importlib.util
import pathlib

import numpy as np

from rlaif_jax.data.records import PreferenceRecord
from rlaif_jax.evaluators import label_report
from rlaif_jax.report import build, contexts, notebook, runs
from rlaif_jax.report import write as writing

_spec = importlib.util.spec_from_file_location(
  'sections_test', pathlib.Path(__file__).with_name('sections_test.py')
)
_sections = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_sections)
cells, figures, notes, sections, tables = (
  getattr(_sections, name)
  for name in ('cells', 'figures', 'notes', 'sections', 'tables')
)


def scores(scale=1.0):
  """Scores of two policies in two contexts on one axis."""
  found = {'context/everyday/prompts': 6, 'context/all/prompts': 9}
  for policy, value in (('sft', 0.25), ('rlaif', 0.5)):
    for place in ('everyday', 'all'):
      key = f'context/{place}/empathy/{policy}'
      found |= {
        key: value * scale,
        f'{key}_ci_low': (value - 0.1) * scale,
        f'{key}_ci_high': (value + 0.1) * scale,
      }
  for place, low, high in (('everyday', 0.1, 0.4), ('all', -0.1, 0.6)):
    key = f'context_gain/{place}/empathy/rlaif'
    found |= {key: 0.25, f'{key}_ci_low': low, f'{key}_ci_high': high}
  return found


def write_scores(write, path, **changes):
  summary = write.evaluation(path, metrics=write.METRICS | scores())
  summary |= {
    'axes': {'empathy': 'labeler tiny:l with the prompt empathy_score'},
    'notes': {'rlhf': 'not what it says'},
  } | changes
  write.json(path / 'summary.json', summary)


# -- contexts -----------------------------------------------------------------


def test_scores_by_context(tmp_path, write):
  write_scores(write, tmp_path / 'run')
  found = sections(tmp_path / 'run')
  section = found['contexts']
  assert 'empathy: labeler tiny:l with the prompt empathy_score' in (
    section.intro
  )
  [table] = tables(section)
  assert table.title == 'empathy' and not table.folded
  assert cells(table)['sft'] == {'everyday (6)': '25.0%', 'all (9)': '25.0%'}
  # Only an interval of the gain that leaves zero out counts as higher.
  assert cells(table)['rlaif'] == {
    'everyday (6)': '50.0% ▲', 'all (9)': '50.0%',
  }  # fmt: skip
  assert list(figures(section)) == ['empathy']
  assert notes(found['headline']) == ['rlhf: not what it says.']


def test_scores_of_1_to_10_are_no_shares(tmp_path, write):
  write_scores(write, tmp_path / 'run')
  summary = write.evaluation(tmp_path / 'run', metrics=scores(scale=10))
  write.json(tmp_path / 'run' / 'summary.json', summary)
  [table] = tables(sections(tmp_path / 'run')['contexts'])
  assert cells(table)['sft']['all (9)'] == '2.50'


def test_no_section_without_scores(pipeline):
  assert 'contexts' not in sections(pipeline)
  assert contexts.places({'eval_win_rate/a': 1.0}) == []


def test_several_evaluations_of_a_pipeline_keep_their_names(tmp_path, write):
  """In the order of the steps; the pipeline's own is that of the last one."""
  root = tmp_path / 'run'
  names = ('evaluate_xs', 'evaluate_s')
  block = {'stage': 'evaluate'}
  write.json(
    root / 'config.json',
    {'stage': 'pipeline', 'steps': dict.fromkeys(names, block)},
  )
  for name in names:
    write_scores(write, root / name)
  write.json(
    root / 'summary.json',
    write.evaluation(tmp_path / 'other', write.METRICS | scores()),
  )
  [table] = tables(sections(root)['contexts'])
  assert [row[0].text for row in table.rows] == [
    name for name in names for _ in range(3)
  ]
  assert table.folded
  assert build.title(runs.load_all([root])) == 'run'


def test_labels_known_to_the_run_are_not_shown_twice(tmp_path, write):
  root = tmp_path / 'run'
  blocks = {
    'labels_ai': {'stage': 'label'},
    'evaluate_a': {'stage': 'evaluate'},
    'evaluate_b': {'stage': 'evaluate'},
  }
  write.json(root / 'config.json', {'stage': 'pipeline', 'steps': blocks})
  write.labels(root / 'labels_ai')
  for name in ('evaluate_a', 'evaluate_b'):
    write.evaluation(root / name)
  [table] = tables(sections(root)['labelers'])
  assert list(cells(table)) == ['labels_ai']


# -- label quality ------------------------------------------------------------


def quality(count=40, names=('base',)):
  """A report of labels that are right in 3 of 4, surer in every other."""
  rows = [
    PreferenceRecord(
      id=str(i),
      prompt=f'post {i}',
      response_1=f'one {i}',
      response_2=f'number two {i}',
      p_first=0.9 if i % 2 else 0.6,
      logprobs_12=(-0.1, -2.0 - i % 2),
      logprobs_21=(-2.0, -0.1) if i % 4 else (-0.1, -2.0),
      prompt_name=names[i % len(names)],
      meta={'human_p_first': 0.0 if i % 4 == 0 else 1.0},
    )
    for i in range(count)
  ]
  options = label_report.Config(num_samples=50)
  return label_report.report(label_report.from_records(rows), options)


def write_quality(write, path, **options):
  write.labels(path)
  report = quality(**options)
  write.json(path / 'summary.json', write.LABELS | {'report': report})
  return report


def test_quality_of_labels(tmp_path, write):
  report = write_quality(write, tmp_path / 'labels', names=('base', 'cot'))
  section = sections(tmp_path / 'labels')['label-quality']
  found = {table.title: cells(table)['labels'] for table in tables(section)}
  # Half are at 0.6, of which the human is against every other one.
  assert found['Agreement by confidence'] == {
    '0.2 to 0.4': '50.0%', '0.8 to 1.0': '100.0%',
  }  # fmt: skip
  assert found['Agreement by prompt name'] == {'base': '50.0%', 'cot': '100.0%'}
  averaging = found['What averaging both orders is worth']
  gain = report['debiasing']['over_single']['difference']
  assert averaging['averaging gains'] == f'{gain:+.1%}'
  assert found['Calibration and length']['calibration error'] == (
    f'{report["calibration"]["ece"]:.3f}'
  )
  # The curve is that of the section on labelers.
  assert list(figures(section)) == ['Agreement by confidence']


def test_labelers_of_an_alignment_stage(tmp_path, write):
  """One row a labeler, beside its table by prompt."""
  write.json(tmp_path / 'run' / 'config.json', {'stage': 'alignment'})
  cell = {'alignment': 0.7, 'ci_low': 0.6, 'ci_high': 0.8, 'flip_rate': 0.2}
  summary = {
    'alignment_table': {
      name: {'summary': {'base': cell, 'detailed': cell}} for name in 'ab'
    },
    'labelers': {'a': quality(40), 'b': quality(24)},
  }
  write.json(tmp_path / 'run' / 'summary.json', summary)
  found = sections(tmp_path / 'run')
  [table] = tables(found['prompts'])
  assert len(table.rows) == 4
  table = tables(found['label-quality'])[0]
  assert list(cells(table)) == ['a', 'b']
  assert list(figures(found['label-quality'])) == [
    'Agreement by confidence', 'Calibration',
  ]  # fmt: skip


def test_labels_without_humans_have_no_quality(tmp_path, write):
  write_quality(write, tmp_path / 'labels')
  report = {'labels': 3, 'human_labels': 0, 'length': {'rate': 0.5}}
  write.json(
    tmp_path / 'labels' / 'summary.json', write.LABELS | {'report': report}
  )
  assert 'label-quality' not in sections(tmp_path / 'labels')


# -- reliability of reward models ---------------------------------------------


def test_reliability_of_a_reward_model_is_drawn(tmp_path, write):
  path = tmp_path / 'reward'
  write.reward(path)
  summary = {
    'pairs': 9, 'eval_rewards/accuracies/model': 0.7,
    'reliability': {'model': [[0.55, 0.5, 4], [0.8, 0.75, 5]]},
  }  # fmt: skip
  write.json(path / 'summary.json', summary)
  found = figures(sections(path)['reward-models'])
  assert found['Reliability'].svg.count('<circle') >= 2


# -- writing ------------------------------------------------------------------


def test_quietly_says_what_went_wrong(tmp_path, write, caplog):
  write.rl(tmp_path / 'rl')
  writing.quietly(tmp_path / 'rl')
  assert (tmp_path / 'rl' / 'report' / 'index.html').is_file()
  assert not caplog.text
  writing.quietly(tmp_path / 'nothing')
  assert 'no such folder' in caplog.text


def test_several_in_one_page(tmp_path, write):
  for name in ('a', 'b'):
    write.rl(tmp_path / name)
  file = writing.write([tmp_path / 'a', tmp_path / 'b'], tmp_path / 'both')
  assert file == tmp_path / 'both' / 'index.html'
  assert '>a, b</h1>' in file.read_text()


def test_a_page_in_a_notebook(tmp_path):
  (tmp_path / 'page.html').write_text('<p title="x">&amp;</p>')
  shown = notebook.show(tmp_path / 'page.html', 300)._repr_html_()
  assert 'height: 300px' in shown
  assert 'srcdoc="&lt;p title=&quot;x&quot;&gt;&amp;amp;&lt;/p&gt;"' in shown


def test_numbers_of_the_planted_quality():
  """The report that these tests show is what they say it is."""
  report = quality()
  assert report['alignment']['rate'] == 0.75
  assert np.isclose(report['position']['same_position']['rate'], 0.25)
