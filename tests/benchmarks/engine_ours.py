"""Our side of the engine benchmark: the programs that the stages run."""

import dataclasses
import functools

import engine_common as common
import jax
import numpy as np
from ml_collections import ConfigDict

from rlaif_jax import algorithms, host, rewards, sharding
from rlaif_jax.core.types import PairBatch, PromptBatch, TokenBatch
from rlaif_jax.data import tokenizer as tokenizer_lib
from rlaif_jax.inference import decode
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.models import hf, lora, with_options
from rlaif_jax.stages import _rl_update, preference, rl
from rlaif_jax.stages import common as stages
from rlaif_jax.stages import reward as reward_stage
from rlaif_jax.training import step as step_lib
from rlaif_jax.training import train_state


def generate(folder, shape, dtype, mesh):
  """Sampling; its first turn also gives greedy tokens."""
  loaded = _load(folder / 'policy', dtype, mesh)
  prompts = sharding.shard_batch(_prompts(shape), mesh)
  run = functools.partial(
    _rollout_fn(loaded.model, shape, common.TEMPERATURE),
    loaded.params,
    prompts,
  )
  count = iter(range(10**9))

  def step():
    key = jax.random.fold_in(jax.random.key(0), next(count))
    np.asarray(run(key).response_tokens)

  def first():
    greedy = _rollout_fn(loaded.model, shape, None)
    found = greedy(loaded.params, prompts, jax.random.key(0))
    return dict(tokens=np.asarray(found.response_tokens).tolist())

  return step, first


def rl_step(folder, shape, dtype, mesh, algorithm='reinforce', **options):
  """An algorithm with a reference, a reward model and, if it asks, a value."""
  loaded = _load(folder / 'policy', dtype, mesh)
  config = rl.default_config()
  config.algorithm = algorithm
  found = algorithms.load(algorithm).Config(beta=common.BETA, **options)
  config.algorithm_config = ConfigDict(dataclasses.asdict(found))
  config.batch_size = shape.batch
  config.max_prompt, config.max_response = shape.prompt, shape.new
  config.sampling.temperature = common.TEMPERATURE
  config.reward.path = str(folder / 'reward')
  _adamw(config.optimizer)
  _adamw(config.value_optimizer)
  s = stages.Session(None, config, mesh, sharding.DEFAULT_RULES)
  txs = {
    'policy': stages.make_optimizer(config.optimizer, 1),
    'value': stages.make_optimizer(config.value_optimizer, 1),
  }
  reward = rewards.load('reward_model').make(
    config.reward, policy_tokenizer=loaded.tokenizer, mesh=mesh, rules=s.rules
  )
  key = jax.random.key(0)
  value_model, state, frozen = rl.init_state(s, loaded, txs, key)
  update = _rl_update.make_update(config, loaded.model, value_model, txs)
  rollout_fn = _rollout_fn(loaded.model, shape, common.TEMPERATURE)
  held = [state, 0]
  prompts = _prompts(shape)
  group = options.get('group_size', 1)
  prompts = jax.tree.map(lambda x: x[::group].repeat(group, 0), prompts)
  prompts = dataclasses.replace(prompts, group=group)

  def step():
    prompts_now = sharding.shard_batch(prompts, mesh)
    policy = frozen.policy_params(held[0].policy.params)
    held[1] += 1
    rollout = rollout_fn(policy, prompts_now, jax.random.fold_in(key, held[1]))
    scores = reward.score(rollout, [])
    held[0], metrics = update(held[0], frozen, rollout, scores)
    return dict(loss=float(metrics['loss/policy_avg']))

  return step, None


def reward_step(folder, shape, dtype, mesh):
  """Soft Bradley-Terry, with labels of 1 as torch has."""
  model, params = hf.load_reward_model(folder / 'reward', mesh=mesh)
  model = with_options(model, dtype=dtype)
  config = reward_stage.default_config()
  _adamw(config.optimizer)
  tokens = _pairs(shape)
  real = np.ones(tokens[0].shape, bool)
  ones = np.ones(shape.batch, np.float32)
  batch = PairBatch(tokens[0], real, tokens[1], real, ones, ones)
  frozen, trained = lora.split(model, params)
  loss = lora.joined(reward_stage.make_loss(model, shape.new))
  return _train_step(loss, config, trained, frozen, batch, mesh), None


