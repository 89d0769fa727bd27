"""REINFORCE with value baseline and KL to SFT (2309.00267, App. E to G).

Against a reward model, or with `:direct` against a labeler's 1-10 scores:

python -m rlaif_jax.main --config=configs/rl.py --workdir=runs/rl \
    --config.policy.path=runs/sft --config.reward.path=runs/reward \
    --config.data.name=tldr --config.data.path=POSTS
python -m rlaif_jax.main --config=configs/rl.py:direct --workdir=runs/direct \
    --config.policy.path=runs/sft --config.reward.path=LABELER \
    --config.data.name=tldr --config.data.path=POSTS
"""

from configs import common
from rlaif_jax.stages import rl


def get_config(arg: str = ''):
  """`direct`: direct RLAIF; `smoke`: a few steps of it on the tiny world."""
  args = common.parse_arg(arg, direct=False, smoke=False)
  c = rl.default_config()
  if args['direct'] or args['smoke']:
    c.reward.name = 'direct'
  if args['smoke']:
    c.policy.path = c.reward.path = 'tiny:xs'
    c.reward.max_tokens, c.reward.batch_size = 256, 8
    common.tiny_data(c.data, 'rl', 32)
    common.tiny_lengths(c)
    c.batch_size, c.num_steps = 8, 3
  return c
