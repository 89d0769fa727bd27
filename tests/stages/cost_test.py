"""What a policy cost, from runs on disk, and the comparison of all methods."""

import importlib
import json

import pytest

from rlaif_jax import rewards, stages
from rlaif_jax.stages import _cost, _report, pipeline

SECONDS = {
  'sft': 100.0, 'labels': 20.0, 'reward': 30.0, 'rlaif': 40.0, 'online': 7.0,
  'grow': 3.0, 'rest': 2.0,
}  # fmt: skip


def leave(folder, stage, summary=None, metrics=(), **fields):
  """A run as it is on disk; one without a summary has not finished."""
  folder.mkdir()
  config = {'stage': stage, 'seed': 0, **fields}
  (folder / 'config.json').write_text(json.dumps(config))
  if summary is not None:
    (folder / 'summary.json').write_text(json.dumps(summary))
  lines = [json.dumps({'step': i, **row}) for i, row in enumerate(metrics, 1)]
  if lines:
    (folder / 'metrics.jsonl').write_text('\n'.join(lines) + '\n')


@pytest.fixture
def runs(tmp_path):
  """SFT, labels, a reward model, RL on it, online RL, and ReST."""
  path = str(tmp_path) + '/'
  leave(tmp_path / 'sft', 'sft', {}, model={'path': 'tiny:xs'})
  cost = {'labeler/cost/tokens_in': 200.5, 'labeler/cost/tokens_out': 1.0}
  leave(
    tmp_path / 'labels', 'label', {'pairs': 10, **cost},
    policy={'path': path + 'sft'},
  )  # fmt: skip
  leave(tmp_path / 'reward', 'reward', {}, labels=path + 'labels')
  leave(
    tmp_path / 'rlaif', 'rl', {}, [{'loss': 1.0}],
    policy={'path': path + 'sft'}, reward={'path': path + 'reward'},
  )  # fmt: skip
  spent = [{rewards.LABELS: 4, rewards.TOKENS: 90}] * 3
  leave(
    tmp_path / 'online', 'rl', spent[0], spent, policy={'path': path + 'sft'}
  )
  leave(
    tmp_path / 'grow', 'sample', {rewards.LABELS: 8, rewards.TOKENS: 50},
    policy={'path': path + 'online'}, reward={'path': 'ORG/NAME'},
  )  # fmt: skip
  leave(
    tmp_path / 'rest', 'sft', {}, model={'path': path + 'online'},
    pool=[path + 'grow'], data={'path': path + 'grow/samples/selected.jsonl'},
  )  # fmt: skip
  (tmp_path / 'grow' / 'samples').mkdir()
  (tmp_path / 'grow' / 'samples' / 'selected.jsonl').write_text('')
  (tmp_path / pipeline.SECONDS_FILE).write_text(json.dumps(SECONDS))
  return tmp_path


def test_all_steps_before_a_policy_are_its_cost(runs):
  found = _cost.of(str(runs / 'rlaif'), without=str(runs / 'sft'))
  assert found == {
    'labels': 10, 'labeler_tokens': 2015.0, 'seconds': 20.0 + 30.0 + 40.0,
  }  # fmt: skip
  whole = _cost.of(str(runs / 'rlaif'))
  assert whole['seconds'] == 190.0  # with SFT, which counts once
  assert _cost.of(str(runs / 'sft'), without=str(runs / 'sft')) == {}


def test_online_labels_are_summed_over_steps(runs):
  found = _cost.of(str(runs / 'online'), without=str(runs / 'sft'))
  assert found == {'labels': 12, 'labeler_tokens': 270, 'seconds': 7.0}
  found = _cost.of(str(runs / 'rest'), without=str(runs / 'sft'))
  assert found == {'labels': 20, 'labeler_tokens': 320, 'seconds': 12.0}


def test_models_that_are_no_runs_cost_nothing(runs, tiny_model):
  assert _cost.of('tiny:xs') == {}
  assert _cost.of('ORG/NAME') == {}
  assert _cost.of('') == {}
  assert _cost.of(tiny_model) == {}  # its config.json is a model's


def test_the_table_has_what_it_took():
  metrics = {
    'eval_win_rate/dpo': 0.6, 'cost/labels/dpo': 4096,
    'cost/labeler_tokens/dpo': 962304.4, 'cost/seconds/dpo': 81.2,
  }  # fmt: skip
  rows = _report.policy_rows({'metrics': metrics, 'policies': ['sft', 'dpo']})
  assert rows['sft'] == {}
  assert rows['dpo'] == {
    'win rate': '60.0%', 'labels': '4,096', 'labeler tokens': '962,304',
    'seconds': '81',
  }  # fmt: skip


