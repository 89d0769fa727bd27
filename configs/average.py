"""Weight-averaged reward models, WARM (2401.12187), for RLAIF (2309.00267).

Of reward models that started from one model and saw the same labels, with
other seeds and learning rates (configs/reward.py):

python -m rlaif_jax.main --config=configs/average.py --workdir=runs/warm \
    --config.models="('runs/reward_1', 'runs/reward_2')" \
    --config.data.name=tldr --config.data.path=COMPARISONS

In the paper (appendix B.3) the plain mean of the best 2, 6 or 10 of ten models,
each 10k steps of batch 128 with Adafactor, at 1e-5, 4e-5 or 1e-4, with dropout
of 0.05 or 0.1 (there is none here), from SFT checkpoints of 8k, 10k or 12k
steps. Its RL is configs/rl.py with a KL weight of 0.003.
"""

from configs import common
from rlaif_jax.stages import average


def get_config(arg: str = ''):
  """`smoke`: two language models that ship with the package."""
  args = common.parse_arg(arg, smoke=False)
  c = average.default_config()
  if args['smoke']:
    c.models = ('tiny:xs', 'tiny:xs')
    common.tiny_data(c.data, 'test_preferences', 16)
    common.tiny_lengths(c)
    c.batch_size = 8
  return c
