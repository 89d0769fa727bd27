"""Reinforcement learning from AI feedback (paper App. E/F): the RL stage.

One iteration:
  1. take the prompts of this step (a pure function of seed, step, host)
  2. sample a response for each from the policy                 [jit: rollout]
  3. score the finished texts: reward model, or labeler (direct RLAIF)
  4. reference log-probs, policy log-probs and values           [jit: update]
  5. advantages and returns of the algorithm
  6. one optimiser step for the policy, one for the value model
The reference is the SFT model, frozen; with LoRA it, the policy and the value
model share one set of kernels. Nothing comes back to the host inside
2 and 4-6; metrics of step t-1 are read after step t was dispatched.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rlaif_jax import algorithms, rewards, sharding
from rlaif_jax.core import masking
from rlaif_jax.core.types import Params, Rollout
from rlaif_jax.data import pipeline, transforms
from rlaif_jax.inference import decode, score
from rlaif_jax.models import lora
from rlaif_jax.stages import _lora, _options, common
from rlaif_jax.training import loop, step, train_state
from rlaif_jax.training import workdir as workdir_lib
from rlaif_jax.training.train_state import RunningStats, TrainState

REWARD_SCALINGS = ('none', 'running')


def default_config() -> ConfigDict:
  """The paper's RL: batch 128, T 0.9, lr 1e-5, beta 0.05, 1024 + 128."""
  c = common.base_config('rl')
  c.policy = common.model_config('')  # the SFT model
  c.reference = ''  # KL anchor; '' = the policy's starting point
  c.value = ''  # start of the value model; '' = as the policy (App. G)
  c.data = common.data_config('tldr', 'train')
  c.max_prompt = 1024
  c.max_response = 128
  c.batch_size = 128  # episodes a step
  c.num_microbatches = 1  # gradient accumulation
  c.num_steps = 0  # 0 = num_epochs over the prompts
  c.num_epochs = 8
  c.sampling = common.sampling_config(0.9)
  c.reward = ConfigDict(
    dict(
      name='reward_model',  # rlaif_jax/rewards/<name>.py
      path='',  # reward model, or labeler for name='direct'
      prompt='summary_score',  # labeling prompt of name='direct'
      max_tokens=4096,  # of a labeling prompt, for name='direct'
      batch_size=64,  # rows scored at once, for name='direct'
      dtype='float32',
    )
  )
  c.reward_scaling = 'none'  # or 'running': divide by the running std
  c.algorithm = 'reinforce'  # rlaif_jax/algorithms/<name>.py
  c.algorithm_config = ConfigDict(  # its options
    dataclasses.asdict(algorithms.load(c.algorithm).Config())
  )
  c.optimizer = common.optimizer_config(1e-5)
  c.value_optimizer = common.optimizer_config(1e-5)
  c.policy_delay = 0  # first steps in which only the value model learns
  c.checkpoint = common.checkpoint_config(every=100)
  return c


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('policy', 'value', 'reward_stats'),
  meta_fields=(),
)
@dataclasses.dataclass(frozen=True)
class RLState:
  """All that training changes, and so all that a checkpoint holds."""

  policy: TrainState
  value: TrainState
  reward_stats: RunningStats


def run(config: ConfigDict, workdir) -> None:
  """Trains `config.policy` against `config.reward`; leaves `workdir/model`."""
  with common.session(config, workdir) as s:
    if s is None:
      return
    if config.reward_scaling not in REWARD_SCALINGS:
      raise ValueError(
        f'config.reward_scaling={config.reward_scaling!r}; use one of '
        f'{", ".join(REWARD_SCALINGS)}'
      )
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
  num_steps = config.num_steps or max(
    1, config.num_epochs * len(examples) // config.batch_size
  )
  reward = rewards.load(config.reward.name).make(
    config.reward,
    policy_tokenizer=loaded.tokenizer,
    mesh=s.mesh,
    rules=s.rules,
  )
  txs = {
    'policy': common.make_optimizer(config.optimizer, num_steps),
    'value': common.make_optimizer(config.value_optimizer, num_steps),
  }
  value_model, state, frozen = init_state(s, loaded, txs, key)
  rollout_fn = decode.make_generate(
    loaded.model,
    max_new_tokens=config.max_response,
    sampling=common.make_sampling(config.sampling),
    eos_ids=loaded.tokenizer.eos_ids,
    pad_id=loaded.tokenizer.pad_id,
  )
  update = make_update(config, loaded.model, value_model, txs)

  def batch(at: int):
    """The step's examples (all hosts'), this host's prompts and row ids."""
    rows = pipeline.batch_indices(
      config.seed, at, config.batch_size, len(examples)
    )
    ids = common.host_share(config.batch_size)
    prompts = transforms.prompt_batch(
      [examples[rows[i]] for i in ids], loaded.tokenizer, config.max_prompt
    )
    return [examples[i] for i in rows], (prompts, ids)

  batches = pipeline.prefetch(batch)

  def step_fn(state: RLState, at: int):
    chosen, arrays = batches(at)  # 1
    prompts, row_ids = sharding.shard_batch(arrays, s.mesh)
    policy = frozen.policy_params(state.policy.params)
    rollout = rollout_fn(  # 2
      policy, prompts, jax.random.fold_in(key, at), row_ids
    )
    scores = reward.score(rollout, chosen)  # 3
    return update(state, frozen, rollout, scores)  # 4-6

  with common.checkpointer_for(s, 'objective/rlhf_reward') as checkpointer:
    state = loop.run_loop(
      state,
      step_fn,
      num_steps=num_steps,
      checkpointer=checkpointer,
      writer=common.writer_for(s),
      save_every=config.checkpoint.every,
      log_every=config.log_every,
      describe=lambda at: batch(at)[1],
      title=s.workdir.name,
      tokens_per_step=config.batch_size
      * (config.max_prompt + config.max_response),
    )
  return frozen.policy_params(state.policy.params)


