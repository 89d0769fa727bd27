"""What one batch of rollouts changes: the jitted update of the RL stage.

  1. Rewards are scaled, and log-probs of the reference taken.
  2. Targets: in the update itself (an ON_POLICY algorithm), or once from what
     the models say before it (all others).
  3. `inner_epochs` passes, each over `num_minibatches` parts, each with an
     optimiser step of the policy, and of the value model if there is one.

All of it is one program, whatever the algorithm.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from rlaif_jax import algorithms, sharding
from rlaif_jax.core import masking, ngrams
from rlaif_jax.core.types import (
  Params,
  Rollout,
  Targets,
  TokenBatch,
  TokenStats,
)
from rlaif_jax.inference import rows, score
from rlaif_jax.stages import _ptx, _reference
from rlaif_jax.stages._rl_options import make_options, updates_per_batch
from rlaif_jax.training import step
from rlaif_jax.training.train_state import RunningStats, TrainState

_SHUFFLE = 2**31 - 1  # sets the keys of the order apart from those of steps


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('policy', 'value', 'reward_stats', 'algorithm', 'draws'),
  meta_fields=(),
)
@dataclasses.dataclass(frozen=True)
class RLState:
  """All that training changes, and so all that a checkpoint holds."""

  policy: TrainState
  value: TrainState | None  # None: the algorithm needs none; see _value_start
  reward_stats: RunningStats
  algorithm: Any  # what the algorithm carries; {} if nothing
  # Of rollouts made so far; None: one a step. See _rounds.py.
  draws: Int[Array, ''] | None = None


class _Batch(NamedTuple):
  """Rows to learn from; all leaves [B, ...]."""

  rollout: Rollout
  scores: Float[Array, ' B']
  ref_logprobs: Float[Array, 'B R']
  targets: Targets | None  # None: to be taken in the update
  texts: TokenBatch | None = None  # [B, ratio, T] to learn beside; _ptx.py


def make_update(
  config: ConfigDict, model, value_model, txs, *, eos_ids: tuple[int, ...] = ()
) -> Callable:
  """Jitted update(state, frozen, rollout, scores, texts) -> (state, metrics).

  With REINFORCE it is the step that the paper describes in App. F: one forward
  of the reference, one forward and backward of policy and value (one for both
  with `config.shared_trunk`), one optimiser step each. Gradients are
  accumulated over `config.num_microbatches` in each step. Metrics are means
  over all steps of the batch. `texts` are those of _ptx.py, or None.

  Args:
    config: of the stage.
    model: the policy's.
    value_model: None if the algorithm needs none.
    txs: optimisers, 'policy' and, with a value model, 'value'.
    eos_ids: what ends a response.
  """
  algorithm, options = make_options(config)
  count = updates_per_batch(options)
  values_of = make_values(config, model, value_model)
  grad_fn = jax.grad(
    make_loss(config, algorithm, options, model, values_of), has_aux=True
  )

  add_texts = _ptx.make_add(config, model)

  def optimise(models, frozen: _reference.Frozen, batch: _Batch):
    grads, metrics = step.accumulate(
      lambda trained, part: grad_fn(trained, frozen, part),
      params_of(models),
      batch._replace(texts=None),
      config.num_microbatches,
      batch.rollout.group,
    )
    if batch.texts is not None:
      grads['policy'], found = add_texts(
        grads['policy'], models['policy'].params, frozen, batch.texts
      )
      metrics |= found
    ready = models['policy'].step >= config.policy_delay * count
    enabled = {'policy': ready, 'value': True}
    new = {}
    for name, part in models.items():
      new[name], info = step.apply_gradients(
        part, grads[name], txs[name], enabled=enabled[name]
      )
      metrics |= {f'{name}/{k}': v for k, v in info.items()}
    return new, metrics

  @step.jit_step
  def update(
    state: RLState,
    frozen: _reference.Frozen,
    rollout: Rollout,
    scores,
    texts=None,
  ):
    scores, reward_stats = scale_rewards(
      config.reward_scaling, scores, state.reward_stats
    )
    ended = masking.has_end(
      rollout.response_tokens, rollout.response_mask, eos_ids
    )
    scores -= config.missing_eos_penalty * ~ended
    ref_logprobs = score.response_stats(
      frozen.model,
      frozen.reference_params(),
      rollout,
      temperature=config.sampling.temperature,
    ).logprobs
    models = {'policy': state.policy, 'value': state.value}
    models = {name: models[name] for name in txs}
    targets, kept, metrics = None, state.algorithm, {}
    if not algorithm.ON_POLICY:
      given = dict(scores=scores, ref_logprobs=ref_logprobs, config=options)
      if hasattr(algorithm, 'init_state'):
        given['state'] = kept
      values = values_of(params_of(models), frozen, rollout)
      targets = algorithm.targets(rollout, values=values, **given)
      kept, metrics = algorithm.observe(rollout, **given)
    order = make_order(
      config.seed, models['policy'].step, scores.shape[0], options
    )
    parts = config.num_microbatches
    if len(order) > 1 or not rows.divides(rollout, rollout.group, parts):
      rollout = dataclasses.replace(rollout, group=1)
    batch = _Batch(rollout, scores, ref_logprobs, targets, texts)
    models, found = inner_steps(optimise, models, frozen, batch, order)
    metrics |= found | rollout_metrics(rollout, scores, ended)
    return (
      RLState(
        policy=models['policy'],
        value=models.get('value'),
        reward_stats=reward_stats,
        algorithm=kept,
        draws=state.draws,
      ),
      metrics,
    )

  return update


def params_of(models: dict[str, TrainState]) -> dict[str, Params]:
  """What is differentiated, by the model's name."""
  return {name: part.params for name, part in models.items()}


