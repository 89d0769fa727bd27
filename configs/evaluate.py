"""Several policies against a baseline, judged by a labeler (2309.00267, 3.3).

python -m rlaif_jax.main --config=configs/evaluate.py --workdir=runs/evaluate \
    --config.policies.sft=runs/sft --config.policies.rlaif=runs/rl \
    --config.judge.path=LABELER --config.data.name=tldr --config.data.path=POSTS
"""

from configs import common
from rlaif_jax.stages import evaluate


def get_config(arg: str = ''):
  """`smoke`: the shipped models on the tiny world, judged by its oracle."""
  args = common.parse_arg(arg, smoke=False)
  c = evaluate.default_config()
  c.judge.name = 'labeler'
  c.policies.sft = ''
  c.policies.rlaif = ''
  if args['smoke']:
    c.judge.name = 'oracle'
    c.policies.sft, c.policies.rlaif = 'tiny:xs', 'tiny:l'
    common.tiny_data(c.data, 'test', 16)
    common.tiny_lengths(c)
    c.batch_size = 8
  return c