def init_state(s: common.Session, loaded: common.Loaded, txs, key):
  """Policy and value from SFT; returns (value model, state, frozen).

  What the policy trains is copied once, since its update is donated while the
  reference keeps the originals.
  """
  config = s.config
  reference, start = (
    start_at(s, path, loaded) if path else loaded
    for path in (config.reference, config.value)
  )
  policy_base, policy = lora.split(loaded.model, loaded.params)
  value_model, value_params = common.scalar_from(start, s, key)
  value_base, value = lora.split(value_model, value_params)
  frozen = _lora.Frozen(
    reference=reference.params,
    policy=policy_base if config.reference else {},
    value=value_base if config.value else {},
  )
  policy = jax.tree.map(jnp.copy, policy)
  state = RLState(
    policy=train_state.create(policy, txs['policy'], s.mesh),
    value=train_state.create(value, txs['value'], s.mesh),
    reward_stats=sharding.replicate(RunningStats.zero(), s.mesh),
  )
  return value_model, state, frozen


def start_at(s: common.Session, path: str, loaded: common.Loaded):
  """The model at `path`, loaded as the policy was.

  Where that has adapters it gets new ones, which change nothing as they are.
  """
  block = s.config.policy.copy_and_resolve_references()
  block.path = path
  if block.lora.path:
    found = loaded.model.config.lora
    block.lora.update(path='', **dataclasses.asdict(found))
  return common.load_policy(block, s)


def make_update(config: ConfigDict, model, value_model, txs) -> Callable:
  """Jitted update(state, frozen, rollout, scores) -> (state, metrics).

  The step that the paper describes in App. F: one forward of the reference,
  one forward and backward of policy and value, one optimiser step each, with
  gradients accumulated over `config.num_microbatches`.
  """
  algorithm = algorithms.load(config.algorithm)
  options = _options.build(
    algorithm.Config,
    config.algorithm_config.to_dict(),
    'config.algorithm_config',
  )
  temperature = config.sampling.temperature

  def loss_fn(trained, frozen: _lora.Frozen, batch):
    rollout, scores, ref_logprobs = batch
    stats = score.response_stats(
      model,
      frozen.policy_params(trained['policy']),
      rollout,
      temperature=temperature,
      entropy=True,
    )
    values = score.response_values(
      value_model, frozen.value_params(trained['value']), rollout
    )
    now = dataclasses.replace(
      rollout, logprobs=jax.lax.stop_gradient(stats.logprobs)
    )
    targets = algorithm.targets(
      now,
      scores=scores,
      ref_logprobs=ref_logprobs,
      values=jax.lax.stop_gradient(values),
      config=options,
    )
    loss, metrics = algorithm.loss(
      stats.logprobs,
      values,
      targets,
      now,
      options,
      ref_logprobs=ref_logprobs,
      scores=scores,
      entropy=stats.entropy,
    )
    return loss, {**metrics, **rollout_metrics(rollout, scores, stats)}

  @step.jit_step
  def update(state: RLState, frozen: _lora.Frozen, rollout: Rollout, scores):
    scores, reward_stats = scale_rewards(
      config.reward_scaling, scores, state.reward_stats
    )
    ref_logprobs = score.response_stats(
      model, frozen.reference, rollout, temperature=temperature
    ).logprobs
    trained = {'policy': state.policy.params, 'value': state.value.params}
    grad_fn = jax.grad(loss_fn, has_aux=True)
    grads, metrics = step.accumulate(
      lambda trained, batch: grad_fn(trained, frozen, batch),
      trained,
      (rollout, scores, ref_logprobs),
      config.num_microbatches,
    )
    policy, policy_info = step.apply_gradients(
      state.policy,
      grads['policy'],
      txs['policy'],
      enabled=state.policy.step >= config.policy_delay,
    )
    value, value_info = step.apply_gradients(
      state.value, grads['value'], txs['value']
    )
    metrics |= {f'policy/{k}': v for k, v in policy_info.items()}
    metrics |= {f'value/{k}': v for k, v in value_info.items()}
    return RLState(policy, value, reward_stats), metrics

  return update


def scale_rewards(kind: str, scores, stats: RunningStats):
  """Scores for the algorithm and the updated running statistics.

  'none' leaves scores alone; 'running' divides by the standard deviation of
  all scores so far (the mean is left to the value baseline).
  """
  scores = scores.astype(jnp.float32)
  stats = stats.update(scores)
  if kind == 'running':
    scores = scores / jnp.maximum(stats.std(), 1e-6)
  return scores, stats


def rollout_metrics(rollout: Rollout, scores, stats) -> dict[str, jax.Array]:
  """What the rollouts look like; names follow the field's dashboards."""
  mask = rollout.response_mask
  lengths = mask.sum(-1).astype(jnp.float32)
  return {
    'objective/scores_std': scores.std(),
    'val/response_length': lengths.mean(),
    # Sampled against recomputed log-probs: the two programs must agree.
    'val/sampler_gap': masking.masked_mean(
      jnp.abs(stats.logprobs - rollout.logprobs), mask
    ),
  }
