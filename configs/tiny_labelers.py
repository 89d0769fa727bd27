"""The labelers that ship with the tiny world, trained from scratch.

python -m rlaif_jax.main --config=configs/tiny_labelers.py:size=l \
    --workdir=runs/labeler_l

Sizes xs, s and l are the counterparts of PaLM 2 XS, S and L in the paper
(2309.00267, 4.3). The resulting `model/` folders are what
`tiny:xs` and `tiny:l` name; `launch/ship_labelers.sh` makes all
three and puts them in place.
"""

from ml_collections import ConfigDict

from configs import common
from rlaif_jax import stages
from rlaif_jax.stages import tiny_labeler

# width, MLP width, layers, heads, steps as base, steps as labeler
SIZES = {
  'xs': (96, 256, 2, 3, 1000, 400),
  's': (96, 256, 3, 3, 500, 1000),
  'l': (112, 320, 4, 4, 500, 2000),
}


def get_config(arg: str = ''):
  """Config of one size: `size=xs|s|l`; `smoke` for a few steps."""
  args = common.parse_arg(arg, size='xs', smoke=False)
  *shape, base_steps, labeler_steps = SIZES[args['size']]
  base = step(shape, tiny_labeler.BASE_MIX, base_steps)
  labeler = step(shape, tiny_labeler.LABELER_MIX, labeler_steps)
  labeler.model.path = 'step:base'
  c = stages.load('pipeline').default_config()
  c.steps = ConfigDict({'base': base, 'labeler': labeler}, sort_keys=False)
  if args['smoke']:
    for block in c.steps.values():
      block.num_steps, block.num_texts, block.batch_size = 4, 400, 8
      block.optimizer.warmup_steps = 1
  return c


def step(shape, mix, steps: int):
  """One training step of the pipeline, on the texts of `mix`."""
  width, mlp, layers, heads = shape
  c = tiny_labeler.default_config()
  c.mix = ConfigDict(dict(mix), sort_keys=False)
  c.architecture.hidden_size = width
  c.architecture.intermediate_size = mlp
  c.architecture.num_hidden_layers = layers
  c.architecture.num_attention_heads = heads
  c.architecture.num_key_value_heads = heads
  c.architecture.rope_theta = 100000.0
  c.max_prompt, c.max_response = 480, 48
  c.batch_size, c.num_steps = 32, steps
  c.num_texts = min(120000, c.batch_size * c.num_steps)
  c.optimizer.name = 'muon'
  c.optimizer.learning_rate = 3e-3
  c.optimizer.warmup_steps = 100
  c.optimizer.schedule = 'cosine'
  c.optimizer.weight_decay = 0.01
  c.optimizer.b2 = 0.99
  c.model.remat = True
  c.eval_every = c.checkpoint.every = 250
  return c
