"""The `reward` block of a stage: which reward, its options, and its length."""

from ml_collections import ConfigDict

from rlaif_jax import rewards
from rlaif_jax.rewards import Reward, _length_penalty
from rlaif_jax.stages import _options

_PENALTY = ('length_penalty', 'length_free')


def config() -> ConfigDict:
  """The reward model of the canonical method."""
  return ConfigDict(
    dict(
      name='reward_model',  # rlaif_jax/rewards/<name>.py
      path='',  # reward model, or labeler for name='direct'
      # Its `Config`: --config.reward.options="{'others': ('runs/reward_b',)}"
      options=ConfigDict(convert_dict=False),
      # Off the score for each token of a response beyond the first
      # `length_free`, whatever the reward.
      length_penalty=0.0,
      length_free=0,
      prompt='summary_score',  # labeling prompt of name='direct'
      max_tokens=4096,  # of a labeling prompt, for name='direct'
      batch_size=64,  # rows scored at once, for name='direct'
      dtype='float32',
      # Of its weights, and those of others in `options`: '' = as in the files,
      # 'bfloat16', 'int8', ...
      param_dtype='',
      offload=False,  # they wait in host memory between rollouts
    )
  )


def check(block: ConfigDict) -> None:
  """What can be known to be wrong with the block before a model is loaded.

  Raises:
    ValueError: there is no such reward or option, or a value is not allowed;
      names the key.
  """
  module = rewards.load(block.name)
  key = 'config.reward.options'
  if hasattr(module, 'Config'):
    _options.build(module.Config, block.options, key)
  elif block.options:
    first = next(iter(block.options))
    raise ValueError(f'{key}.{first}: {block.name!r} has no options')
  for name in _PENALTY:
    if not block[name] >= 0:
      raise ValueError(f'config.reward.{name}={block[name]} is below 0')


def make(block: ConfigDict, *, policy_tokenizer, mesh, rules) -> Reward:
  """The block's reward, its models on the mesh."""
  reward = rewards.load(block.name).make(
    block, policy_tokenizer=policy_tokenizer, mesh=mesh, rules=rules
  )
  if not block.length_penalty:
    return reward
  return _length_penalty.LengthPenalty(
    reward, block.length_penalty, block.length_free
  )
