"""Every algorithm through the RL stage: groups, parts, values, checkpoints."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import algorithms, rewards, sharding
from rlaif_jax.algorithms import grpo, ppo
from rlaif_jax.core.types import Rollout
from rlaif_jax.inference import rows
from rlaif_jax.models import hf
from rlaif_jax.stages import _rl_update, common, rl
from rlaif_jax.training.metrics import read_metrics

B, P, R = 8, 4, 6
# Name -> (algorithm, options); small groups, and several updates for each
# batch where that is the point.
CASES = {
  'ppo': ('ppo', dict(inner_epochs=2, num_minibatches=2, kl_target=0.01)),
  'rloo': ('rloo', dict(group_size=2)),
  'grpo': ('grpo', {}),
  'dr_grpo': ('grpo', grpo.VARIANTS['dr_grpo']),
  'dapo': ('grpo', dict(num_minibatches=2, **grpo.VARIANTS['dapo'])),
  'gspo': ('grpo', grpo.VARIANTS['gspo']),
  'reinforce_pp': ('reinforce_pp', dict(inner_epochs=2)),
}
each_case = pytest.mark.parametrize('case', CASES)


def use(c, case, **options):
  """Makes the config `c` one of the case; `options` win."""
  c.algorithm, more = CASES[case]
  with c.unlocked():
    c.algorithm_config = {**more, **options}
  return c


# -- one update ---------------------------------------------------------------


def step_config(case, **options):
  c = rl.default_config()
  c.batch_size, c.max_prompt, c.max_response = B, P, R
  for block in (c.optimizer, c.value_optimizer):
    block.update(name='sgd', learning_rate=0.01, clip_norm=0.0)
  return use(c, case, **options)


def rollout_for(model, params, same=1):
  """Random responses of several lengths, as many to a prompt as are the same,
  with the policy's log-probs less a little, so that ratios are not 1.
  """
  rng = np.random.default_rng(0)
  mask = np.arange(R)[None] < np.array([6, 2, 5, 1, 6, 3, 4, 6])[:, None]
  tokens = rng.integers(3, model.config.vocab_size, (B, P + R)).astype(np.int32)
  rollout = Rollout(
    prompt_tokens=tokens[::same, :P].repeat(same, axis=0),
    prompt_mask=np.ones((B, P), bool),
    response_tokens=np.where(mask, tokens[:, P:], 0),
    response_mask=mask,
    logprobs=np.zeros((B, R), np.float32),
  )
  stats = _rl_update.score.response_stats(
    model, params, rollout, temperature=0.9
  )
  drift = rng.normal(size=(B, R)) * 0.3
  logprobs = np.where(mask, stats.logprobs - drift, 0).astype(np.float32)
  return Rollout(**{**vars(rollout), 'logprobs': logprobs})


SCORES = np.array([1.0, -1.0, 0.5, 0.25, 2.0, 0.0, -0.5, 0.75], np.float32)


def update_on(folder, config, mesh_shape=None, eos_ids=(), same=1, group=1):
  """(new state, metrics) of one update, on the host.

  `same` rows have one prompt, and `group` is what the update is told.
  """
  count = int(np.prod(list((mesh_shape or {'data': 1}).values())))
  mesh = sharding.make_mesh(mesh_shape, devices=jax.devices()[:count])
  with jax.set_mesh(mesh):
    s = common.Session(None, config, mesh, sharding.DEFAULT_RULES)
    model, params = hf.load(folder, mesh=mesh)
    loaded = common.Loaded(model, params, None, '')
    algorithm, _ = rl.make_options(config)
    names = ('policy', 'value') if algorithm.NEEDS_VALUE else ('policy',)
    txs = dict.fromkeys(names, common.make_optimizer(config.optimizer, 9))
    value_model, state, frozen = rl.init_state(
      s, loaded, txs, jax.random.key(1)
    )
    rollout = rollout_for(model, jax.device_get(params), same)
    rollout = dataclasses.replace(rollout, group=group)
    rollout, scores = sharding.shard_batch((rollout, SCORES), mesh)
    update = rl.make_update(config, model, value_model, txs, eos_ids=eos_ids)
    return sharding.to_host(update(state, frozen, rollout, scores))


def assert_close(one, other, atol=2e-5):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol),
    one,
    other,
  )


@each_case
def test_accumulation_changes_nothing(tiny_model, case):
  """Also for a mean over tokens, which parts hold unlike numbers of, and for
  advantages, which are those of whole groups and of the whole batch.
  """
  whole, metrics = update_on(tiny_model, step_config(case))
  config = step_config(case)
  config.num_microbatches = 4
  parts, others = update_on(tiny_model, config)
  assert_close(whole.policy.params, parts.policy.params)
  if whole.value is not None:
    assert_close(whole.value.params, parts.value.params)
  for key in metrics:
    # Means over tokens, or of rows, that parts hold unlike numbers of.
    if not key.startswith(('val/', 'policy/', 'value/', 'objective/entropy')):
      np.testing.assert_allclose(
        metrics[key], others[key], rtol=1e-4, atol=1e-5, err_msg=key
      )
  assert metrics['policy/optim/update_norm'] > 1e-4


@pytest.mark.parametrize(
  ('case', 'parts'), [('rloo', 1), ('grpo', 2), ('dapo', 1)]
)
def test_prompts_read_once_change_nothing(tiny_model, case, parts, monkeypatch):
  """Nor do several updates of a batch, which take groups apart."""
  config = step_config(case)
  config.num_microbatches = parts
  alone = update_on(tiny_model, config, same=2)
  joined = []
  monkeypatch.setattr(
    rows, 'together', lambda _, batch: joined.append(batch.group) or batch.group
  )
  shared = update_on(tiny_model, config, same=2, group=2)
  # The first made the rollout; then come the reference and the policy.
  assert joined[1] == 2
  assert joined[-1] == (1 if case == 'dapo' else 2)
  assert_close(shared[0].policy.params, alone[0].policy.params)
  for key in ('loss/policy_avg', 'objective/kl'):
    assert shared[1][key] == pytest.approx(alone[1][key], rel=1e-4, abs=1e-5)
  assert alone[1]['policy/optim/update_norm'] > 1e-4


@each_case
def test_an_update_favours_what_scores_high(tiny_model, case):
  """Log-probs of a response move with its score, within its group if it is in
  one: a wrong sign anywhere would show.
  """
  config = step_config(case, beta=0.0)
  model, params = hf.load(tiny_model)
  rollout = rollout_for(model, params)
  state, _ = update_on(tiny_model, config)
  before, after = (
    np.asarray(
      _rl_update.score.response_stats(
        model, p, rollout, temperature=0.9
      ).logprobs.sum(1)
    )
    for p in (params, state.policy.params)
  )
  size = algorithms.count(rl.make_options(config)[1], 'group_size')
  groups = SCORES.reshape(-1, size if size > 1 else B)
  better = (groups - groups.mean(1, keepdims=True)).reshape(-1)
  assert np.dot(after - before, better) > 1e-3


@pytest.mark.multidevice
@pytest.mark.parametrize('case', ['ppo', 'dapo'])
def test_a_mesh_changes_nothing(tiny_model, case):
  one = update_on(tiny_model, step_config(case))
  eight = update_on(
    tiny_model, step_config(case), dict(data=2, fsdp=2, tensor=2)
  )
  assert_close(one, eight, atol=5e-5)


def test_an_update_for_each_part(tiny_model):
  config = step_config('ppo', inner_epochs=3, num_minibatches=2)
  state, metrics = update_on(tiny_model, config)
  assert state.policy.step == state.value.step == 6
  assert metrics['policy/approxkl_avg'] > 0
  once, _ = update_on(
    tiny_model, step_config('ppo', inner_epochs=1, num_minibatches=1)
  )
  assert once.policy.step == 1


def test_policy_delay_counts_batches(tiny_model):
  """However many updates a batch gives."""
  config = step_config('ppo', inner_epochs=2, num_minibatches=2)
  config.policy_delay = 1
  state, _ = update_on(tiny_model, config)
  _, start = hf.load(tiny_model)
  jax.tree.map(np.testing.assert_array_equal, state.policy.params, start)
  assert state.policy.step == 4


@pytest.mark.parametrize(('epochs', 'parts'), [(1, 1), (3, 1), (2, 4)])
def test_order(epochs, parts):
  """Every pass sees each row once, in an order of its own that can be had
  again, and another one in the next batch.
  """
  options = ppo.Config(inner_epochs=epochs, num_minibatches=parts)
  order = functools.partial(_rl_update.make_order, rows=8, options=options)
  first = np.asarray(order(0, jnp.int32(0)))
  assert first.shape == (epochs * parts, 8 // parts)
  passes = first.reshape(epochs, 8)
  np.testing.assert_array_equal(np.sort(passes), [np.arange(8)] * epochs)
  np.testing.assert_array_equal(first, order(0, jnp.int32(0)))
  for other in (order(0, jnp.int32(epochs * parts)), order(1, jnp.int32(0))):
    assert (first != other).any()
  if epochs > 1:
    assert (passes[0] != passes[1]).any()


def test_inner_steps_are_the_steps_one_by_one():
  """A scan over parts is a loop over them; the sampler's gap is the first."""
  rows = jnp.arange(6.0)
  batch = _rl_update._Batch(rows, rows, rows, None)
  order = jnp.array([[0, 3, 5], [1, 2, 4]])

  def optimise(models, frozen, part):
    total = jnp.sum(part.scores) * frozen
    metrics = {'loss/x': total, 'val/sampler_gap': models['policy']}
    return {'policy': models['policy'] * 2 + total}, metrics

  start = {'policy': jnp.float32(1)}
  models, metrics = _rl_update.inner_steps(optimise, start, 0.5, batch, order)
  assert models['policy'] == (1 * 2 + 4) * 2 + 3.5
  assert metrics == {'loss/x': 3.75, 'val/sampler_gap': 1.0}
  whole, _ = _rl_update.inner_steps(optimise, start, 1.0, batch, order[:1])
  assert whole['policy'] == 2 + 15  # one part takes the batch as it is


