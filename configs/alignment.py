"""Labeler alignment by prompt variant, task and labeler size (2309.00267, 4.2).

The eleven ways of asking of the paper's Table 2, on the human comparisons of
the tiny world's three tasks, by three sizes of labelers that learned them all
(configs/tiny_labelers.py:asked):

python -m rlaif_jax.main --config=configs/alignment.py --workdir=runs/alignment

The labelers of the tiny world's other runs, which never learned exemplars and
rationales, are `:labelers=tiny:xs+tiny:s+tiny:l`. Another labeler on its own
comparisons:

python -m rlaif_jax.main --config=configs/alignment.py --workdir=runs/mine \
    --config.labelers="{'mine': 'MODEL_FOLDER'}" ...
"""

import re

from ml_collections import ConfigDict

from configs import common
from rlaif_jax.stages import alignment
from rlaif_jax.stages import common as blocks


def get_config(arg: str = ''):
  """`smoke`: two variants of one labeler; `pairs=N` of each task; `labelers`,
  separated by +, which are called by the last part of their path.
  """
  args = common.parse_arg(
    arg,
    smoke=False,
    pairs=256,
    labelers='tiny:asked/xs+tiny:asked/s+tiny:asked/l',
  )
  c = alignment.default_config()
  size = 12 if args['smoke'] else args['pairs']
  for name in ('summary', 'helpful', 'harmless'):
    data = blocks.data_config(
      'tiny_tldr' if name == 'summary' else 'tiny_dialogue', 'test_preferences'
    )
    data.size = size
    if name != 'summary':
      data.options = {'task': name}
    c.tasks[name] = data
  paths = ['tiny:asked/xs'] if args['smoke'] else args['labelers'].split('+')
  named = {re.split('[:/]', path.rstrip('/'))[-1]: path for path in paths}
  c.labelers = ConfigDict(named, sort_keys=False)
  c.labeler.exemplars = 'tiny:exemplars'
  c.labeler.max_tokens = 1016
  c.labeler.rationale.max_tokens = 96
  if args['smoke']:
    c.variants = ('base', 'detailed_cot_1shot')
    c.labeler.batch_size, c.labeler.rationale.max_tokens = 8, 8
  return c
