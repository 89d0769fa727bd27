"""The Tunix side of the engine benchmark: its Sampler and its PPO step.

  pip install google-tunix              # in an environment of its own

It reads the folder that torch wrote, for the shapes of Qwen3. Its sampler
chooses greedily unless it is given top_p, so that sampling here is top_p 1. A
PPO step is what its learner does with a batch: rollout, log-probs of policy and
reference, values, scores of a reward model, and one update of policy and of
critic.
"""

import logging

import engine_common as common
import jax
import jax.numpy as jnp
import numpy as np
import optax
import transformers
from flax import nnx  # tunix needs it to be loaded first
from tunix.generate import sampler as sampler_lib
from tunix.models.qwen3 import model as model_lib
from tunix.models.qwen3 import params as params_lib
from tunix.rl import rl_cluster
from tunix.rl import utils as rl_utils
from tunix.rl.ppo import ppo_learner
from tunix.rl.rollout import base_rollout

NEVER = [2]  # a token that ends nothing


def generate(folder, shape, dtype, mesh):
  """Sampling; its first turn also gives greedy tokens."""
  model = load(folder, shape, dtype, mesh)
  sampler = sampler_lib.Sampler(
    model,
    transformers.AutoTokenizer.from_pretrained(folder / 'policy'),
    sampler_lib.CacheConfig(
      cache_size=shape.prompt + shape.new,
      num_layers=shape.layers,
      num_kv_heads=model.config.num_kv_heads,
      head_dim=model.config.head_dim,
    ),
  )
  texts = [common.text(row) for row in common.prompts(shape)]
  count = iter(range(10**9))

  def run(**options):
    found = sampler(
      texts,
      max_generation_steps=shape.new,
      max_prompt_length=shape.prompt,
      eos_tokens=NEVER,
      seed=next(count),
      pad_output=True,
      **options,
    )
    return np.asarray(found.tokens)

  def step():
    run(temperature=common.TEMPERATURE, top_p=1.0)

  def first():
    return dict(tokens=run(temperature=0.0).tolist())

  return step, first


def rl(folder, shape, dtype, mesh):
  """PPO with a critic, a reference and a reward model."""
  actor, reference = (load(folder, shape, dtype, mesh) for _ in range(2))
  critic, reward = (rl_utils.create_critic_model(actor, i) for i in range(2))
  cluster = rl_cluster.RLCluster(
    actor=actor,
    critic=critic,
    reference=reference,
    reward=reward,
    tokenizer=transformers.AutoTokenizer.from_pretrained(folder / 'policy'),
    cluster_config=rl_cluster.ClusterConfig(
      role_to_mesh=dict.fromkeys(rl_cluster.Role, mesh),
      training_config=rl_cluster.RLTrainingConfig(
        actor_optimizer=optax.adamw(common.RATE),
        critic_optimizer=optax.adamw(common.RATE),
        eval_every_n_steps=10**9,
        max_steps=10**9,
        mini_batch_size=shape.batch,
        train_micro_batch_size=shape.batch,
        rollout_micro_batch_size=shape.batch,
        compute_logps_micro_batch_size=shape.batch,
      ),
      rollout_config=base_rollout.RolloutConfig(
        max_tokens_to_generate=shape.new,
        max_prompt_length=shape.prompt,
        kv_cache_size=shape.prompt + shape.new,
        temperature=common.TEMPERATURE,
        top_p=1.0,
        eos_tokens=NEVER,
      ),
    ),
  )
  learner = ppo_learner.PPOLearner(
    cluster, ppo_learner.PPOConfig(beta=common.BETA)
  )
  batch = {'prompts': [common.text(row) for row in common.prompts(shape)]}

  def step():
    made = learner._generate_and_compute_advantage(batch)
    cluster.update_actor([made], None)
    cluster.update_critic([made], None)
    trainers = cluster.actor_trainer, cluster.critic_trainer
    jax.block_until_ready([nnx.state(one.model) for one in trainers])

  return step, None


def load(folder, shape, dtype, mesh):
  """The policy in `folder` as Tunix has it."""
  config = model_lib.ModelConfig(
    num_layers=shape.layers,
    vocab_size=shape.vocab,
    embed_dim=shape.width,
    hidden_dim=shape.mlp or 4 * shape.width,
    num_heads=shape.heads,
    head_dim=shape.width // shape.heads,
    num_kv_heads=shape.kv_heads or shape.heads,
    rope_theta=int(common.ROPE_THETA),
    norm_eps=1e-6,
    use_tied_embedding=False,
    dtype=getattr(jnp, dtype),
    param_dtype=getattr(jnp, dtype),
  )
  return params_lib.create_model_from_safe_tensors(
    str(folder / 'policy'), config, mesh
  )


def main():
  args = common.worker_args(__doc__.split('\n')[0])
  logging.disable(logging.WARNING)
  shape = common.SHAPES[args.shape]
  mesh = jax.make_mesh(
    (1, 1),
    ('fsdp', 'tp'),
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
    devices=jax.devices()[:1],
  )
  program = {'generate': generate, 'rl': rl}[args.program]
  common.take_turns(lambda: program(args.folder, shape, args.dtype, mesh))


if __name__ == '__main__':
  main()
