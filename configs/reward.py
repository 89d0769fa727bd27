"""Reward model distilled from soft labels (2309.00267, 2.2.1 and App. G).

python -m rlaif_jax.main --config=configs/reward.py --workdir=runs/reward \
    --config.model.path=runs/sft --config.labels=runs/labels \
    --config.eval_data.name=tldr --config.eval_data.path=COMPARISONS
"""

from configs import common
from rlaif_jax.stages import reward


def get_config(arg: str = ''):
  """`smoke`: a few pairs of the tiny world."""
  args = common.parse_arg(arg, smoke=False)
  c = reward.default_config()
  if args['smoke']:
    c.model.path = 'tiny:xs'
    common.tiny_data(c.data, 'preferences', 32)
    common.tiny_data(c.eval_data, 'test_preferences', 16)
    common.tiny_lengths(c)
    c.batch_size, c.num_steps = 8, 3
  return c
