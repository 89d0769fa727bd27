"""A small batch for the algorithms, as NumPy for loops and as arrays."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core.types import Rollout


@pytest.fixture(scope='session')
def batch():
  """Six rows in two groups of three, the fifth with one token, one empty.

  `now` are log-probabilities after an update, so far off that ratios are on
  either side of the bounds; `new_values` likewise.
  """
  rng = np.random.default_rng(3)
  lengths = np.array([4, 2, 3, 4, 1, 0])
  mask = np.arange(4)[None] < lengths[:, None]
  old, ref, values, moved, drift = rng.normal(size=(5, 6, 4))
  b = types.SimpleNamespace(
    mask=mask,
    lengths=lengths,
    old=old - 3,
    ref=old - 3 + 0.3 * ref,
    values=values,
    now=old - 3 + 0.4 * moved,
    new_values=values + 0.4 * drift,
    scores=np.array([1.0, -0.5, 2.0, 0.25, 0.25, 0.25]),
  )
  b.scores[-1] = 100.0  # a row that only fills the batch may hold anything
  b.rollout = Rollout(
    prompt_tokens=jnp.ones((6, 2), jnp.int32),
    prompt_mask=jnp.ones((6, 2), bool),
    response_tokens=jnp.ones((6, 4), jnp.int32),
    response_mask=jnp.asarray(mask),
    logprobs=jnp.asarray(b.old, jnp.float32),
  )
  b.arrays = dict(
    scores=jnp.asarray(b.scores, jnp.float32),
    ref_logprobs=jnp.asarray(b.ref, jnp.float32),
    values=jnp.asarray(b.values, jnp.float32),
  )
  return b


@pytest.fixture(scope='session')
def run_loss(batch):
  """run_loss(algorithm, config) -> (loss, metrics, gradients), jit = no jit.

  Gradients are in log-probabilities and in values. Keywords are for targets.
  """

  def run(algorithm, config, now=None, new_values=None, **keywords):
    targets = algorithm.targets(
      batch.rollout, config=config, **batch.arrays, **keywords
    )

    def loss(logprobs, values):
      return algorithm.loss(
        logprobs, values, targets, batch.rollout, config,
        ref_logprobs=batch.arrays['ref_logprobs'],
      )  # fmt: skip

    args = (
      jnp.asarray(batch.now if now is None else now, jnp.float32),
      jnp.asarray(
        batch.new_values if new_values is None else new_values, jnp.float32
      ),
    )
    fn = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    plain, jitted = fn(*args), jax.jit(fn)(*args)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      plain,
      jitted,
    )
    (value, metrics), grads = plain
    return value, metrics, grads

  return run


@pytest.fixture(scope='session')
def surrogate(batch):
  """surrogate(now, advantages, low, high) -> PPO's terms by loops.

  Ratios are of tokens, or with `level` 'sum' or 'mean' of rows.
  """

  def terms(now, advantages, low, high, level='token'):
    out = np.zeros(now.shape)
    for b, length in enumerate(batch.lengths):
      moves = [now[b, t] - batch.old[b, t] for t in range(length)]
      for t in range(length):
        x = {
          'token': moves[t],
          'sum': sum(moves),
          'mean': sum(moves) / length,
        }[level]
        ratio = np.exp(x)
        clipped = min(max(ratio, 1 - low), 1 + high)
        a = advantages[b, t]
        out[b, t] = max(-a * ratio, -a * clipped)
    return out

  return terms


@pytest.fixture(scope='session')
def reduce(batch):
  """reduce(terms, normalize) -> one number by loops."""

  def one(terms, normalize):
    sums = [sum(row[:n]) for row, n in zip(terms, batch.lengths, strict=True)]
    if normalize == 'token_mean':
      return sum(sums) / batch.lengths.sum()
    if normalize == 'constant':
      return sum(sums) / terms.size
    if normalize == 'sequence_sum':
      return sum(sums) / len(sums)
    means = [s / max(n, 1) for s, n in zip(sums, batch.lengths, strict=True)]
    return sum(means) / len(means)

  return one


@pytest.fixture(scope='session')
def identical_scores(batch):
  """identical_scores(algorithm, config) -> targets when all score alike."""

  def targets(algorithm, config):
    arrays = {**batch.arrays, 'scores': jnp.full(6, 0.3)}
    arrays['ref_logprobs'] = batch.rollout.logprobs
    mask = jnp.ones_like(batch.rollout.response_mask)
    full = dataclasses.replace(batch.rollout, response_mask=mask)
    return algorithm.targets(full, config=config, **arrays)

  return targets
