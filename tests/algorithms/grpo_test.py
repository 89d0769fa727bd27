"""algorithms/grpo.py and its variants against loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.algorithms import grpo


def _advantages(batch, config):
  scores = [
    s if n else 0.0 for s, n in zip(batch.scores, batch.lengths, strict=True)
  ]
  out, size = [], config.group_size
  for b, score in enumerate(scores):
    first = b // size * size
    group = scores[first : first + size]
    mean = sum(group) / size
    squares = sum((x - mean) ** 2 for x in group)
    std = (squares / (size - 1)) ** 0.5
    out.append((score - mean) / (std + 1e-4 if config.scale else 1.0))
  return np.array(out)[:, None] * batch.mask


def _loss_twin(batch, surrogate, reduce, config, now):
  level = {'token': 'token', 'sequence': 'mean'}[config.ratio]
  terms = surrogate(
    now,
    _advantages(batch, config),
    config.clip_low,
    config.clip_high,
    level,
  )
  for b, t in zip(*np.nonzero(batch.mask), strict=True):
    x = batch.ref[b, t] - now[b, t]
    terms[b, t] += config.beta * (np.exp(x) - 1 - x)
  return reduce(terms, config.normalize)


@pytest.mark.parametrize('name', grpo.VARIANTS)
@pytest.mark.parametrize('beta', [None, 0.5])
def test_variants_equal_loops(
  batch, run_loss, surrogate, reduce, slope, name, beta
):
  options = {**grpo.VARIANTS[name], 'group_size': 3}
  if beta is not None:
    options['beta'] = beta
  config = grpo.Config(**options)
  run = functools.partial(grpo.targets, batch.rollout, config=config)
  for targets in (run(**batch.arrays), jax.jit(run)(**batch.arrays)):
    np.testing.assert_allclose(
      targets.advantages, _advantages(batch, config), atol=1e-5
    )
  value, metrics, (grad, value_grad) = run_loss(grpo, config)
  twin = functools.partial(_loss_twin, batch, surrogate, reduce, config)
  np.testing.assert_allclose(value, twin(batch.now), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(grad, slope(twin, batch.now), atol=1e-5)
  np.testing.assert_array_equal(value_grad, 0.0)
  assert 0 < metrics['policy/clipfrac_avg'] < 1
  assert ('loss/kl_avg' in metrics) == bool(config.beta)


def test_settings_of_the_variants():
  """As published; another default would be another algorithm."""
  by_name = {
    name: grpo.Config(**options) for name, options in grpo.VARIANTS.items()
  }
  first = by_name['grpo']
  assert (first.beta, first.clip_low, first.clip_high) == (0.04, 0.2, 0.2)
  assert first.normalize == 'sequence_mean'
  assert by_name['dr_grpo'].normalize == 'constant'
  assert not by_name['dr_grpo'].scale
  dapo = by_name['dapo']
  assert (dapo.clip_low, dapo.clip_high, dapo.beta) == (0.2, 0.28, 0.0)
  assert dapo.normalize == 'token_mean'
  gspo = by_name['gspo']
  assert (gspo.ratio, gspo.clip_low, gspo.clip_high) == (
    'sequence', 3e-4, 4e-4,
  )  # fmt: skip


def test_asymmetric_clip_by_hand():
  """A ratio of 1.25 still learns under DAPO's bound and not under GRPO's."""
  ones = jnp.ones((2, 1), bool)
  rollout = grpo.types.Rollout(
    jnp.ones((2, 1), jnp.int32), ones, jnp.ones((2, 1), jnp.int32), ones,
    logprobs=jnp.zeros((2, 1)),
  )  # fmt: skip
  targets = grpo.types.Targets(jnp.ones((2, 1)), jnp.ones((2, 1)))
  now = jnp.full((2, 1), np.log(1.25))
  for name, expected in (('grpo', 0.0), ('dapo', -1.25 / 2)):
    config = grpo.Config(**{**grpo.VARIANTS[name], 'beta': 0.0})
    grad = jax.grad(
      lambda x, c=config: grpo.loss(x, x, targets, rollout, c)[0]
    )(now)
    np.testing.assert_allclose(grad, expected, atol=1e-6)


@pytest.mark.parametrize('name', grpo.VARIANTS)
def test_identical_scores_teach_nothing(identical_scores, name):
  config = grpo.Config(**{**grpo.VARIANTS[name], 'group_size': 3})
  targets = identical_scores(grpo, config)
  np.testing.assert_allclose(targets.advantages, 0.0, atol=1e-3)


def test_observe_counts_groups_of_equals(batch):
  given = {k: batch.arrays[k] for k in ('scores', 'ref_logprobs')}
  given['scores'] = jnp.array([1.0, 2.0, 3.0, 0.5, 0.5, 0.5])
  config = grpo.Config(group_size=3)
  state, metrics = grpo.observe(batch.rollout, config=config, **given)
  assert state == {}
  assert metrics['frac_reward_zero_std'] == 0.5


def test_kl_in_the_loss_needs_the_reference(batch):
  config = grpo.Config(group_size=3)
  targets = grpo.targets(batch.rollout, config=config, **batch.arrays)
  old = batch.rollout.logprobs
  with pytest.raises(ValueError, match='needs ref_logprobs'):
    grpo.loss(old, old, targets, batch.rollout, config)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'group_size': 1}, 'group_size=1 .* at least 2'),
    ({'ratio': 'row'}, 'token, sequence'),
    ({'normalize': 'tokens'}, 'sequence_sum, token_mean'),
  ],
)
def test_config_says_what_is_allowed(options, message):
  with pytest.raises(ValueError, match=message):
    grpo.Config(**options)
