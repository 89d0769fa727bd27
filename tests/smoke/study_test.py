"""RLHF vs RLAIF in a small model: the whole study, a few steps of each part."""

import importlib
import json

import pytest

from rlaif_jax import stages


@pytest.fixture
def study(repo, monkeypatch):
  monkeypatch.syspath_prepend(str(repo))
  return importlib.import_module('configs.study')


def test_study_of_one_size(study, tmp_path, one_device):
  config = study.get_config('models=tiny:xs,smoke')
  stages.load('pipeline').run(config, tmp_path)
  summary = json.loads((tmp_path / 'summary.json').read_text())
  policies = ['sft', 'rlhf', 'rlaif', 'only_chosen', 'only_rejected']
  assert summary['policies'] == policies
  contexts = {
    key.split('/')[1]
    for key in summary['metrics']
    if key.startswith('context/') and key.endswith('/prompts')
  }
  assert contexts == {'everyday', 'emotional_support', 'sensitive', 'all'}
  for axis in ('harmlessness', 'helpfulness', 'sentiment', 'empathy'):
    for policy in policies:
      key = f'context/all/{axis}/{policy}'
      low, high = (summary['metrics'][f'{key}_ci_{e}'] for e in ('low', 'high'))
      assert 0 <= low <= summary['metrics'][key] <= high <= 1
  # What passes for RLHF and RLAIF elsewhere is called what it is.
  assert summary['notes']['only_chosen'].startswith('not RL')
  assert summary['notes']['only_rejected'].startswith('not AI feedback')
  page = (tmp_path / 'report' / 'index.html').read_text()
  for text in ('Scores by context', 'emotional support', 'not AI feedback'):
    assert text in page
  # The two reward models learned from the same pairs, of AI and of humans.
  steps = config.steps
  assert steps.reward_ai_xs.data == steps.reward_human_xs.data
  assert steps.reward_ai_xs.labels == 'step:labels_ai'
  assert steps.reward_human_xs.labels == ''


def test_literal_recipe_learns_either_side(study):
  steps = study.get_config('').steps
  for size in ('xs', 's'):
    for side in ('chosen', 'rejected'):
      step = steps[f'only_{side}_{size}']
      assert step.stage == 'sft' and step.data.options.side == side
      assert step.model.path == f'step:sft_{size}'


def test_real_models_are_judged_by_a_labeler(study):
  """Harmlessness, helpfulness, sentiment and empathy by prompts that exist."""
  from rlaif_jax.labeler import direct, prompts

  c = study.get_config('data=Dahoas/rm-static,models=A/B-125m,labeler=L/M')
  evaluation = c.steps['evaluate_B-125m']
  assert (evaluation.judge.name, evaluation.judge.path) == ('labeler', 'L/M')
  for rule in evaluation.axes.values():
    direct.check(prompts.load_prompt(rule))
  assert c.steps['sft_B-125m'].data.path == 'Dahoas/rm-static'
