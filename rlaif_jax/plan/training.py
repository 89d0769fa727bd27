"""Programs that learn: the steps of SFT and reward models, the RL update."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rlaif_jax.core import types
from rlaif_jax.models import lora
from rlaif_jax.plan import inference, work
from rlaif_jax.plan.context import Context, Program
from rlaif_jax.plan.shapes import Sharded
from rlaif_jax.stages import (
  _options,
  _reference,
  _rl_options,
  _rl_update,
  _rounds,
  _sampler,
  common,
  reward,
  sft,
)
from rlaif_jax.training import step, train_state


def of_sft(config: ConfigDict, context: Context) -> list[Program]:
  """One step of stages/sft.py."""
  loaded = context.policy(config.model)
  size = (config.batch_size, config.max_prompt + config.max_response)
  batch = types.TokenBatch(
    tokens=context.rows(*size),
    mask=context.rows(*size, dtype=bool),
    loss_mask=context.rows(*size, dtype=bool),
  )
  loss = sft.make_loss(
    loaded.model, config.max_response, config.prompt_loss, config.loss_mean
  )
  logits = size[1] if config.prompt_loss else config.max_response
  cost = work.training(loaded.model.config, *size, logits)
  return [_train_step(config, context, loaded, loss, batch, cost)]


def of_reward(config: ConfigDict, context: Context) -> list[Program]:
  """One step of stages/reward.py."""
  loaded = context.policy(config.model)
  found = context.scalar(loaded)
  rows = config.batch_size
  size = (rows, config.max_prompt + config.max_response)
  batch = types.PairBatch(
    tokens_1=context.rows(*size),
    mask_1=context.rows(*size, dtype=bool),
    tokens_2=context.rows(*size),
    mask_2=context.rows(*size, dtype=bool),
    p_first=context.rows(rows, dtype=jnp.float32),
    weight=context.rows(rows, dtype=jnp.float32),
  )
  # Both responses follow their prompt in one row.
  length = config.max_prompt + 2 * config.max_response
  cost = work.training(found.model.config, rows, length, 0)
  # The stage trains a copy and keeps what it started from.
  kept = lora.split(loaded.model, loaded.params)[1]
  loss = reward.make_loss(found.model, config.max_response)
  return [_train_step(config, context, found, loss, batch, cost, kept)]


def _train_step(
  config: ConfigDict,
  context: Context,
  loaded: Sharded,
  loss: Callable,
  batch: Any,
  cost: work.Work,
  resident: Any = (),
) -> Program:
  """The step of a stage that trains one model, adapters or all of it."""
  tx = common.make_optimizer(config.optimizer, 1)
  frozen, trained = lora.split(loaded.model, loaded.params)
  state = context.state(trained, tx)
  train = step.make_train_step(
    lora.joined(loss), tx, num_microbatches=config.num_microbatches
  )
  return Program(
    name='step',
    lower=lambda _: train.lower(state, batch, context.key(), frozen),
    params=(state.params, frozen),
    optimizer=state.opt_state,
    others=(state.step, batch),
    resident=resident,
    work=cost,
  )


def of_rl(config: ConfigDict, context: Context) -> list[Program]:
  """Prefill, decode, reward and update of stages/rl.py, in this order."""
  models = _RLModels(config, context)
  policy = Sharded(
    _sampler.as_sampled(config.sampler, models.policy.model),
    models.frozen.policy_params(models.state.policy.params),
  )
  rollout = inference.abstract_rollout(config, context)
  rewards = inference.rewarding(config.reward, context, rollout)
  programs = [
    *inference.rollout(config, context, policy, config.batch_size),
    *rewards,
    _update(config, context, models, rollout),
  ]
  judges = [p.params for p in rewards]
  everything = (models.state, models.frozen, judges)
  return [p.beside(everything) for p in programs]


class _RLModels:
  """What `stages.rl.init_state` gives, as shapes."""

  def __init__(self, config: ConfigDict, context: Context):
    algorithm, options = _rl_options.make_options(config)
    _reference.check(config)
    self.policy = context.policy(config.policy)
    self.txs = {'policy': common.make_optimizer(config.optimizer, 1)}
    self.value = value_state = None
    if algorithm.NEEDS_VALUE:
      self.txs['value'] = common.make_optimizer(config.value_optimizer, 1)
      self.value = context.scalar(context.policy(config.policy, config.value))
      trained = lora.split(self.value.model, self.value.params)[1]
      if config.shared_trunk:
        trained = {'head': trained['head']}
      value_state = context.state(trained, self.txs['value'])
    base, trained = lora.split(self.policy.model, self.policy.params)
    carried = getattr(algorithm, 'init_state', lambda _: {})
    self.state = _rl_update.RLState(
      policy=context.state(trained, self.txs['policy']),
      value=value_state,
      reward_stats=context.replicated(train_state.RunningStats.zero),
      algorithm=context.replicated(lambda: carried(options)),
      draws=context.replicated(lambda: _rounds.start(config)),
    )
    reference, policy, value = self.policy, {}, {}
    if config.reference:
      reference = context.policy(config.policy, config.reference)
      policy = base
    if _reference.apart(config):
      reference = context.frozen(
        config.reference or config.policy.path,
        config.reference_param_dtype or 'float32',
        config.reference_offload,
        **_options.running(config.policy),
      )
    if self.value is not None and config.value:
      value = lora.split(self.value.model, self.value.params)[0]
    self.frozen = _reference.freeze(reference, policy, value)


def _update(
  config: ConfigDict,
  context: Context,
  models: _RLModels,
  rollout: types.Rollout,
) -> Program:
  """The jitted update of stages/_rl_update.py."""
  rows, length = config.batch_size, config.max_prompt + config.max_response
  update = _rl_update.make_update(
    config,
    models.policy.model,
    models.value and models.value.model,
    models.txs,
    eos_ids=models.policy.model.config.eos_ids or (1,),
  )
  scores = context.rows(rows, dtype=jnp.float32)
  texts = None
  if config.ptx.coef:
    size = (rows, config.ptx.ratio, length)
    real = context.rows(*size, dtype=bool)
    texts = types.TokenBatch(context.rows(*size), mask=real, loss_mask=real)
  c = models.policy.model.config
  algorithm, options = _rl_options.make_options(config)
  cost = work.forward(c, rows, length, config.max_response)  # the reference's
  if not algorithm.ON_POLICY and models.value is not None:
    cost += work.forward(c, rows, length, 0)
  for _ in range(getattr(options, 'inner_epochs', 1)):
    cost += work.training(c, rows, length, config.max_response)
    if models.value is not None and not config.shared_trunk:
      cost += work.training(c, rows, length, 0)
    if texts is not None:
      cost += work.training(c, rows * config.ptx.ratio, length, length)
  trained = [s for s in (models.state.policy, models.state.value) if s]
  return Program(
    name='update',
    lower=lambda _: update.lower(
      models.state, models.frozen, rollout, scores, texts
    ),
    params=([s.params for s in trained], models.frozen),
    optimizer=[s.opt_state for s in trained],
    others=(models.state, rollout, scores, texts),
    resident=(),
    work=cost,
  )


def bare(tree: Any) -> Any:
  """Shapes without where they go, to compare programs by."""
  return jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)