def test_missing_end_costs(tiny_model):
  """A response whose real tokens hold no end scores less, and is counted."""
  config = step_config('rloo')
  rollout = rollout_for(*hf.load(tiny_model))
  eos = int(rollout.response_tokens[5, 2])  # of what is random, that one
  ended = ((rollout.response_tokens == eos) & rollout.response_mask).any(1)
  config.missing_eos_penalty = 2.0
  _, metrics = update_on(tiny_model, config, eos_ids=(eos,))
  expected = np.where(ended, SCORES, SCORES - 2).mean()
  np.testing.assert_allclose(metrics['objective/scores'], expected, rtol=1e-5)
  assert metrics['val/num_eos_tokens'] == ended.sum()


# -- what cannot be -----------------------------------------------------------


@pytest.mark.parametrize(
  ('case', 'options', 'fields', 'message'),
  [
    ('rloo', {'group_size': 3}, {}, 'batch_size=8 .*group_size=3'),
    ('ppo', {'num_minibatches': 3}, {}, 'num_minibatches=3'),
    (
      'ppo', {'num_minibatches': 4}, {'num_microbatches': 4},
      'num_minibatches=4 of num_microbatches=4',
    ),
    ('grpo', {}, {'policy_delay': 1}, 'grpo has no value model'),
    ('ppo', {}, {'sampling.top_p': 0.9}, 'config.sampling: ppo compares'),
    ('ppo', {}, {'sampling.greedy': True}, 'config.sampling: ppo compares'),
    ('ppo', {'lam': 0.9}, {}, 'config.algorithm_config.lam is unknown'),
    ('ppo', {}, {'reward_scaling': 'all'}, 'none, running'),
  ],
)  # fmt: skip
def test_options_that_do_not_fit(case, options, fields, message):
  config = step_config(case, **options)
  config.update_from_flattened_dict(fields)
  with pytest.raises(ValueError, match=message):
    rl.make_options(config)


