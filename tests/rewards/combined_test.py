"""Gate, ensemble, length and its penalty: values by hand and NumPy twins."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import rewards, sharding
from rlaif_jax.core.types import Rollout
from rlaif_jax.data.datasets import Example
from rlaif_jax.rewards import _length_penalty, ensemble, gated, length
from rlaif_jax.stages import _rewards

LENGTHS = np.array([1, 4, 0, 6])


def rollout_of(lengths):
  mask = np.arange(6)[None] < np.array(lengths)[:, None]
  tokens = np.ones(mask.shape, np.int32)
  return Rollout(tokens, mask, tokens, mask, np.zeros(mask.shape, np.float32))


def fixed(scores, std=1.0):
  """A reward model that says this of whatever it is asked."""
  return types.SimpleNamespace(
    std=std, score=lambda rollout, examples: jnp.asarray(scores, jnp.float32)
  )


# -- Llama 2's gate -----------------------------------------------------------


def gate_twin(helpful, safety, tagged, threshold):
  """One response at a time, on probabilities, as the paper has it."""
  chosen = []
  for h, s, is_safety in zip(helpful, safety, tagged, strict=True):
    r_h, r_s = 1 / (1 + np.exp(-h)), 1 / (1 + np.exp(-s))
    r_c = r_s if is_safety or r_s < threshold else r_h
    chosen.append(np.log(r_c / (1 - r_c)))
  return np.array(chosen)


def test_gate_equals_its_twin():
  rng = np.random.default_rng(0)
  helpful, safety = rng.normal(size=(2, 12)) * 3
  tagged = rng.random(12) < 0.3
  plain = gated.Config(whiten=False)
  expected = gate_twin(helpful, safety, tagged, 0.15)
  found = gated.gate(jnp.asarray(helpful), jnp.asarray(safety), tagged, plain)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  # All three cases are there.
  by_score = 1 / (1 + np.exp(-safety)) < 0.15
  assert tagged.any() and (by_score & ~tagged).any() and (found != safety).any()
  white = gated.gate(
    jnp.asarray(helpful), jnp.asarray(safety), tagged, gated.Config()
  )
  np.testing.assert_allclose(
    white, (expected - expected.mean()) / expected.std(), atol=1e-5
  )


@pytest.mark.parametrize(
  ('probability', 'tag', 'expected'),
  [(0.16, False, 2.0), (0.14, False, None), (0.9, True, None)],
)
def test_gate_by_hand(probability, tag, expected):
  """Just over the threshold helpfulness counts, just under it safety does."""
  logit = np.log(probability / (1 - probability))
  found = gated.gate(
    jnp.array([2.0]),
    jnp.array([logit], jnp.float32),
    np.array([tag]),
    gated.Config(whiten=False),
  )
  np.testing.assert_allclose(
    found, [logit if expected is None else expected], atol=1e-5
  )


def test_gate_takes_scores_in_the_models_own_units():
  """Centred, but not divided by their deviation: they are logits."""
  reward = gated.Gated(
    fixed([1.0, 1.0], std=2.0),
    fixed([-1.0, -0.4], std=4.0),  # logits -4 and -1.6: 0.018 and 0.168
    gated.Config(whiten=False),
  )
  examples = [Example(id=str(i), prompt='a') for i in range(2)]
  np.testing.assert_allclose(reward.score(None, examples), [-4.0, 2.0])


def test_prompts_are_marked_in_meta():
  metas = ({}, {'safety': True}, {'safety': ''}, {'safety': 'x', 'task': 'b'})
  examples = [Example(id='0', prompt='', meta=meta) for meta in metas]
  assert gated.tagged(examples, gated.Config()).tolist() == [
    False, True, False, True,
  ]  # fmt: skip
  by_value = gated.Config(tag='task', tag_value='b')
  assert gated.tagged(examples, by_value).tolist() == [False] * 3 + [True]


# -- ensembles ----------------------------------------------------------------


def test_combinations_equal_loops():
  rng = np.random.default_rng(1)
  scores = rng.normal(size=(3, 5))

  def found(**options):
    config = ensemble.Config(**options)
    return ensemble.combine(tuple(map(jnp.asarray, scores)), config)

  for i in range(5):
    said = [scores[m, i] for m in range(3)]
    mean = sum(said) / 3
    variance = sum((x - mean) ** 2 for x in said) / 3
    for options, expected in (
      ({}, mean),
      ({'combine': 'min'}, min(said)),
      ({'combine': 'variance', 'penalty': 0.5}, mean - 0.5 * variance),
      ({'combine': 'std', 'penalty': 0.5}, mean - 0.5 * variance**0.5),
    ):
      np.testing.assert_allclose(found(**options)[i], expected, atol=1e-5)


def test_models_that_agree_are_not_penalised():
  reward = ensemble.Ensemble(
    [fixed([1.0, -2.0])] * 3, ensemble.Config(combine='std', penalty=9.0)
  )
  np.testing.assert_allclose(reward.score(None, []), [1.0, -2.0], atol=1e-6)


# -- length -------------------------------------------------------------------


def test_length_reward_by_hand():
  reward = length.Length(length.Config(target=4))
  found = reward.score(rollout_of(LENGTHS), [])
  np.testing.assert_allclose(found, [0.25, 1.0, 0.0, 0.5], atol=1e-6)


def test_length_penalty_by_hand():
  """Also DAPO's: from 0 at L - C to -1 at L, here L = 6 and C = 4."""
  reward = _length_penalty.LengthPenalty(fixed([1.0, 1.0, 1.0, 1.0]), 0.1)
  found = reward.score(rollout_of(LENGTHS), [])
  np.testing.assert_allclose(found, [0.9, 0.6, 1.0, 0.4], atol=1e-6)
  overlong = _length_penalty.LengthPenalty(fixed(np.zeros(4)), 1 / 4, 2)
  found = overlong.score(rollout_of(LENGTHS), [])
  np.testing.assert_allclose(found, [0.0, -0.5, 0.0, -1.0], atol=1e-6)