def dpo_step(folder, shape, dtype, mesh):
  """DPO against another model than it starts from, so that its loss tells."""
  loaded = _load(folder / 'policy', dtype, mesh)
  config = preference.default_config()
  config.reference = str(folder / 'reference')
  config.max_prompt, config.max_response = shape.prompt, shape.new
  config.policy.dtype = dtype
  _adamw(config.optimizer)
  s = stages.Session(None, config, mesh, sharding.DEFAULT_RULES)
  frozen, trained = preference.split_models(s, loaded)
  texts = [_text(tokens, shape) for tokens in _pairs(shape)]
  ones = np.ones(shape.batch, np.float32)
  batch = preference.Pairs(*texts, None, ones, ones)
  loss = preference.make_loss(config, loaded.model)
  return _train_step(loss, config, trained, frozen, batch, mesh), None


def _train_step(loss, config, trained, frozen, batch, mesh):
  """One step of pairs a call, the batch coming from the host."""
  tx = stages.make_optimizer(config.optimizer, 1)
  train_step = step_lib.make_train_step(loss, tx)
  held = [train_state.create(trained, tx, mesh)]
  key = jax.random.key(0)

  def step():
    pairs = sharding.shard_batch(batch, mesh)
    held[0], metrics = train_step(held[0], pairs, key, frozen)
    found = [v for k, v in metrics.items() if k.startswith('loss/')]
    return dict(loss=float(found[0]))

  return step


def _rollout_fn(model, shape, temperature):
  """Sampler that never ends early; temperature None is greedy."""
  if temperature is None:
    sampling = SamplingConfig(greedy=True)
  else:
    sampling = SamplingConfig(temperature)
  return decode.make_generate(
    model, max_new_tokens=shape.new, sampling=sampling, eos_ids=(), pad_id=1
  )


def _load(folder, dtype, mesh) -> stages.Loaded:
  model, params = hf.load(folder, mesh=mesh)
  model = with_options(model, dtype=dtype)
  tokenizer = tokenizer_lib.load_tokenizer(str(folder))
  return stages.Loaded(model, params, tokenizer, str(folder))


def _adamw(block) -> None:
  block.name, block.learning_rate = 'adamw', common.RATE
  block.b1, block.b2 = 0.9, 0.999
  block.clip_norm = common.CLIP
  block.warmup_steps = 0


def _prompts(shape) -> PromptBatch:
  tokens = common.prompts(shape).astype(np.int32)
  return PromptBatch(tokens, np.ones(tokens.shape, bool))


def _pairs(shape) -> list[np.ndarray]:
  """Two arrays [B, P + R] of prompts with responses that end in token 0."""
  found = []
  for response in common.responses(shape):
    response[:, -1] = 0
    both = np.concatenate([common.prompts(shape), response], axis=1)
    found.append(both.astype(np.int32))
  return found


def _text(tokens, shape) -> TokenBatch:
  learned = np.arange(tokens.shape[1]) >= shape.prompt
  learned = np.broadcast_to(learned, tokens.shape)
  return TokenBatch(tokens, np.ones(tokens.shape, bool), learned)


def main():
  args = common.worker_args(__doc__.split('\n')[0])
  shape = common.SHAPES[args.shape]
  program = {
    'generate': generate,
    'rl': rl_step,
    'rloo': functools.partial(rl_step, algorithm='rloo', group_size=2),
    'reward': reward_step,
    'dpo': dpo_step,
  }[args.program]
  host.prepare()  # as rlaif_jax.main does
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  with jax.set_mesh(mesh):
    common.take_turns(lambda: program(args.folder, shape, args.dtype, mesh))


if __name__ == '__main__':
  main()
