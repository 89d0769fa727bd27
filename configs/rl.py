"""REINFORCE with value baseline and KL to SFT (2309.00267, App. E to G).

Against a reward model, or with `:direct` against a labeler's 1-10 scores, or
with `:algorithm=NAME` by another algorithm, at its published settings where
they do not depend on the task (`METHODS` below):

python -m rlaif_jax.main --config=configs/rl.py --workdir=runs/rl \
    --config.policy.path=runs/sft --config.reward.path=runs/reward \
    --config.data.name=tldr --config.data.path=POSTS
python -m rlaif_jax.main --config=configs/rl.py:direct --workdir=runs/direct \
    --config.policy.path=runs/sft --config.reward.path=LABELER \
    --config.data.name=tldr --config.data.path=POSTS
python -m rlaif_jax.main --config=configs/rl.py:algorithm=rloo \
    --workdir=runs/rloo --config.policy.path=runs/sft \
    --config.reward.path=runs/reward \
    --config.data.name=tldr --config.data.path=POSTS
"""

import dataclasses

from ml_collections import ConfigDict

from configs import common
from rlaif_jax import algorithms
from rlaif_jax.algorithms import grpo
from rlaif_jax.stages import rl

# Name -> (file in rlaif_jax/algorithms, its options, fields of the stage).
METHODS = {
  'reinforce': ('reinforce', {}, {}),
  # Huang et al. 2024 (2403.17031), TL;DR: four epochs, linear to 0, T 0.7, a
  # response without an end scores 1 less.
  'ppo': (
    'ppo',
    {},
    {
      'batch_size': 512,
      'optimizer': dict(name='adam', learning_rate=3e-6, schedule='linear'),
      'value_optimizer': dict(
        name='adam', learning_rate=3e-6, schedule='linear'
      ),
      'sampling': dict(temperature=0.7),
      'missing_eos_penalty': 1.0,
    },
  ),
  # Ahmadian et al. 2024 (2402.14740): k = 4, one epoch.
  'rloo': ('rloo', {}, {'optimizer': dict(name='adam', learning_rate=1e-6)}),
  # Shao et al. 2024 (2402.03300), section 4.2: 64 samples, batch 1024, one
  # update for each batch, T 1.
  'grpo': (
    'grpo',
    dict(group_size=64),
    {
      'batch_size': 1024,
      'optimizer': dict(name='adamw', learning_rate=1e-6),
      'sampling': dict(temperature=1.0),
    },
  ),
  # Liu et al. 2025 (2503.20783): 128 prompts with 8 samples.
  'dr_grpo': (
    'grpo',
    dict(group_size=8, **grpo.VARIANTS['dr_grpo']),
    {
      'batch_size': 1024,
      'optimizer': dict(name='adamw', learning_rate=1e-6),
      'sampling': dict(temperature=1.0),
    },
  ),
  # Yu et al. 2025 (2503.14476): 512 prompts with 16 samples, 16 updates.
  'dapo': (
    'grpo',
    dict(group_size=16, num_minibatches=16, **grpo.VARIANTS['dapo']),
    {
      'batch_size': 8192,
      'optimizer': dict(name='adamw', learning_rate=1e-6, warmup_steps=320),
      'sampling': dict(temperature=1.0),
    },
  ),
  # Zheng et al. 2025 (2507.18071): four updates for each batch. The number of
  # samples is not in the paper.
  'gspo': (
    'grpo',
    dict(group_size=16, num_minibatches=4, **grpo.VARIANTS['gspo']),
    {
      'batch_size': 1024,
      'optimizer': dict(name='adamw', learning_rate=1e-6),
      'sampling': dict(temperature=1.0),
    },
  ),
  # Hu 2025 (2501.03262): one sample a prompt, KL 0.01.
  'reinforce_pp': (
    'reinforce_pp',
    {},
    {
      'optimizer': dict(name='adam', learning_rate=5e-7),
      'sampling': dict(temperature=1.0),
    },
  ),
}


def use(c, method: str) -> None:
  """Makes the RL config `c` one of `method`, a key of `METHODS`."""
  if method not in METHODS:
    raise ValueError(
      f'algorithm={method!r} is unknown; there are: {", ".join(METHODS)}'
    )
  c.algorithm, options, fields = METHODS[method]
  c.algorithm_config = ConfigDict(
    dataclasses.asdict(algorithms.load(c.algorithm).Config(**options))
  )
  c.update(fields)


def get_config(arg: str = ''):
  """`algorithm`: a key of `METHODS`; `direct`: direct RLAIF instead of a
  reward model; `smoke`: a few steps of it on the tiny world.
  """
  args = common.parse_arg(arg, direct=False, algorithm='reinforce', smoke=False)
  c = rl.default_config()
  use(c, args['algorithm'])
  if args['direct'] or args['smoke']:
    c.reward.name = 'direct'
  if args['smoke']:
    c.policy.path = c.reward.path = 'tiny:xs'
    c.reward.max_tokens, c.reward.batch_size = 256, 8
    common.tiny_data(c.data, 'rl', 32)
    common.tiny_lengths(c)
    c.batch_size, c.num_steps = 8, 3
    for name in {'group_size', 'num_minibatches'} & set(c.algorithm_config):
      c.algorithm_config[name] = min(c.algorithm_config[name], 2)
  return c
