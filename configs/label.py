"""Preference labels by a labeler, both orders averaged (2309.00267, 2.1).

On pairs that the data set brings, or on two fresh samples of a policy:

python -m rlaif_jax.main --config=configs/label.py --workdir=runs/labels \
    --config.labeler.path=HF_FOLDER_OR_ID \
    --config.data.name=jsonl --config.data.path=pairs.jsonl
"""

from configs import common
from rlaif_jax.stages import label


def get_config(arg: str = ''):
  """`smoke`: a few pairs of the tiny world."""
  args = common.parse_arg(arg, smoke=False)
  c = label.default_config()
  if args['smoke']:
    common.tiny_data(c.data, 'preferences', 16)
    c.labeler.path, c.labeler.batch_size = 'tiny:xs', 8
    c.labeler.prompt, c.labeler.max_tokens = 'summary_base', 320
  return c
