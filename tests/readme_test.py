"""What launch/readme.py writes into README.md."""

import importlib.util
import json

import pytest

SUMMARY = {
  'policies': ['sft', 'rlaif'],
  'judge': {
    'name': 'reward_model', 'of': 'reward_judge', 'pairs': 1821,
    'eval_rewards/accuracies/model': 0.581,
    'eval_rewards/accuracies/longer': 0.576,
  },
  'metrics': {
    'eval_win_rate/rlaif': 0.612, 'eval_win_rate/rlaif_std': 0.02,
    'eval_win_rate/rlaif_ci_low': 0.55, 'eval_win_rate/rlaif_ci_high': 0.67,
    'eval_win_rate/rlaif_vs_sft': 0.6, 'eval_win_rate/rlaif_vs_sft_win': 0.6,
    'objective/kl/sft': 0.0, 'objective/kl/rlaif': 1.5, 'text/words/sft': 9.96,
  },
  'labelers': {
    'ai': {'pairs': 1024, 'labeler/alignment': 0.5, 'labeler/flip_rate': 0.9},
    'given': {'pairs': 400, 'labeler/longer_rate': 0.675},
  },
  'reward_models': {
    'human': {
      'eval_rewards/accuracies/model': 0.6,
      'eval_rewards/accuracies/model_ci_low': 0.58,
      'eval_rewards/accuracies/model_ci_high': 0.62,
      'eval_rewards/accuracies/longer': 0.56,
    },
  },
}  # fmt: skip


@pytest.fixture(scope='module')
def readme(repo):
  """The module launch/readme.py."""
  spec = importlib.util.spec_from_file_location(
    'launch_readme', repo / 'launch' / 'readme.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def written(readme, folder, summary, **config):
  (folder / 'summary.json').write_text(json.dumps(summary))
  (folder / 'config.json').write_text(json.dumps(config))
  return readme.results(folder)


def cells(line):
  return [cell.strip() for cell in line.strip('|').split('|')]


def test_every_number_comes_from_the_summary(readme, tmp_path):
  policies, labelers, models, note = written(
    readme, tmp_path, SUMMARY, seeds=[0, 1]
  ).split('\n\n')
  head, _, sft, rlaif, against = map(cells, policies.splitlines())
  # No row has a harmless rate or a length-corrected one: no such column.
  assert head == ['policy', 'win rate vs SFT', '95% CI', 'KL to SFT', 'words']
  assert sft == ['sft', '', '', '0.00', '10.0']
  assert rlaif == ['rlaif', '61.2% ± 2.0%', '55.0% to 67.0%', '1.50', '']
  assert against[:2] == ['rlaif vs sft', '60.0%']
  head, _, ai, given = map(cells, labelers.splitlines())
  assert head == [
    'labeler', 'pairs', "agreement with the data's labels", 'flip rate',
    'longer preferred',
  ]  # fmt: skip
  assert ai == ['ai', '1024', '50.0%', '90.0%', '']
  assert given == ['given', '400', '', '', '67.5%']
  assert cells(models.splitlines()[2]) == [
    'human', '60.0%', '58.0% to 62.0%', '56.0%',
  ]  # fmt: skip
  assert 'reward model `reward_judge`, trained on 1821 human' in note
  assert '58.1% accuracy on others; longer is better: 57.6%' in note
  assert 'Seeds 0, 1;' in note


def test_methods_have_their_costs(readme, tmp_path):
  metrics = {
    **SUMMARY['metrics'], 'cost/labels/rlaif': 4096.0,
    'cost/labeler_tokens/rlaif': 962304.4, 'cost/seconds/rlaif': 81.2,
    'cost/seconds/rlaif_std': 2.0,
  }  # fmt: skip
  summary = {**SUMMARY, 'metrics': metrics}
  plain = written(readme, tmp_path, summary, seed=0)
  assert 'seconds' not in plain.splitlines()[0]
  (tmp_path / 'environment.json').write_text(
    json.dumps({'backend': 'gpu', 'device': 'NVIDIA X', 'devices': 2})
  )
  text = readme.results(tmp_path, readme._COSTS)
  head, _, sft, rlaif, *_ = map(cells, text.splitlines())
  assert head[-3:] == ['labels', 'labeler tokens', 'seconds']
  assert rlaif[-3:] == ['4,096', '962,304', '81 ± 2']
  assert sft[-3:] == ['', '', '']
  assert '2 x NVIDIA X' in text


@pytest.mark.parametrize(
  ('judge', 'text'),
  [
    ({'name': 'oracle'}, 'Judge: the oracle.'),
    (
      {'name': 'labeler', 'of': 'big', 'prompt': 'summary_score'},
      'Judge: the labeler (big) with the prompt `summary_score`.',
    ),
    ({'name': 'reward_model', 'of': 'rm'}, 'Judge: the reward model `rm`.'),
  ],
)
def test_the_judge_is_named(readme, tmp_path, judge, text):
  assert text in written(readme, tmp_path, {**SUMMARY, 'judge': judge}, seed=0)


def test_sections_are_filled_and_the_rest_stays(readme):
  text = 'a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\nc\n<!-- /y -->\n'
  filled = readme.fill(text, 'x', 'new \\1')
  assert filled == text.replace('old', 'new \\1')
  with pytest.raises(ValueError, match='no section <!-- z -->'):
    readme.fill(text, 'z', '')


def test_readme_has_the_sections_and_shows_every_file(readme, repo):
  text = (repo / 'README.md').read_text()
  for name in ('tree', 'families', 'tiny', 'tldr', 'harmless'):
    assert readme.fill(text, name, '') != text
  for folder in ('rlaif_jax', 'configs', 'launch'):
    for file in (repo / folder).rglob('*.py'):
      assert f'  {file.name} ' in text, f'{file}: run launch/readme.py'
