"""Reinforcement learning from AI feedback (paper App. E/F): the RL stage.

One iteration:
  1. take the prompts of this step (a pure function of seed, step, host)
  2. sample a response for each from the policy, or a group    [jit: rollout]
  3. score the finished texts: reward model, or labeler (direct RLAIF)
  4. reference log-probs, policy log-probs and values           [jit: update]
  5. advantages and returns of the algorithm
  6. one optimiser step, or several, for the policy and for the value model
The reference is the SFT model, frozen; with LoRA it, the policy and the value
model share one set of kernels. Nothing comes back to the host inside
2 and 4-6; metrics of step t-1 are read after step t was dispatched. The
algorithm says whether there is a value model, how many samples a prompt gets
and how often they are learned from (rlaif_jax/algorithms/__init__.py). Dynamic
sampling repeats 1-3 until the batch is worth learning from (_rounds.py).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rlaif_jax import algorithms, rewards, sharding
from rlaif_jax.core.types import Params
from rlaif_jax.data import pipeline, transforms
from rlaif_jax.models import lora
from rlaif_jax.stages import (
  _debug,
  _ptx,
  _reference,
  _rewards,
  _rounds,
  _sampler,
  _value_start,
  _watch,
  common,
)
from rlaif_jax.stages._rl_options import make_options, updates_per_batch
from rlaif_jax.stages._rl_update import RLState, make_update
from rlaif_jax.training import loop, train_state
from rlaif_jax.training import workdir as workdir_lib
from rlaif_jax.training.train_state import RunningStats


def default_config() -> ConfigDict:
  """The paper's RL: batch 128, T 0.9, lr 1e-5, beta 0.05, 1024 + 128."""
  c = common.base_config('rl')
  c.policy = common.model_config('')  # the SFT model
  c.reference = ''  # KL anchor; '' = the policy's starting point
  # Of its weights, if it should not be float32: 'bfloat16', 'int8', ...
  c.reference_param_dtype = ''
  c.reference_offload = False  # they wait in host memory between updates
  # Start of the value model, which may be a reward model; '' = as the policy
  # (App. G).
  c.value = ''
  # Or no such model but a head on the policy's trunk, and one pass for both;
  # algorithm_config.value_coef then weighs what the trunk learns from values,
  # and 0.1 is usual.
  c.shared_trunk = False
  c.data = common.data_config('tldr', 'train')
  c.max_prompt = 1024
  c.max_response = 128
  c.batch_size = 128  # episodes a step: prompts times the group's size
  # Rollouts a step may take until all groups of the batch have scores that
  # differ (DAPO's dynamic sampling); epochs count what was learned from.
  c.max_sampling_rounds = 1
  c.num_microbatches = 1  # gradient accumulation
  c.num_steps = 0  # 0 = num_epochs over the prompts
  c.num_epochs = 8
  c.sampling = common.sampling_config(0.9)
  c.sampler = _sampler.config()  # how they are made, fast and small
  c.reward = _rewards.config()
  c.reward_scaling = 'none'  # or 'running': divide by the running std
  c.missing_eos_penalty = 0.0  # taken off the score of a response with no end
  # rlaif_jax/algorithms/<name>.py and its options, which belong together:
  # --config=configs/rl.py:algorithm=NAME sets both.
  c.algorithm = 'reinforce'
  c.algorithm_config = ConfigDict(
    dataclasses.asdict(algorithms.load(c.algorithm).Config())
  )
  c.optimizer = common.optimizer_config(1e-5)
  c.value_optimizer = common.optimizer_config(1e-5)
  c.ptx = _ptx.config()  # other texts to learn beside; off by default
  c.monitor = _watch.config()  # against reward hacking
  c.policy_delay = 0  # first steps in which only the value model learns
  c.checkpoint = common.checkpoint_config(every=100)
  return c


def run(config: ConfigDict, workdir) -> None:
  """Trains `config.policy` against `config.reward`; leaves `workdir/model`."""
  with common.session(config, workdir) as s:
    if s is None:
      return
    make_options(config)  # what is wrong with it is said before models load
    _reference.check(config)
    _rewards.check(config.reward)
    _ptx.check(config.ptx)
    _sampler.check(config)
    _watch.make_monitor(config.monitor)
    loaded = common.load_policy(config.policy, s)
    examples = common.load_prompts(
      config.data, loaded.tokenizer, config.max_prompt
    )
    common.check_context(
      loaded.model,
      max_prompt=config.max_prompt,
      max_response=config.max_response,
    )
    params = train(s, loaded, examples)
    common.export_model(s, loaded, loaded.model, params)
    workdir_lib.finish(s.workdir, loop.last_metrics(s.workdir))


