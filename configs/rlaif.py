"""The main job: RLAIF, same-size RLAIF, direct RLAIF and RLHF, then the table.

Lee et al., RLAIF vs. RLHF (arXiv 2309.00267), whole loop, on the embedded tiny
world: no download, 2 CPU cores, ten to fifteen minutes.

  python -m rlaif_jax.main --config=configs/rlaif.py --workdir=runs/quickstart

  configs/rlaif.py:seeds   three seeds, averaged (three times as long)
  configs/rlaif.py:smoke   a few steps of everything (a minute)

For your own data and models see configs/paper.py.
"""

from ml_collections import ConfigDict

from configs import common
from rlaif_jax import stages


def get_config(arg: str = ''):
  """The pipeline; see the module docstring for `arg`."""
  args = common.parse_arg(arg, smoke=False, seeds=False)
  c = stages.load('pipeline').default_config()
  if args['seeds']:
    c.seeds = (0, 1, 2)
  steps = {
    'sft': sft(),
    'labels_ai': labels('tiny:l'),
    'labels_same_size': labels('tiny:xs'),
    'labels_human': labels(''),
    'reward_ai': reward('labels_ai', 'tiny:l'),
    'reward_same_size': reward('labels_same_size', 'tiny:xs'),
    'reward_human': reward('labels_human', 'tiny:l'),
    'rlaif': rl('reward_ai'),
    'rlaif_same_size': rl('reward_same_size'),
    'direct_rlaif': direct('tiny:l'),
    'rlhf': rl('reward_human'),
    'evaluate': evaluate(),
  }
  c.steps = ConfigDict(steps, sort_keys=False)
  if args['smoke']:
    shrink(c)
  return c


def _optimizer(block, rate: float):
  block.name, block.learning_rate, block.warmup_steps = 'adam', rate, 10


def sft():
  """SFT on the reference summaries, from the shipped base model."""
  c = stages.load('sft').default_config()
  c.model.path = 'tiny:xs'
  common.tiny_data(c.data, 'train', 8192)
  common.tiny_data(c.eval_data, 'test', 128)
  common.tiny_lengths(c)
  c.batch_size, c.num_steps = 64, 300
  _optimizer(c.optimizer, 1e-3)
  c.optimizer.schedule = 'linear'
  c.eval_every = c.checkpoint.every = 100
  return c


def labels(labeler: str):
  """Two SFT samples a prompt, compared by a labeler or the simulated human."""
  c = stages.load('label').default_config()
  common.tiny_data(c.data, 'rl', 6144)
  c.pairs, c.policy.path = 'samples', 'step:sft'
  common.tiny_lengths(c)
  c.source = 'labeler' if labeler else 'human'
  c.labeler.path, c.labeler.prompt = labeler, 'summary_base'
  c.labeler.max_tokens = 320
  return c


def reward(source: str, start: str):
  """Reward model from the labels of the step `source`.

  It starts from an instruction-tuned model, as the paper's reward models for
  dialogue do (App. G). Two layers are few to check a summary with, so it has
  four, but for same-size RLAIF, where nothing is larger than the policy.
  """
  c = stages.load('reward').default_config()
  c.model.path, c.labels = start, f'step:{source}'
  common.tiny_data(c.eval_data, 'test_preferences', 512)
  common.tiny_lengths(c)
  c.batch_size, c.num_epochs = 64, 2
  _optimizer(c.optimizer, 1e-3)
  c.optimizer.schedule = 'linear'
  return c


def rl(reward_step: str):
  """REINFORCE with a value baseline and KL to SFT against a reward model."""
  c = stages.load('rl').default_config()
  c.policy.path = 'step:sft'
  c.reward.path = f'step:{reward_step}'
  common.tiny_data(c.data, 'rl', 4096)
  common.tiny_lengths(c)
  c.batch_size, c.num_steps = 64, 160
  c.reward_scaling = 'running'  # so that one beta suits all rewards
  c.algorithm_config.beta = 0.15
  _optimizer(c.optimizer, 5e-4)
  _optimizer(c.value_optimizer, 1e-3)
  c.checkpoint.every = 50
  return c


def direct(labeler: str):
  """The same loop, rewarded by the labeler's own 1-10 score."""
  c = rl('')
  c.num_steps, c.algorithm_config.beta = 200, 0.1
  c.reward.name, c.reward.path = 'direct', labeler
  c.reward.prompt, c.reward.max_tokens = 'summary_score', 256
  return c


def evaluate():
  """Everything against SFT, judged by the tiny world's oracle."""
  c = stages.load('evaluate').default_config()
  common.tiny_data(c.data, 'test', 512)
  common.tiny_data(c.human_data, 'test_preferences', 512)
  common.tiny_lengths(c)
  for name in ('sft', 'rlaif', 'rlaif_same_size', 'direct_rlaif', 'rlhf'):
    c.policies[name] = f'step:{name}'
  c.head_to_head = (('rlaif', 'rlhf'), ('direct_rlaif', 'rlaif_same_size'))
  for name in ('ai', 'same_size'):
    c.labels[name] = f'step:labels_{name}'
  for name in ('ai', 'same_size', 'human'):
    c.reward_models[name] = f'step:reward_{name}'
  return c


def shrink(c) -> None:
  """A few steps of everything, so that the real wiring is run in a minute."""
  for step in c.steps.values():
    for block in ('data', 'eval_data', 'human_data'):
      if block in step:
        step[block].size = 24
    for block in ('optimizer', 'value_optimizer'):
      if block in step:
        step[block].warmup_steps = 1
    for field, value in (('num_steps', 3), ('batch_size', 8)):
      if field in step:
        step[field] = value