def make_values(config: ConfigDict, model, value_model) -> Callable:
  """values(trained, frozen, rollout) -> [B, R]; 0 without a value model.

  With `config.shared_trunk` it takes `hidden=`, what the policy predicts from,
  and makes it anew only where there is none.
  """

  def values_of(
    trained, frozen: _reference.Frozen, rollout: Rollout, hidden=None
  ):
    if value_model is None:
      return jnp.zeros_like(rollout.logprobs)
    if not config.shared_trunk:
      return score.response_values(
        value_model, frozen.value_params(trained['value']), rollout
      )
    if hidden is None:
      hidden = score.response_hidden(
        model, frozen.policy_params(trained['policy']), rollout
      )
    return score.response_values(
      value_model, trained['value'], rollout, hidden=hidden
    )

  return values_of


def make_loss(
  config: ConfigDict, algorithm, options, model, values_of: Callable
) -> Callable:
  """loss(trained, frozen, batch) -> (scalar, metrics) of the algorithm."""

  def loss_fn(trained, frozen: _reference.Frozen, batch: _Batch):
    rollout, targets = batch.rollout, batch.targets
    policy = frozen.policy_params(trained['policy'])
    hidden = score.response_hidden(model, policy, rollout)
    stats = score.response_stats(
      model,
      policy,
      rollout,
      temperature=config.sampling.temperature,
      entropy=True,
      hidden=hidden,
    )
    values = values_of(trained, frozen, rollout, hidden)
    gap = sampler_gap(rollout, stats)
    if targets is None:
      rollout = dataclasses.replace(
        rollout, logprobs=jax.lax.stop_gradient(stats.logprobs)
      )
      targets = algorithm.targets(
        rollout,
        scores=batch.scores,
        ref_logprobs=batch.ref_logprobs,
        values=jax.lax.stop_gradient(values),
        config=options,
      )
    loss, metrics = algorithm.loss(
      stats.logprobs,
      values,
      targets,
      rollout,
      options,
      ref_logprobs=batch.ref_logprobs,
      scores=batch.scores,
      entropy=stats.entropy,
    )
    return loss, {**metrics, 'val/sampler_gap': gap}

  return loss_fn


def make_order(
  seed: int, at: Int[Array, ''], rows: int, options: Any
) -> Int[Array, 'N b']:
  """Rows of each of the N updates: every epoch another permutation.

  A pure function of the seed and of the updates made before, `at`, so that a
  run that goes on takes the same parts.
  """
  parts = algorithms.count(options, 'num_minibatches')
  key = jax.random.fold_in(jax.random.key(seed), _SHUFFLE)
  keys = jax.random.split(
    jax.random.fold_in(key, at), algorithms.count(options, 'inner_epochs')
  )
  orders = jax.vmap(lambda k: jax.random.permutation(k, rows))(keys)
  return orders.reshape(-1, rows // parts)


def inner_steps(
  optimise: Callable, models, frozen: _reference.Frozen, batch: _Batch, order
):
  """All updates of a batch; (models, metrics as means over them).

  A single one takes the batch as it is.
  """
  if order.shape[0] == 1:
    return optimise(models, frozen, batch)

  def take(x, rows):
    return sharding.constrain(x[rows], 'batch', *[None] * (x.ndim - 1))

  def body(models, rows):
    part = jax.tree.map(lambda x: take(x, rows), batch)
    return optimise(models, frozen, part)

  models, metrics = jax.lax.scan(body, models, order)
  # Only at the first update is the policy still the one that sampled.
  return models, {
    name: values[0] if name == 'val/sampler_gap' else jnp.mean(values)
    for name, values in metrics.items()
  }


def scale_rewards(kind: str, scores, stats: RunningStats):
  """Scores for the algorithm and the updated running statistics.

  'none' leaves scores alone; 'running' divides by the standard deviation of
  all scores so far (the mean is left to the baseline).
  """
  scores = scores.astype(jnp.float32)
  stats = stats.update(scores)
  if kind == 'running':
    scores = scores / jnp.maximum(stats.std(), 1e-6)
  return scores, stats


def rollout_metrics(
  rollout: Rollout, scores: Float[Array, ' B'], ended
) -> dict[str, jax.Array]:
  """What the rollouts look like; names follow the field's dashboards."""
  lengths = rollout.response_mask.sum(-1).astype(jnp.float32)
  return {
    'objective/scores_std': scores.std(),
    'val/response_length': lengths.mean(),
    'val/repeated_3grams': ngrams.repeated_share(
      rollout.response_tokens, rollout.response_mask
    ).mean(),
    'val/num_eos_tokens': ended.sum(),
  }


def sampler_gap(rollout: Rollout, stats: TokenStats) -> Float[Array, '']:
  """Sampled against recomputed log-probs: the two programs must agree."""
  gap = jnp.abs(stats.logprobs - rollout.logprobs)
  return jax.lax.stop_gradient(masking.masked_mean(gap, rollout.response_mask))
