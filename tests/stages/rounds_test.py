"""Dynamic sampling: which groups make up a batch, and that it resumes."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import rewards, sharding
from rlaif_jax.algorithms import grpo
from rlaif_jax.core.types import PromptBatch, Rollout
from rlaif_jax.data import pipeline
from rlaif_jax.stages import _rounds, rl
from rlaif_jax.training.metrics import read_metrics

B, G, P, R = 8, 2, 3, 2
EOS = 1


def make_config(**fields):
  c = rl.default_config()
  c.algorithm, c.batch_size, c.max_sampling_rounds = 'grpo', B, 4
  with c.unlocked():
    c.algorithm_config = dict(group_size=G)
  c.update_from_flattened_dict(fields)
  return c


# -- one batch ----------------------------------------------------------------


def drawn(number, good, mesh):
  """Rollout `number`, told by its tokens; groups differ where `good` says."""
  ids = number * 100 + np.arange(B, dtype=np.int32)
  rollout = Rollout(
    prompt_tokens=np.repeat(ids[:, None], width_of(number), 1),
    prompt_mask=np.ones((B, width_of(number)), bool),
    response_tokens=np.repeat(ids[:, None], R, 1),
    response_mask=np.ones((B, R), bool),
    logprobs=-np.repeat(ids[:, None], R, 1).astype(np.float32),
  )
  scores = np.float32(number) + np.repeat(good, G) * (np.arange(B) % G)
  arrays = sharding.shard_batch((rollout, scores.astype(np.float32)), mesh)
  spent = {'labeler/labels': B, 'labeler/tokens': jnp.int32(number)}
  return _rounds.Drawn(*arrays, [f'prompt {i}' for i in ids], number, spent)


def width_of(number):
  """Of the prompts of a rollout."""
  return P + number % 2


def expected_rows(good, limit):
  """(ids of the batch, rounds), group by group in a loop."""
  useful, useless, rounds = [], [], 0
  while rounds < limit and len(useful) < B // G:
    for group in range(B // G):
      first = rounds * 100 + group * G
      where = useful if good[rounds, group] else useless
      where.append(list(range(first, first + G)))
    rounds += 1
  return np.concatenate((useful + useless)[: B // G]), rounds


SHAPES = [
  {'data': 1},
  pytest.param(dict(data=2, fsdp=2, tensor=2), marks=pytest.mark.multidevice),
]


@pytest.mark.parametrize('shape', SHAPES, ids=['one', 'eight'])
@pytest.mark.parametrize('share', [0.0, 0.2, 0.5, 0.9, 1.0])
def test_the_batch_is_that_of_a_loop(shape, share):
  """Of which groups, in which order; and where the next step goes on."""
  limit, first = 4, 5
  rng = np.random.default_rng(int(10 * share))
  good = rng.random((limit, B // G)) < share
  count = int(np.prod(list(shape.values())))
  mesh = sharding.make_mesh(shape, devices=jax.devices()[:count])
  with jax.set_mesh(mesh):
    made = _rounds.Rounds(make_config(), grpo.Config(group_size=G), mesh, ())
    state = rl.RLState(None, None, None, None, draws=jnp.int32(first))
    state, found, metrics = made.collect(
      lambda n: drawn(n - first, good[n - first], mesh), state, 2
    )
  ids, rounds = expected_rows(good, limit)
  rollout, scores = sharding.to_host((found.rollout, found.scores))
  np.testing.assert_array_equal(rollout.prompt_tokens[:, -1], ids)
  np.testing.assert_array_equal(
    rollout.prompt_mask.sum(1), width_of(ids // 100)
  )
  assert rollout.prompt_mask[:, -P:].all()  # the padding is on the left
  np.testing.assert_array_equal(rollout.response_tokens[:, 1], ids)
  np.testing.assert_array_equal(rollout.logprobs[:, 0], -ids)
  assert found.examples == [f'prompt {i}' for i in ids]
  number, group = ids // 100, ids % 100 // G
  differs = good[number, group] * (ids % G)
  np.testing.assert_array_equal(scores, number + differs)
  assert found.texts == 0  # those of the first
  assert state.draws == first + rounds
  assert made.numbers(2) == range(first, first + rounds)
  assert metrics['sampling/rounds'] == rounds
  assert metrics['sampling/useful_groups'] == pytest.approx(
    good[:rounds].mean()
  )
  tokens = int(found.spent['labeler/tokens'])
  assert found.spent['labeler/labels'] == B * rounds
  assert tokens == sum(range(rounds))
  if count > 1 and rounds > 1:
    assert not found.rollout.logprobs.is_fully_replicated


def test_prompts_are_made_as_wide_as_each_other():
  parts = [
    PromptBatch(np.full((1, n), n, np.int32), np.ones((1, n), bool), group=2)
    for n in (3, 1)
  ]
  wide = _rounds.as_wide(parts)
  np.testing.assert_array_equal(wide[0].tokens, [[3, 3, 3]])
  np.testing.assert_array_equal(wide[1].tokens, [[0, 0, 1]])
  np.testing.assert_array_equal(wide[1].mask, [[False, False, True]])
  assert wide[1].group == 2


def test_off_is_one_rollout_a_step():
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  config = make_config(max_sampling_rounds=1)
  made = _rounds.Rounds(config, grpo.Config(group_size=G), mesh, ())
  state = rl.RLState(None, None, None, None, draws=_rounds.start(config))
  assert state.draws is None
  same, found, metrics = made.collect(lambda n: n, state, 7)
  assert (same, found, metrics) == (state, 7, {})
  assert made.numbers(7) == range(7, 8)


def test_a_missing_end_makes_a_difference():
  """Where it costs something, and unless the scores make up for it."""
  response = np.full((B, R), 9, np.int32)
  response[[0, 4, 5, 6], 1] = EOS  # one of groups 0 and 3, both of group 2
  ones = np.ones((B, R), bool)
  rollout = Rollout(response, ones, response, ones, np.zeros((B, R)))
  scores = np.array([3, 3, 1, 1, 2, 2, 4, 5], np.float32)

  def look(penalty):
    return _rounds.differing(G, (EOS,), penalty, rollout, scores).tolist()

  assert look(0.0) == [False, False, False, True]
  assert look(0.5) == [True, False, False, True]
  assert look(1.0) == [True, False, False, False]


def test_it_needs_groups():
  config = make_config(algorithm='reinforce', max_sampling_rounds=3)
  with config.unlocked():
    config.algorithm_config = {}
  with pytest.raises(ValueError, match='max_sampling_rounds=3 .*set it to 1'):
    rl.make_options(config)


# -- the whole stage ----------------------------------------------------------


def stage_config(policy, reward, **fields):
  """Six short steps on the tiny world."""
  c = make_config(max_sampling_rounds=3)
  c.policy.path = policy
  c.reward.name, c.reward.path = 'reward_model', reward
  c.data.update(name='tiny_tldr', path='', split='rl', size=24)
  c.num_steps, c.max_prompt, c.max_response = 6, 80, 6
  c.checkpoint.every = 2
  c.optimizer.name, c.optimizer.learning_rate = 'adam', 1e-3
  c.update_from_flattened_dict(fields)
  return c


@pytest.fixture
def coarse(monkeypatch):
  """Makes the reward model say 0 or 1; holds [examples' ids] of every call."""
  seen = []
  module = rewards.load('reward_model')
  make = module.make

  def made(*args, **keywords):
    reward = make(*args, **keywords)
    score = type(reward).score

    def high_or_low(self, rollout, examples):
      seen.append([e.id for e in examples])
      return (score(self, rollout, examples) > 0.5).astype(jnp.float32)

    coarse = type('Coarse', (type(reward),), {'score': high_or_low})
    fields = dataclasses.fields(reward)
    return coarse(**{f.name: getattr(reward, f.name) for f in fields})

  monkeypatch.setattr(module, 'make', made)
  return seen


@pytest.mark.slow
def test_what_went_wrong_is_saved(
  tiny_model, tmp_path, one_device, monkeypatch
):
  """The prompts of all rounds: here of one, as no score equals a NaN."""
  module = rewards.load('length')
  monkeypatch.setattr(
    module, 'by_length', lambda mask, _: jnp.full(mask.shape[0], jnp.nan)
  )
  config = stage_config(tiny_model, '', **{'reward.name': 'length'})
  with pytest.raises(FloatingPointError, match='step 1'):
    rl.run(config, tmp_path)
  saved = np.load(tmp_path / 'nan_step_1.npz')
  assert {array.shape[0] for array in saved.values()} == {B}


def untimed(workdir):
  return [
    {k: v for k, v in row.items() if not k.startswith(('time/', 'perf/'))}
    for row in read_metrics(workdir)
  ]


def test_stage(
  tiny_model, tiny_reward_model, tmp_path, one_device, coarse, stored
):
  """Rounds as needed, on prompts in their order; cut off, it goes on."""
  config = stage_config(tiny_model, tiny_reward_model)
  rl.run(config, tmp_path / 'whole')
  rows = untimed(tmp_path / 'whole')
  rounds = [row['sampling/rounds'] for row in rows]
  assert len(rows) == 6
  assert len(set(rounds)) > 1
  for row in rows:
    assert 0 < row['sampling/useful_groups'] <= 1
    # Only a step that gave up has groups that teach nothing.
    assert row['frac_reward_zero_std'] == 0 or row['sampling/rounds'] == 3
  assert 'draws' in stored(tmp_path / 'whole')

  ids, whole = [i for call in coarse for i in call[::G]], len(coarse)
  assert whole == sum(rounds)
  numbers = [
    i for n in range(whole) for i in pipeline.batch_indices(0, n, B // G, 24)
  ]
  names = dict(zip(numbers, ids, strict=False))
  assert [names[i] for i in numbers] == ids  # no prompt is left out
  assert len(set(ids[:24])) == 24

  rl.run(config, tmp_path / 'cut')
  for file in ('summary.json', 'checkpoints/6'):
    path = tmp_path / 'cut' / file
    path.rename(tmp_path / path.name)
  shutil.rmtree(tmp_path / 'cut' / 'model')
  rl.run(config, tmp_path / 'cut')
  assert untimed(tmp_path / 'cut') == rows
  assert coarse[2 * whole :] == coarse[sum(rounds[:4]) : whole]
  files = [
    (tmp_path / name / 'model' / 'model.safetensors').read_bytes()
    for name in ('whole', 'cut')
  ]
  assert files[0] == files[1]