# -- the whole stage ----------------------------------------------------------


def stage_config(case, policy, reward, **overrides):
  """Three steps on eight prompts of the tiny world."""
  c = use(rl.default_config(), case)
  c.policy.path = policy
  c.reward.name, c.reward.path = 'reward_model', reward
  c.data.update(name='tiny_tldr', path='', split='rl', size=8)
  c.batch_size, c.num_steps, c.max_prompt, c.max_response = 8, 3, 80, 6
  c.checkpoint.every = 2
  for block in (c.optimizer, c.value_optimizer):
    block.name, block.learning_rate = 'adam', 1e-3
  c.update_from_flattened_dict(overrides)
  return c


@each_case
def test_stage(
  tiny_model, tiny_reward_model, tmp_path, one_device, monkeypatch, case, stored
):
  """It learns; a value model is there if and only if it is needed."""
  made = []
  scalar_from = common.scalar_from
  monkeypatch.setattr(
    common, 'scalar_from', lambda *a: made.append(a) or scalar_from(*a)
  )
  config = stage_config(case, tiny_model, tiny_reward_model)
  rl.run(config, tmp_path)
  rows = read_metrics(tmp_path)
  assert [row['step'] for row in rows] == [1, 2, 3]
  assert abs(rows[0]['objective/kl']) < 1e-4
  assert abs(rows[2]['objective/kl']) > 1e-5
  assert all(row['val/sampler_gap'] < 1e-4 for row in rows)
  assert {
    'objective/entropy', 'objective/scores', 'objective/rlhf_reward',
    'objective/non_score_reward', 'loss/policy_avg', 'policy/approxkl_avg',
    'policy/clipfrac_avg', 'val/ratio', 'val/num_eos_tokens',
    'policy/optim/grad_norm',
  } <= rows[0].keys()  # fmt: skip
  assert 'weight' not in rows[0]
  value = algorithms.load(config.algorithm).NEEDS_VALUE
  assert len(made) == value
  assert ('loss/value_avg' in rows[0]) == value
  assert ('value/optim/grad_norm' in rows[0]) == value
  assert any(key.startswith('value') for key in stored(tmp_path)) == value
  assert json.loads((tmp_path / 'summary.json').read_text()) == rows[-1]
  _, start = hf.load(tiny_model)
  _, params = hf.load(tmp_path / 'model')
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), params, start)
  assert max(jax.tree.leaves(moved)) > 1e-4


