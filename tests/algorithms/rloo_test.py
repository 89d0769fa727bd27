"""algorithms/rloo.py against loops."""

import functools

import jax
import numpy as np
import pytest

from rlaif_jax.algorithms import rloo

_CONFIG = rloo.Config(beta=0.3, group_size=3)


def _twin(batch, config):
  """(advantage, reward) of each row by the module's docstring."""
  rewards = []
  for b, length in enumerate(batch.lengths):
    kl = sum(batch.old[b, t] - batch.ref[b, t] for t in range(length))
    rewards.append((batch.scores[b] if length else 0.0) - config.beta * kl)
  size, advantages = config.group_size, []
  for b, reward in enumerate(rewards):
    first = b // size * size
    others = [rewards[j] for j in range(first, first + size) if j != b]
    advantages.append(reward - sum(others) / (size - 1))
  return np.array(advantages), np.array(rewards)


@pytest.mark.parametrize('size', [2, 3, 6])
@pytest.mark.parametrize('use_jit', [False, True])
def test_targets_equal_loops(batch, size, use_jit):
  config = rloo.Config(beta=0.3, group_size=size)
  run = functools.partial(rloo.targets, batch.rollout, config=config)
  targets = (jax.jit(run) if use_jit else run)(**batch.arrays)
  advantages, rewards = _twin(batch, config)
  np.testing.assert_allclose(
    targets.advantages, advantages[:, None] * batch.mask, atol=1e-5
  )
  np.testing.assert_allclose(
    targets.returns, rewards[:, None] * batch.mask, atol=1e-5
  )


def test_loss_and_gradients_equal_loops(batch, run_loss, slope):
  advantages, _ = _twin(batch, _CONFIG)

  def twin(now):
    rows = []
    for b, length in enumerate(batch.lengths):
      ratio = np.exp(sum(now[b, t] - batch.old[b, t] for t in range(length)))
      clipped = min(max(ratio, 0.8), 1.2)
      a = advantages[b] if length else 0.0
      rows.append(max(-a * ratio, -a * clipped))
    return sum(rows) / len(rows)

  value, metrics, (grad, value_grad) = run_loss(rloo, _CONFIG)
  np.testing.assert_allclose(value, twin(batch.now), rtol=1e-5)
  np.testing.assert_allclose(grad, slope(twin, batch.now), atol=1e-5)
  np.testing.assert_array_equal(value_grad, 0.0)
  assert 0 < metrics['policy/clipfrac_avg'] < 1


def test_first_update_is_reinforce_with_the_baseline(batch, run_loss):
  """-A_i at every token of row i, over the number of rows."""
  advantages, _ = _twin(batch, _CONFIG)
  _, metrics, (grad, _) = run_loss(rloo, _CONFIG, now=batch.old)
  expected = -advantages[:, None] * batch.mask / 6
  np.testing.assert_allclose(grad, expected, atol=1e-6)
  assert metrics['val/ratio'] == 1.0


def test_identical_scores_teach_nothing(identical_scores):
  targets = identical_scores(rloo, _CONFIG)
  np.testing.assert_allclose(targets.advantages, 0.0, atol=1e-6)


def test_observe(batch):
  given = {k: batch.arrays[k] for k in ('scores', 'ref_logprobs')}
  state, metrics = rloo.observe(batch.rollout, config=_CONFIG, **given)
  assert state == {}
  kl = np.where(batch.mask, batch.old - batch.ref, 0).sum(1)
  score = batch.scores[:-1].sum() / 6  # the empty row counts as 0
  expected = {
    'objective/scores': score,
    'objective/kl': kl.mean(),
    'objective/non_score_reward': -0.3 * kl.mean(),
    'objective/rlhf_reward': score - 0.3 * kl.mean(),
    'objective/kl_k3': np.where(
      batch.mask, np.exp(batch.ref - batch.old) - 1 + batch.old - batch.ref, 0
    ).sum() / 6,
  }  # fmt: skip
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'group_size': 1}, 'group_size=1 .* at least 2'),
    ({'beta': -1.0}, 'beta'),
    ({'clip_high': -1.0}, 'clip_high'),
  ],
)
def test_config_says_what_is_allowed(options, message):
  with pytest.raises(ValueError, match=message):
    rloo.Config(**options)


def test_groups_must_divide_the_batch(batch):
  with pytest.raises(ValueError, match='6 rows .* groups of 4'):
    rloo.targets(batch.rollout, config=rloo.Config(), **batch.arrays)
