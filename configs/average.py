"""Weight-averaged reward models, WARM (2401.12187), for RLAIF (2309.00267).

Of reward models that started from one model and saw the same labels, with
other seeds and learning rates (configs/reward.py):

python -m rlaif_jax.main --config=configs/average.py --workdir=runs/warm \
    --config.models="('runs/reward_1', 'runs/reward_2')" \
    --config.data.name=tldr --config.data.path=COMPARISONS
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
