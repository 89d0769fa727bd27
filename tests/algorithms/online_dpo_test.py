"""algorithms/online_dpo.py against loops over pairs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.algorithms import online_dpo
from rlaif_jax.training import step

SCORES = np.array([0.9, 0.1, 0.35, 0.65, 0.5, 0.5])
# p_better of each row by hand; the last pair is a tie.
P_BETTER = {
  'hard': [1, 0, 0, 1, 0.5, 0.5],
  'probability': [0.9, 0.1, 0.35, 0.65, 0.5, 0.5],
  'bradley_terry': [
    1 / (1 + np.exp(-0.8)), 1 / (1 + np.exp(0.8)),
    1 / (1 + np.exp(0.3)), 1 / (1 + np.exp(-0.3)), 0.5, 0.5,
  ],
}  # fmt: skip


@pytest.fixture
def scored(batch):
  """The batch with scores that are probabilities; its last row is empty."""
  return dataclasses.replace(
    batch.rollout, logprobs=jnp.asarray(batch.old, jnp.float32)
  ), {**batch.arrays, 'scores': jnp.asarray(SCORES, jnp.float32)}


def lead(batch, now):
  """d = sum_t (log p - log q) of each row, by loops."""
  return [
    sum(now[b, t] - batch.ref[b, t] for t in range(length))
    for b, length in enumerate(batch.lengths)
  ]


def pair_loss(config, p, gap):
  if config.loss == 'ipo':
    return (gap - (2 * p - 1) / (2 * config.beta)) ** 2
  h = config.beta * gap
  return p * np.log1p(np.exp(-h)) + (1 - p) * np.log1p(np.exp(h))


def twin(batch, config, now):
  """Mean over the pairs that have two responses: the first two of three."""
  d, p = lead(batch, now), P_BETTER[config.label]
  losses = [pair_loss(config, p[i], d[i] - d[i + 1]) for i in (0, 2)]
  return sum(losses) / len(losses)


def run(scored, batch, config, now, rows=slice(None)):
  """((loss, metrics), gradient) on some rows of a batch, targets of all."""
  rollout, arrays = scored
  targets = online_dpo.targets(rollout, config=config, **arrays)
  rollout, targets, ref = jax.tree.map(
    lambda x: x[rows], (rollout, targets, arrays['ref_logprobs'])
  )

  def loss(logprobs):
    return online_dpo.loss(
      logprobs, logprobs, targets, rollout, config, ref_logprobs=ref
    )

  args = jnp.asarray(now, jnp.float32)[rows]
  plain = jax.value_and_grad(loss, has_aux=True)(args)
  jitted = jax.jit(jax.value_and_grad(loss, has_aux=True))(args)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    plain,
    jitted,
  )
  return plain


@pytest.mark.parametrize('label', online_dpo.LABELS)
def test_targets_by_hand(scored, batch, label):
  rollout, arrays = scored
  config = online_dpo.Config(label=label)
  targets = online_dpo.targets(rollout, config=config, **arrays)
  p = np.array(P_BETTER[label])
  p[4] = {'hard': 1, 'probability': 0.75}.get(label, 1 / (1 + np.exp(-0.5)))
  p[5] = 1 - p[4]  # the last row is empty, so its score is 0
  np.testing.assert_allclose(targets.p_better, p, atol=1e-6)
  np.testing.assert_array_equal(targets.weight, [1, 1, 1, 1, 0, 0])
  sums = [sum(batch.old[b, :n]) for b, n in enumerate(batch.lengths)]
  np.testing.assert_allclose(
    targets.other, [sums[i] for i in (1, 0, 3, 2, 5, 4)], atol=1e-5
  )
  np.testing.assert_allclose(
    targets.advantages, (2 * p - 1)[:, None] * batch.mask, atol=1e-6
  )


@pytest.mark.parametrize('loss', ['dpo', 'ipo'])
@pytest.mark.parametrize('label', online_dpo.LABELS)
def test_it_is_the_loss_of_pairs(scored, batch, slope, loss, label):
  """At the one update of a batch: value and gradient of the pairs' mean."""
  config = online_dpo.Config(beta=0.3, loss=loss, label=label)
  (value, metrics), grad = run(scored, batch, config, batch.old)
  np.testing.assert_allclose(value, twin(batch, config, batch.old), rtol=1e-5)
  expected = slope(lambda now: twin(batch, config, now), batch.old)
  np.testing.assert_allclose(grad, expected, atol=1e-5)
  d, p = lead(batch, batch.old), P_BETTER[label]
  better = [i if p[i] > 0.5 else i + 1 for i in (0, 2)]
  won = [d[i] > d[i ^ 1] for i in better]
  assert metrics['rewards/accuracies'] == pytest.approx(np.mean(won))


