"""Online DPO through the RL stage: a labeler compares the policy's samples."""

import json

import jax
import numpy as np
import pytest

from rlaif_jax import rewards, sharding
from rlaif_jax.models import hf
from rlaif_jax.stages import rl
from rlaif_jax.training.metrics import read_metrics


def make_config(model, **overrides):
  """Three steps on four prompts with two samples each."""
  c = rl.default_config()
  c.algorithm = 'online_dpo'
  with c.unlocked():
    c.algorithm_config = {'beta': 0.5, 'label': 'probability'}
  c.policy.path = c.reward.path = model
  c.reward.name, c.reward.prompt = 'pairwise', 'summary_base'
  c.reward.max_tokens, c.reward.batch_size = 320, 8
  c.data.update(name='tiny_tldr', path='', split='rl', size=8)
  c.batch_size, c.num_steps, c.max_prompt, c.max_response = 8, 3, 80, 6
  c.checkpoint.every = 2
  c.optimizer.update(name='adam', learning_rate=1e-3)
  c.update_from_flattened_dict(overrides)
  return c


@pytest.fixture(scope='module')
def whole(tiny_model, tmp_path_factory, one_device):
  """A run from start to end: (config, workdir)."""
  config = make_config(tiny_model)
  workdir = tmp_path_factory.mktemp('whole')
  rl.run(config, workdir)
  return config, workdir


def untimed(row):
  return {k: v for k, v in row.items() if not k.startswith(('time/', 'perf/'))}


def test_it_learns_without_a_value_model(whole, tiny_model):
  _, workdir = whole
  rows = read_metrics(workdir)
  assert [row['step'] for row in rows] == [1, 2, 3]
  # The two probabilities of a pair are 1 together.
  assert all(abs(row['objective/scores'] - 0.5) < 1e-6 for row in rows)
  assert all(row['objective/scores_std'] > 1e-5 for row in rows)
  assert rows[0]['loss/policy_avg'] == pytest.approx(np.log(2), abs=1e-3)
  assert abs(rows[0]['objective/kl']) < 1e-4 < abs(rows[2]['objective/kl'])
  assert 'loss/value_avg' not in rows[0]
  shown = {'rewards/margins', 'logps/chosen', 'objective/entropy'}
  assert shown <= rows[0].keys()
  (_, params), (_, start) = hf.load(workdir / 'model'), hf.load(tiny_model)
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), params, start)
  assert max(jax.tree.leaves(moved)) > 1e-4


def test_each_step_says_what_it_took_of_the_labeler(whole):
  rows = read_metrics(whole[1])
  for row in rows:
    assert 0 < row[rewards.LABELS] <= 4
    assert row[rewards.TOKENS] > 50 * row[rewards.LABELS]


def test_resumed_run_is_the_run_that_never_stopped(whole, tmp_path, one_device):
  config, source = whole
  rl.run(config, tmp_path / 'run')
  for name in ('summary.json', 'checkpoints/3'):
    path = tmp_path / 'run' / name
    path.rename(tmp_path / path.name)
  rl.run(config, tmp_path / 'run')
  rows, expected = (
    [untimed(row) for row in read_metrics(folder)]
    for folder in (tmp_path / 'run', source)
  )
  assert rows == expected


@pytest.mark.multidevice
def test_sharded_run_is_the_same(whole, tmp_path, monkeypatch):
  """Over data, fsdp and tensor, in microbatches that part the pairs."""
  config = whole[0].copy_and_resolve_references()
  monkeypatch.setattr(sharding, 'make_mesh', sharding.make_mesh.func)
  config.mesh.update(data=2, fsdp=2, tensor=2)
  config.num_microbatches = 2
  rl.run(config, tmp_path)
  first, expected = (
    untimed(read_metrics(folder)[0]) for folder in (tmp_path, whole[1])
  )
  assert first.keys() == expected.keys()
  for key in (
    'loss/policy_avg', 'objective/scores', 'objective/scores_std',
    'policy/optim/grad_norm', rewards.LABELS, rewards.TOKENS,
  ):  # fmt: skip
    assert first[key] == pytest.approx(expected[key], rel=2e-3), key
  assert json.loads((tmp_path / 'summary.json').read_text())


def test_a_group_of_one_is_refused(tiny_model, tmp_path, one_device):
  config = make_config(tiny_model, algorithm='reinforce')
  with config.unlocked():
    config.algorithm_config = {}
  with pytest.raises(ValueError, match="'pairwise'.*group_size=2"):
    rl.run(config, tmp_path)
