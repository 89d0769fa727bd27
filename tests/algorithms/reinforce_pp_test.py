"""algorithms/reinforce_pp.py against loops."""

import functools

import jax
import numpy as np
import pytest

from rlaif_jax.algorithms import reinforce_pp


def _twin(batch, config):
  """(advantages, returns) by the module's docstring."""
  scores = [
    s if n else 0.0 for s, n in zip(batch.scores, batch.lengths, strict=True)
  ]
  size = config.group_size
  if size > 1:
    means = [
      sum(scores[b // size * size : b // size * size + size]) / size
      for b in range(6)
    ]
    scores = [s - m for s, m in zip(scores, means, strict=True)]
  to_go = np.zeros(batch.mask.shape)
  for b, length in enumerate(batch.lengths):
    for t in range(length):
      kl = sum(batch.old[b, s] - batch.ref[b, s] for s in range(t, length))
      to_go[b, t] = scores[b] - config.beta * kl
  real = to_go[batch.mask]
  scaled = (to_go - real.mean()) / np.sqrt(real.var() + 1e-8)
  return np.where(batch.mask, scaled, 0.0), to_go


@pytest.mark.parametrize('size', [1, 3])
def test_equals_loops(batch, run_loss, surrogate, reduce, slope, size):
  config = reinforce_pp.Config(beta=0.2, group_size=size)
  run = functools.partial(reinforce_pp.targets, batch.rollout, config=config)
  advantages, to_go = _twin(batch, config)
  for targets in (run(**batch.arrays), jax.jit(run)(**batch.arrays)):
    np.testing.assert_allclose(targets.advantages, advantages, atol=1e-5)
    np.testing.assert_allclose(targets.returns, to_go, atol=1e-5)

  def twin(now):
    return reduce(surrogate(now, advantages, 0.2, 0.2), 'token_mean')

  value, metrics, (grad, value_grad) = run_loss(reinforce_pp, config)
  np.testing.assert_allclose(value, twin(batch.now), rtol=1e-5)
  np.testing.assert_allclose(grad, slope(twin, batch.now), atol=1e-5)
  np.testing.assert_array_equal(value_grad, 0.0)
  assert 0 < metrics['policy/clipfrac_avg'] < 1


def test_advantages_are_whitened_over_the_whole_batch(batch):
  """Over tokens of all groups, and not within one."""
  targets = reinforce_pp.targets(
    batch.rollout, config=reinforce_pp.Config(group_size=3), **batch.arrays
  )
  real = np.asarray(targets.advantages)[batch.mask]
  np.testing.assert_allclose([real.mean(), real.var()], [0, 1], atol=1e-5)
  first = np.asarray(targets.advantages)[:3][batch.mask[:3]]
  assert abs(first.mean()) > 0.01


@pytest.mark.parametrize('size', [1, 3])
def test_identical_scores_give_no_nan(identical_scores, size):
  """Each token then has the same return, so nothing is left of it."""
  config = reinforce_pp.Config(group_size=size)
  targets = identical_scores(reinforce_pp, config)
  np.testing.assert_allclose(targets.advantages, 0.0, atol=1e-3)


def test_observe_has_group_metrics_for_groups_only(batch):
  given = {k: batch.arrays[k] for k in ('scores', 'ref_logprobs')}
  for size in (1, 3):
    config = reinforce_pp.Config(group_size=size)
    _, metrics = reinforce_pp.observe(batch.rollout, config=config, **given)
    assert ('frac_reward_zero_std' in metrics) == (size > 1)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'group_size': 0}, 'group_size=0 .* at least 1'),
    ({'normalize': 'mean'}, 'sequence_sum, token_mean'),
  ],
)
def test_config_says_what_is_allowed(options, message):
  with pytest.raises(ValueError, match=message):
    reinforce_pp.Config(**options)
