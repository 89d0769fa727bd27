"""Configs of the reward side, as they ship, on the tiny world."""

import importlib
import json

import pytest
from ml_collections import ConfigDict

from rlaif_jax import stages
from rlaif_jax.rewards import reward_model
from rlaif_jax.training.metrics import read_metrics


@pytest.fixture
def get_config(repo, monkeypatch):
  monkeypatch.syspath_prepend(str(repo))

  def get(name, arg):
    return importlib.import_module(f'configs.{name}').get_config(arg)

  return get


def run(config, workdir):
  stages.load(config.stage).run(config, workdir)
  return json.loads((workdir / 'summary.json').read_text())


@pytest.mark.parametrize(
  'loss',
  [
    'kway',
    pytest.param('margin', marks=pytest.mark.slow),
    pytest.param('margin_label', marks=pytest.mark.slow),
  ],
)
def test_reward(get_config, tiny_model, tmp_path, one_device, loss):
  config = get_config('reward', f'loss={loss},smoke')
  config.model.path, config.max_prompt = tiny_model, 80
  summary = run(config, tmp_path)
  assert summary['pairs'] == 32
  assert 0 <= summary['eval_rewards/accuracies/model'] <= 1
  assert len(read_metrics(tmp_path)) == 3
  assert reward_model.read_stats(str(tmp_path / 'model'))[1] > 0


def test_average(get_config, tiny_model, tmp_path, one_device):
  config = get_config('average', 'smoke')
  config.models = (tiny_model,) * 2
  assert run(config, tmp_path)['models'] == 2
  assert (tmp_path / 'model' / 'config.json').is_file()


@pytest.mark.slow
@pytest.mark.parametrize('method', ['instructgpt', 'llama2'])
def test_rl(get_config, tmp_path, one_device, method):
  run(get_config('rl', f'algorithm={method},smoke'), tmp_path)
  rows = read_metrics(tmp_path)
  assert len(rows) == 3
  assert all(('loss/ptx' in r) == (method == 'instructgpt') for r in rows)


@pytest.mark.slow
def test_pieces_compose(get_config, tiny_model, tmp_path, one_device):
  """Human labels and a coin's, mixed; two reward models of them, averaged and
  as an ensemble and a gate; the policy against each.
  """
  steps = {}
  for source in ('human', 'random'):
    c = get_config('label', 'smoke')
    c.source = source
    steps[source] = c
  for seed in (1, 2):
    c = get_config('reward', 'smoke')
    c.seed, c.model.path, c.max_prompt = seed, tiny_model, 80
    c.labels, c.mix.labels = 'step:human', ('step:random',)
    c.mix.counts, c.length_gap = (9, 3), 0.9
    steps[f'reward_{seed}'] = c
  c = get_config('average', 'smoke')
  c.models = ('step:reward_1', 'step:reward_2')
  c.max_prompt = 80
  steps['warm'] = c
  for name, reward, path, options in (
    ('rl_warm', 'reward_model', 'step:warm', {}),
    ('rl_all', 'ensemble', 'step:reward_1', {'others': ('step:reward_2',)}),
    ('rl_gate', 'gated', 'step:reward_1', {'safety': 'step:reward_2'}),
  ):
    c = get_config('rl', 'algorithm=rloo,smoke')
    c.policy.path, c.max_prompt, c.num_steps = tiny_model, 80, 1
    c.reward.name, c.reward.path = reward, path
    c.reward.options = options
    steps[name] = c
  config = stages.load('pipeline').default_config()
  config.steps = ConfigDict(steps, sort_keys=False)
  run(config, tmp_path)
  for name in ('reward_1', 'reward_2'):
    summary = json.loads((tmp_path / name / 'summary.json').read_text())
    assert summary['pairs'] == 12
  scores = {
    name: read_metrics(tmp_path / name)[0]['objective/scores']
    for name in ('rl_warm', 'rl_all', 'rl_gate')
  }
  assert abs(scores['rl_gate']) < 1e-5
  assert scores['rl_warm'] != pytest.approx(scores['rl_all'], abs=1e-6)