# -- configs/methods.py -------------------------------------------------------


@pytest.fixture
def methods(repo, monkeypatch):
  """The module configs/methods.py."""
  monkeypatch.syspath_prepend(str(repo))
  return importlib.import_module('configs.methods')


def test_every_method_is_a_policy_of_the_table(methods):
  config = methods.get_config('')
  names = list(methods.methods())
  assert list(config.steps.evaluate.policies) == ['sft', *names]
  assert {
    'rlaif', 'rlhf', 'direct', 'ppo', 'rloo', 'grpo', 'dr_grpo', 'dapo',
    'gspo', 'reinforce_pp', 'online_dpo', 'dpo', 'cdpo', 'ipo', 'simpo', 'kto',
    'orpo', 'cpl', 'rejection', 'rest', 'hir', 'iterated', 'imitation',
    'length', 'kway', 'gated',
  } <= set(names)  # fmt: skip
  # One SFT model and one set of AI labels for all.
  stages_of = [step.stage for step in config.steps.values()]
  assert config.steps.sft.stage == stages_of[0] == 'sft'
  paths = {
    step.labels
    for name, step in config.steps.items()
    if step.stage == 'preference' and 'self' not in name
  }
  assert paths == {'step:labels_ai'}


def test_only_some_methods_and_what_they_need(methods):
  config = methods.get_config('only=dpo+rest')
  assert list(config.steps) == [
    'sft', 'labels_ai', 'reward_ai', 'dpo', 'rest_grow_1', 'rest_data_1_1',
    'rest_1_1', 'rest_data_1_2', 'rest_1_2', 'rest_data_1_3', 'rest',
    'evaluate',
  ]  # fmt: skip
  assert list(config.steps.evaluate.policies) == ['sft', 'dpo', 'rest']
  assert list(config.steps.evaluate.labels) == ['ai']
  config = methods.get_config('only=hir')
  told = config.steps.evaluate.instructions.to_dict()
  assert told == {'hir': methods.INSTRUCTIONS[-1]}
  with pytest.raises(ValueError, match="only='dpo2' is no method; .*rlaif"):
    methods.get_config('only=dpo2')


def test_rest_asks_for_more_and_learns_less(methods):
  """Rising quantiles of one Grow step, each from the policy before it."""
  steps = methods.get_config('only=rest').steps
  data = [steps[f'rest_data_1_{j}'] for j in (1, 2, 3)]
  assert [d.threshold for d in data] == [0.0, 0.5, 0.75]
  assert {d.select for d in data} == {'quantile'}
  assert {d.pool for d in data} == {('step:rest_grow_1',)}
  learned = [steps[name] for name in ('rest_1_1', 'rest_1_2', 'rest')]
  assert [x.model.path for x in learned] == [
    'step:sft', 'step:rest_1_1', 'step:rest_1_2',
  ]  # fmt: skip
  rates = [x.optimizer.learning_rate for x in learned]
  assert rates == [rates[0], rates[0] / 2, rates[0] / 4]


def test_rejection_learns_from_the_winners_of_all_rounds(methods):
  steps = methods.get_config('only=rejection').steps
  first, second = (steps[f'rejection_samples_{i}'] for i in (1, 2))
  assert first.pool == ()
  assert second.pool == ('step:rejection_samples_1',)
  assert second.policy.path == steps.rejection.model.path == 'step:rejection_1'
  assert {first.select, second.select} == {'best'}
  assert first.seed != second.seed


@pytest.mark.slow
def test_methods_run(methods, tmp_path, one_device):
  """Those that no other test runs as a whole, and their table."""
  names = ('hir', 'imitation', 'iterated', 'self_rewarding', 'length')
  config = methods.get_config(f'only={"+".join(names)},smoke')
  stages.load('pipeline').run(config, tmp_path)
  metrics = json.loads((tmp_path / 'summary.json').read_text())['metrics']
  for name in names:
    assert 0 <= metrics[f'eval_win_rate/{name}'] <= 1
    assert metrics[f'cost/seconds/{name}'] > 0
  assert metrics['cost/labels/imitation'] == 0
  assert metrics['cost/labels/hir'] > 20
  assert metrics['cost/labels/iterated'] > metrics['cost/labels/hir']