def train(s: common.Session, loaded: common.Loaded, examples) -> Params:
  """The loop of the module docstring; returns the policy's parameters."""
  config, key = s.config, jax.random.key(s.config.seed)
  algorithm, options = make_options(config)
  group = algorithms.count(options, 'group_size')
  num_prompts = config.batch_size // group
  num_steps = config.num_steps or max(
    1, config.num_epochs * len(examples) // num_prompts
  )
  reward = _rewards.make(
    config.reward,
    policy_tokenizer=loaded.tokenizer,
    mesh=s.mesh,
    rules=s.rules,
  )
  blocks = {'policy': config.optimizer}
  if algorithm.NEEDS_VALUE:
    blocks['value'] = config.value_optimizer
  num_updates = num_steps * updates_per_batch(options)
  txs = {
    name: common.make_optimizer(block, num_updates)
    for name, block in blocks.items()
  }
  value_model, state, frozen = init_state(s, loaded, txs, key)
  rollout_fn = _sampler.make(config, loaded)
  update = make_update(
    config, loaded.model, value_model, txs, eos_ids=loaded.tokenizer.eos_ids
  )

  rounds = _rounds.Rounds(config, options, s.mesh, loaded.tokenizer.eos_ids)
  texts = _ptx.make_texts(config, loaded)
  judge = _watch.make_judge(s, loaded)

  def batch(number: int):
    """A rollout's examples (all hosts'); this host's prompts, ids, texts."""
    rows = np.repeat(
      pipeline.batch_indices(config.seed, number, num_prompts, len(examples)),
      group,
    )
    chosen = [examples[i] for i in rows]
    ids = common.host_share(config.batch_size)
    prompts = transforms.prompt_batch(
      [chosen[i] for i in ids],
      loaded.tokenizer,
      config.max_prompt,
      among=chosen[::group] if config.sampler.buckets else None,
    )
    prompts = dataclasses.replace(prompts, group=group)
    return chosen, (prompts, ids, texts(number))

  batches = pipeline.prefetch(batch)

  def draw(policy: Params, number: int) -> _rounds.Drawn:
    chosen, arrays = batches(number)  # 1
    prompts, row_ids, others = sharding.shard_batch(arrays, s.mesh)
    rollout = rollout_fn(  # 2
      policy, prompts, jax.random.fold_in(key, number), row_ids
    )
    scores = reward.score(rollout, chosen)  # 3
    if config.debug:
      _debug.check_rollout(
        rollout,
        scores,
        vocab_size=loaded.model.config.vocab_size,
        eos_ids=loaded.tokenizer.eos_ids,
      )
    spent = rewards.spent(reward)
    return _rounds.Drawn(rollout, scores, chosen, others, spent)

  def step_fn(state: RLState, at: int):
    policy = frozen.policy_params(state.policy.params)
    state, drawn, found = rounds.collect(
      functools.partial(draw, policy), state, at
    )
    state, metrics = update(  # 4-6
      state, frozen, drawn.rollout, drawn.scores, drawn.texts
    )
    found |= {**drawn.spent, **judge(drawn.rollout, drawn.examples, at)}
    return state, {**metrics, **found}

  def describe(at: int):
    """Prompts of all rollouts of a step, for one that went wrong."""
    parts = [batch(number)[1] for number in rounds.numbers(at)]
    prompts = _rounds.as_wide([part[0] for part in parts])
    parts = [(p, *rest) for p, (_, *rest) in zip(prompts, parts, strict=True)]
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)

  with common.checkpointer_for(s, 'objective/rlhf_reward') as checkpointer:
    state = loop.run_loop(
      state,
      step_fn,
      num_steps=num_steps,
      checkpointer=checkpointer,
      writer=common.writer_for(s),
      save_every=config.checkpoint.every,
      log_every=config.log_every,
      describe=describe,
      monitor=_watch.make_monitor(config.monitor),
      title=s.workdir.name,
      tokens_per_step=config.batch_size
      * (config.max_prompt + config.max_response),
    )
  return frozen.policy_params(state.policy.params)


def init_state(s: common.Session, loaded: common.Loaded, txs, key):
  """Policy and value from SFT; returns (value model, state, frozen).

  What the policy trains is given away to its first update; where the reference
  keeps the originals it is a copy. Without an optimiser for a value model there
  is none.
  """
  config = s.config
  reference = _reference.load(s, loaded)
  policy_base, policy = lora.split(loaded.model, loaded.params)
  if reference is loaded:
    policy = jax.tree.map(jnp.copy, policy)
  value_model, value_base, value = None, {}, None
  if 'value' in txs:
    value_model, params = _value_start.load(s, loaded, config.value, key)
    value_base, trained = lora.split(value_model, params)
    value = train_state.create(trained, txs['value'], s.mesh)
  frozen = _reference.freeze(
    reference,
    policy=policy_base if config.reference else {},
    value=value_base if config.value else {},
  )
  algorithm, options = make_options(config)
  carried = getattr(algorithm, 'init_state', lambda _: {})(options)
  state = RLState(
    policy=train_state.create(policy, txs['policy'], s.mesh),
    value=value,
    reward_stats=sharding.replicate(RunningStats.zero(), s.mesh),
    algorithm=sharding.replicate(carried, s.mesh),
    draws=sharding.replicate(_rounds.start(config), s.mesh),
  )
  return value_model, state, frozen