def test_the_controller_is_in_the_checkpoint(
  tiny_model, tiny_reward_model, tmp_path, one_device, stored
):
  """And a run that goes on from there is the run that never stopped."""
  config = stage_config('ppo', tiny_model, tiny_reward_model)
  config.algorithm_config.kl_horizon = 40.0
  rl.run(config, tmp_path / 'whole')
  rows = read_metrics(tmp_path / 'whole')
  found = [row['objective/kl_coef'] for row in rows]
  # KL is under its target at first, so its weight falls by 8/40 of a fifth.
  np.testing.assert_allclose(found[:2], [0.05, 0.05 * 0.96], rtol=1e-5)
  assert 'algorithm.kl_coef' in stored(tmp_path / 'whole')

  rl.run(config, tmp_path / 'cut')
  for name in ('summary.json', 'checkpoints/3'):
    path = tmp_path / 'cut' / name
    path.rename(tmp_path / path.name)
  rl.run(config, tmp_path / 'cut')
  for row, expected in zip(read_metrics(tmp_path / 'cut'), rows, strict=True):
    for key in expected.keys() - {
      k for k in expected if k.startswith(('time/', 'perf/'))
    }:
      assert row[key] == expected[key], key


def test_a_group_is_one_prompt_and_its_samples_differ(
  tiny_model, tiny_reward_model, tmp_path, one_device, monkeypatch
):
  seen = []
  module = rewards.load('reward_model')
  make = module.make

  def spy(*args, **keywords):
    reward = make(*args, **keywords)

    class Spy:
      def score(self, rollout, examples):
        seen.append((jax.device_get(rollout), [e.id for e in examples]))
        return reward.score(rollout, examples)

    return Spy()

  monkeypatch.setattr(module, 'make', spy)
  config = stage_config('grpo', tiny_model, tiny_reward_model, num_steps=1)
  rl.run(config, tmp_path)
  ((rollout, ids),) = seen
  assert ids[:4] == [ids[0]] * 4
  assert ids[4:] == [ids[4]] * 4
  assert ids[0] != ids[4]
  for first in (0, 4):
    group = rollout.prompt_tokens[first : first + 4]
    np.testing.assert_array_equal(group, group[:1].repeat(4, 0))
    texts = {row.tobytes() for row in rollout.response_tokens[first:][:4]}
    assert len(texts) > 1


def test_adapters(tiny_model, tiny_reward_model, tmp_path, one_device, stored):
  """LoRA without a value model: adapters are all that is trained and kept."""
  config = stage_config('grpo', tiny_model, tiny_reward_model)
  config.policy.lora.rank = 2
  rl.run(config, tmp_path)
  rows = read_metrics(tmp_path)
  assert abs(rows[0]['objective/kl']) < 1e-4
  assert abs(rows[2]['objective/kl']) > 1e-6
  params = {k for k in stored(tmp_path) if k.startswith('policy.params')}
  assert params
  assert all('lora_' in key for key in params)


def test_epochs_are_over_prompts(
  tiny_model, tiny_reward_model, tmp_path, one_device
):
  """Eight prompts, two a step in groups of four: four steps are an epoch."""
  config = stage_config(
    'grpo', tiny_model, tiny_reward_model, num_steps=0, num_epochs=1
  )
  rl.run(config, tmp_path)
  assert len(read_metrics(tmp_path)) == 4