def test_after_an_update_the_other_response_stays_as_sampled(
  scored, batch, slope
):
  config = online_dpo.Config(beta=0.3)
  start, p = lead(batch, batch.old), P_BETTER['hard']

  def rows(now):
    d = lead(batch, now)
    found = [pair_loss(config, p[i], d[i] - start[i ^ 1]) for i in range(4)]
    return sum(found) / 4

  (value, _), grad = run(scored, batch, config, batch.now)
  np.testing.assert_allclose(value, rows(batch.now), rtol=1e-5)
  np.testing.assert_allclose(grad, 2 * slope(rows, batch.now), atol=1e-5)


def test_microbatches_may_part_a_pair(scored, batch):
  """Microbatch i holds rows i, i + n, ..., as training/step.py cuts them."""
  config = online_dpo.Config(beta=0.3, label='probability')
  (whole, _), grad = run(scored, batch, config, batch.old)
  parts = [
    run(scored, batch, config, batch.old, np.arange(i, 6, 2)) for i in (0, 1)
  ]
  weights = [float(metrics['weight']) for (_, metrics), _ in parts]
  assert weights == [2, 2]
  np.testing.assert_allclose(
    np.mean([value for (value, _), _ in parts]), whole, rtol=1e-5
  )
  for i, (_, part) in enumerate(parts):
    np.testing.assert_allclose(part / 2, grad[i::2], atol=1e-6)

  def rows(x):
    return step._split(jnp.asarray(x), 2, 1)

  np.testing.assert_array_equal(rows(np.arange(6))[1], [1, 3, 5])


def test_equal_responses_teach_nothing(scored, batch):
  rollout, arrays = scored
  twice = np.array([0, 0, 2, 2, 3, 3])
  rollout = jax.tree.map(lambda x: x[twice], rollout)
  arrays = {k: v[twice] for k, v in arrays.items() if k != 'scores'}
  targets = online_dpo.targets(
    rollout, scores=jnp.full(6, 0.5), config=online_dpo.Config(), **arrays
  )

  def loss(parameter):
    # Both rows of a pair come from the same parameters.
    return online_dpo.loss(
      rollout.logprobs * parameter,
      rollout.logprobs,
      targets,
      rollout,
      online_dpo.Config(),
      ref_logprobs=arrays['ref_logprobs'],
    )[0]

  value, grad = jax.value_and_grad(loss)(1.0)
  assert value == pytest.approx(np.log(2), abs=1e-6)
  assert grad == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'loss': 'slic'}, "loss='slic' is not one of dpo, ipo"),
    ({'label': 'soft'}, "label='soft' is not one of hard"),
    ({'group_size': 4}, 'group_size=4 is not one of 2'),
    ({'beta': -1.0}, 'beta=-1.0 must be'),
  ],
)
def test_bad_options(options, message):
  with pytest.raises(ValueError, match=message):
    online_dpo.Config(**options)


def test_bad_batches(scored, batch):
  rollout, arrays = scored
  odd = jax.tree.map(lambda x: x[:5], (rollout, arrays))
  with pytest.raises(ValueError, match='5 rows are no pairs'):
    online_dpo.targets(odd[0], config=online_dpo.Config(), **odd[1])
  targets = online_dpo.targets(rollout, config=online_dpo.Config(), **arrays)
  with pytest.raises(ValueError, match='needs ref_logprobs'):
    online_dpo.loss(
      rollout.logprobs, None, targets, rollout, online_dpo.Config()
    )
