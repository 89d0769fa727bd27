"""Supervised fine-tuning of any model on any demonstrations.

The paper's settings (2309.00267, App. G): batch 128, one epoch, Adafactor at
1e-5, 1024 prompt and 128 response tokens. Needs a model and data:

python -m rlaif_jax.main --config=configs/sft.py --workdir=runs/sft \
    --config.model.path=EleutherAI/gpt-neo-125m \
    --config.data.name=tldr --config.data.path=trl-lib/tldr
"""

from configs import common
from rlaif_jax.stages import sft


def get_config(arg: str = ''):
  """`smoke`: a few steps on the tiny world."""
  args = common.parse_arg(arg, smoke=False)
  c = sft.default_config()
  if args['smoke']:
    c.model.path = 'tiny:xs'
    common.tiny_data(c.data, 'train', 32)
    common.tiny_data(c.eval_data, 'test', 8)
    common.tiny_lengths(c)
    c.batch_size, c.num_steps = 8, 3
  return c
