"""Rewards of several models, of length, and less a penalty, in the RL stage."""

import json

import numpy as np
import pytest

from rlaif_jax.rewards import reward_model
from rlaif_jax.stages import rl
from rlaif_jax.training.metrics import read_metrics


def stage_config(policy, name, path, **options):
  """Two steps of RLOO on eight prompts of the tiny world."""
  c = rl.default_config()
  c.policy.path = policy
  c.reward.name, c.reward.path = name, path
  c.reward.options = options
  c.data.update(name='tiny_tldr', path='', split='rl', size=8)
  c.batch_size, c.num_steps, c.max_prompt, c.max_response = 8, 2, 80, 6
  c.algorithm = 'rloo'
  with c.unlocked():
    c.algorithm_config = dict(group_size=2)
  c.optimizer.update(name='adam', learning_rate=1e-3)
  return c


@pytest.mark.parametrize(
  'name',
  [
    'gated',
    pytest.param('ensemble', marks=pytest.mark.slow),
    pytest.param('length', marks=pytest.mark.slow),
  ],
)
def test_stage(tiny_model, tiny_reward_model, tmp_path, one_device, name):
  options = {
    'gated': {'safety': tiny_reward_model},
    'ensemble': {'others': (tiny_reward_model,), 'combine': 'std'},
    'length': {'target': 6},
  }[name]
  path = '' if name == 'length' else tiny_reward_model
  rl.run(stage_config(tiny_model, name, path, **options), tmp_path)
  rows = read_metrics(tmp_path)
  assert [row['step'] for row in rows] == [1, 2]
  for row in rows:
    if name == 'gated':  # whitened
      assert abs(row['objective/scores']) < 1e-5
      assert row['objective/scores_std'] == pytest.approx(1.0, abs=1e-3)
    if name == 'length':
      length = row['val/response_length']
      assert row['objective/scores'] == pytest.approx(length / 6, abs=1e-5)
  # Options are in the workdir's config: another reward is another run.
  kept = json.loads((tmp_path / 'config.json').read_text())
  assert kept['reward']['options'].keys() == options.keys()


@pytest.mark.slow
def test_an_ensemble_of_one_is_that_model(
  tiny_model, tiny_reward_model, tmp_path, one_device
):
  """And a penalty takes off what the length says."""
  config = stage_config(tiny_model, 'ensemble', tiny_reward_model)
  config.num_steps = 1
  rl.run(config, tmp_path / 'ensemble')
  config.reward.name = 'reward_model'
  config.reward.length_penalty, config.reward.length_free = 0.5, 2
  rl.run(config, tmp_path / 'penalised')
  one, other = (
    read_metrics(tmp_path / n)[0] for n in ('ensemble', 'penalised')
  )
  assert reward_model.read_stats(tiny_reward_model) == (0.0, 1.0)
  lost = one['objective/scores'] - other['objective/scores']
  # Of six tokens at most; rows under the free ones would make it an inequality.
  length = one['val/response_length']
  assert length == other['val/response_length']
  assert lost >= 0.5 * (length - 2) - 1e-5
  assert lost <= 0.5 * 4 + 1e-5
  np.testing.assert_array_less(1e-3, lost)


def test_bad_options_are_said_before_models_load(tiny_model, tmp_path):
  config = stage_config(tiny_model, 'gated', '/no/such/model', saftey='x')
  with pytest.raises(ValueError, match='config.reward.options.saftey'):
    rl.run(config, tmp_path)