# -- the block of a stage -----------------------------------------------------


def test_block_wraps_a_reward_only_if_it_is_to():
  block = _rewards.config()
  block.name, block.options = 'length', {'target': 3}
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  given = dict(policy_tokenizer=None, mesh=mesh, rules={})
  plain = _rewards.make(block, **given)
  assert plain == length.Length(length.Config(3))
  block.length_penalty, block.length_free = 0.5, 3
  reward = _rewards.make(block, **given)
  np.testing.assert_allclose(
    reward.score(rollout_of(LENGTHS), []), [1 / 3, 2 / 3 - 0.5, 0, -1.5],
    atol=1e-6,
  )  # fmt: skip


@pytest.mark.parametrize(
  ('name', 'fields', 'message'),
  [
    ('gated', {'options': {'saftey': 'x'}}, 'options.saftey .*mean safety'),
    ('gated', {'options': {'threshold': 2.0}}, r'threshold=2.0 is outside'),
    ('ensemble', {'options': {'combine': 'max'}}, 'one of mean, min, std'),
    ('ensemble', {'options': {'others': 'a'}}, 'a tuple of paths'),
    ('ensemble', {'options': {'penalty': -1.0}}, 'penalty=-1.0 is below 0'),
    ('length', {'options': {'target': 0}}, 'target=0 must be at least 1'),
    ('direct', {'options': {'target': 1}}, "target: 'direct' has no options"),
    ('direct', {'length_penalty': -1.0}, 'length_penalty=-1.0 is below 0'),
    ('rm', {}, "'rm' is not a reward"),
  ],
)
def test_bad_blocks_are_named(name, fields, message):
  block = _rewards.config()
  block.name = name
  for key, value in fields.items():
    block[key] = value
  with pytest.raises(ValueError, match=message):
    _rewards.check(block)


def test_every_reward_with_options_runs_with_its_defaults():
  found = [n for n in rewards.names() if hasattr(rewards.load(n), 'Config')]
  assert {'gated', 'ensemble', 'length'} <= set(found)
  for name in found:
    block = _rewards.config()
    block.name = name
    _rewards.check(block)
