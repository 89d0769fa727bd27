"""The labelers that ship with the tiny world, trained from scratch.

python -m rlaif_jax.main --config=configs/tiny_labelers.py:size=l \
    --workdir=runs/labeler_l

Sizes xs, s and l are the counterparts of PaLM 2 XS, S and L in the paper
(2309.00267, 4.3). The resulting `model/` folders, in bfloat16, are what
`tiny:xs`, `tiny:s` and `tiny:l` name. `launch/ship_labelers.sh` runs all three
and puts them in place.
"""

from configs import common
from rlaif_jax.stages import tiny_labeler

# width, MLP width, layers, heads, steps, learning rate
SIZES = {
  'xs': (96, 256, 2, 4, 5000, 2e-3),
  's': (128, 384, 3, 4, 5000, 2e-3),
  'l': (192, 512, 4, 6, 6000, 1.5e-3),
}


def get_config(arg: str = ''):
  """Config of one size: `size=xs|s|l`; `smoke` for a few steps."""
  args = common.parse_arg(arg, size='xs', smoke=False)
  width, mlp, layers, heads, steps, rate = SIZES[args['size']]
  c = tiny_labeler.default_config()
  c.architecture.hidden_size = width
  c.architecture.intermediate_size = mlp
  c.architecture.num_hidden_layers = layers
  c.architecture.num_attention_heads = heads
  c.architecture.num_key_value_heads = heads
  c.max_prompt = 480
  c.max_response = 32
  c.batch_size = 64
  c.num_texts = 160000
  c.num_steps = steps
  c.optimizer.name = 'adamw'
  c.optimizer.learning_rate = rate
  c.optimizer.warmup_steps = 200
  c.optimizer.schedule = 'cosine'
  c.optimizer.weight_decay = 0.01
  c.optimizer.b2 = 0.99
  c.eval_every = 500
  c.checkpoint.every = 500
  if args['smoke']:
    c.num_steps, c.num_texts, c.batch_size = 4, 400, 8
    c.optimizer.warmup_steps = 1
  return c
