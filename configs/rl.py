"""REINFORCE with value baseline and KL to SFT (2309.00267, App. E to G).

Against a reward model, or with `:direct` against a labeler's 1-10 scores, or
with `:algorithm=NAME` by another algorithm, at its published settings where
they do not depend on the task (`METHODS` below). With `:shared` values come
from a head on the policy's trunk, in less time and memory:

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

# PyTorch's AdamW with its decay, gradients not clipped (their ppo.py).
_N_PLUS = dict(
  name='adamw',
  learning_rate=3e-6,
  schedule='linear',
  weight_decay=0.01,
  eps=1e-5,
  clip_norm=0.0,
)
_LLAMA_2 = dict(
  name='adamw', learning_rate=1e-6, weight_decay=0.1, b2=0.95, eps=1e-5
)

# Name -> (file in rlaif_jax/algorithms, its options, fields of the stage).
# Where a comment calls a value ours, the source does not have it.
METHODS = {
  'reinforce': ('reinforce', {}, {}),
  # Huang et al. 2024 (2403.17031) and vwxyzjn/summarize_from_feedback_details,
  # TL;DR: four epochs, linear to 0, T 0.7, `value` the reward model; a response
  # without an end scores 1 less (theirs scores -1).
  'ppo': (
    'ppo',
    {},
    {
      'batch_size': 512,
      'optimizer': _N_PLUS,
      'value_optimizer': _N_PLUS,
      'sampling': dict(temperature=0.7),
      'missing_eos_penalty': 1.0,
    },
  ),
  # Ouyang et al. 2022 (2203.02155), appendix C.4: eight minibatches, one epoch,
  # no discount, T 1, warm-up over ten batches, and PPO-ptx; `ptx.data` is the
  # user's, and `value` the reward model, at 9e-6 up to 6B and at 5e-6 for 175B.
  # The policy's rate is ours: runs without ptx diverged above 8.05e-6 (appendix
  # E.9). So is lambda. No moving average of the weights here.
  'instructgpt': (
    'ppo',
    dict(beta=0.02, inner_epochs=1, num_minibatches=8),
    {
      'batch_size': 512,
      'optimizer': dict(
        name='adam', learning_rate=5e-6, b2=0.95, warmup_steps=80
      ),
      'value_optimizer': dict(
        name='adam', learning_rate=9e-6, b2=0.95, warmup_steps=80
      ),
      'sampling': dict(temperature=1.0),
      'ptx': dict(coef=27.8, ratio=8),
    },
  ),
  # Touvron et al. 2023 (2307.09288), section 3.2.3: eight minibatches, one step
  # each; beta is 0.01 for 7B and 13B, 0.005 for larger ones. The reward is
  # gated: `reward.path` and `reward.options.safety`. T, lambda and what is of
  # the value model are ours.
  'llama2': (
    'ppo',
    dict(beta=0.01, inner_epochs=1, num_minibatches=8),
    {
      'batch_size': 512,
      'optimizer': _LLAMA_2,
      'value_optimizer': _LLAMA_2,
      'sampling': dict(temperature=1.0),
      'reward': dict(name='gated'),
    },
  ),
  # Ahmadian et al. 2024 (2402.14740), appendix C, TL;DR: two updates for each
  # batch of 512, beta 0.03, warm-up over 3% of 600 batches; k is 2 or 4. For
  # HH beta is 0.1. Adam, T and the clip of the ratio are ours.
  'rloo': (
    'rloo',
    dict(beta=0.03, group_size=4, num_minibatches=2),
    {
      'batch_size': 512,
      'optimizer': dict(name='adam', learning_rate=1e-6, warmup_steps=36),
    },
  ),
  # Shao et al. 2024 (2402.03300), section 4.2: beta 0.04, 64 samples, batch
  # 1024, one update for each batch. AdamW, T and the clip are ours.
  'grpo': (
    'grpo',
    dict(group_size=64),
    {
      'batch_size': 1024,
      'optimizer': dict(name='adamw', learning_rate=1e-6),
      'sampling': dict(temperature=1.0),
    },
  ),
  # Liu et al. 2025 (2503.20783), as sail-sg/understand-r1-zero's scripts have
  # it: 128 prompts with 8 samples, 8 updates; Adam as in sail-sg/oat's args.py.
  'dr_grpo': (
    'grpo',
    dict(group_size=8, num_minibatches=8, **grpo.VARIANTS['dr_grpo']),
    {
      'batch_size': 1024,
      'optimizer': dict(name='adamw', learning_rate=1e-6, b2=0.95),
      'sampling': dict(temperature=1.0),
    },
  ),
  # Yu et al. 2025 (2503.14476), section 4.1: 512 prompts with 16 samples, 16
  # updates, warm-up over 20 batches; T, the decay and the limit of rounds are
  # of verl's recipe/dapo/run_dapo_qwen2.5_32b.sh. Responses of up to L tokens
  # lose up to 1 over their last C: `reward.length_free` = L - C,
  # `reward.length_penalty` = 1 / C (4096 of 20480 there).
  'dapo': (
    'grpo',
    dict(group_size=16, num_minibatches=16, **grpo.VARIANTS['dapo']),
    {
      'batch_size': 8192,
      'max_sampling_rounds': 10,
      'optimizer': dict(
        name='adamw', learning_rate=1e-6, warmup_steps=320, weight_decay=0.1
      ),
      'sampling': dict(temperature=1.0),
    },
  ),
  # Zheng et al. 2025 (2507.18071), section 5.1: the clip, and four updates for
  # each batch. The rest is ours.
  'gspo': (
    'grpo',
    dict(group_size=16, num_minibatches=4, **grpo.VARIANTS['gspo']),
    {
      'batch_size': 1024,
      'optimizer': dict(name='adamw', learning_rate=1e-6),
      'sampling': dict(temperature=1.0),
    },
  ),
  # Hu 2025 (2501.03262), as OpenRLHF's train_reinforce_llama_ray.sh had it when
  # the paper appeared: one sample a prompt, KL 0.01, eight updates for each
  # batch, and its defaults: warm-up over 3% of 781 updates, cosine to a tenth.
  'reinforce_pp': (
    'reinforce_pp',
    dict(num_minibatches=8),
    {
      'batch_size': 1024,
      'optimizer': dict(
        name='adam',
        learning_rate=5e-7,
        b2=0.95,
        warmup_steps=24,
        schedule='cosine',
        end_share=0.1,
      ),
      'sampling': dict(temperature=1.0),
    },
  ),
  # Guo et al. 2024 (2402.04792), section 4: two samples a prompt, 128 prompts,
  # T 0.9. Its rewards/pairwise.py wants a pairwise reward.prompt.
  'online_dpo': (
    'online_dpo',
    dict(beta=0.1),
    {
      'batch_size': 256,
      'optimizer': dict(name='adafactor', learning_rate=5e-7, warmup_steps=150),
      'sampling': dict(temperature=0.9),
      'reward': dict(name='pairwise', prompt='summary_detailed'),
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
  reward model; `shared`: policy and value on one trunk; `smoke`: a few steps of
  it on the tiny world.
  """
  args = common.parse_arg(
    arg, direct=False, algorithm='reinforce', shared=False, smoke=False
  )
  c = rl.default_config()
  use(c, args['algorithm'])
  if args['shared']:
    c.shared_trunk = True
    if 'value_coef' in c.algorithm_config:
      c.algorithm_config.value_coef = 0.1
  pairwise = c.reward.name == 'pairwise' and not args['direct']
  if args['direct'] or (args['smoke'] and not pairwise):
    c.reward.name, c.reward.prompt = 'direct', 'summary_score'
  if args['smoke']:
    c.policy.path = c.reward.path = 'tiny:xs'
    c.reward.max_tokens, c.reward.batch_size = 256, 8
    if pairwise:
      c.reward.prompt, c.reward.max_tokens = 'summary_base', 320
    common.tiny_data(c.data, 'rl', 32)
    common.tiny_lengths(c)
    c.batch_size, c.num_steps, c.optimizer.warmup_steps = 8, 3, 0
    if c.ptx.coef:
      common.tiny_data(c.ptx.data, 'train', 16)
    for name in {'group_size', 'num_minibatches'} & set(c.algorithm_config):
      c.algorithm_config[name] = min(c.algorithm_config[name], 2)
  return c
