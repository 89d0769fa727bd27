"""The labelers that ship with the tiny world, trained from scratch.

python -m rlaif_jax.main --config=configs/tiny_labelers.py:size=l \
    --workdir=runs/labeler_l

Sizes xs, s and l are the counterparts of PaLM 2 XS, S and L in the paper
(2309.00267, 4.3). The resulting `model/` folders are what
`tiny:xs`, `tiny:s` and `tiny:l` name. They know prompts without exemplars and
rationales; with `asked` one of them goes on to learn all eleven ways of asking,
most of an hour on a CPU core. That gives `tiny:asked/xs` and so on:

python -m rlaif_jax.main --config=configs/tiny_labelers.py:size=l,asked \
    --workdir=runs/asked/l

`launch/ship_labelers.sh` makes all six and puts them in place.
"""

from ml_collections import ConfigDict

from configs import common
from rlaif_jax import stages
from rlaif_jax.stages import _tiny_texts as texts
from rlaif_jax.stages import tiny_labeler

# Layers, and steps of judge, early and labeler. All sizes are 96 wide and share
# the first two steps of training, of two layers.
SIZES = {'xs': (2, 600, 2000, 4000), 'l': (4, 1500, 5000, 3200)}
S_STEPS = 1500  # s is xs with a third layer, trained on
ASKED_STEPS = {'xs': 1200, 's': 1700, 'l': 1500}


def get_config(arg: str = ''):
  """Config of one size: `size=xs|s|l`, `asked`; `smoke` for a few steps."""
  args = common.parse_arg(arg, size='xs', asked=False, smoke=False)
  size = args['size']
  if size not in ('xs', 's', 'l'):
    raise ValueError(f'size={size!r}; use one of xs, s, l')
  if args['asked']:
    return asked(size, args['smoke'])
  layers, *steps = SIZES['l' if size == 'l' else 'xs']
  found = {
    'lookup': step(2, texts.LOOKUP_MIX, 1600),
    'base': step(2, texts.BASE_MIX, 800, 'step:lookup'),
    'judge': step(layers, texts.JUDGE_MIX, steps[0], 'step:base'),
    'early': step(layers, texts.EARLY_MIX, steps[1], 'step:judge'),
    'labeler': step(layers, texts.LABELER_MIX, steps[2], 'step:early'),
  }
  if size == 's':
    found['xs'] = found.pop('labeler')
    found['labeler'] = step(3, texts.LABELER_MIX, S_STEPS, 'step:xs')
    found['labeler'].seed = 1
  c = stages.load('pipeline').default_config()
  c.steps = ConfigDict(found, sort_keys=False)
  for name, block in c.steps.items():
    if name in ('lookup', 'judge'):
      block.max_response, block.optimizer.schedule = 32, 'constant'
    if name not in ('lookup', 'base'):
      block.optimizer.learning_rate = 2e-3
      block.loss_mean = 'row'  # a verdict is one token among texts of twenty
    if name in ('labeler', 'xs'):
      block.seed += 1  # other texts than before
      block.num_texts = min(200000, block.batch_size * block.num_steps)
    if args['smoke']:
      shrink(block)
  return c


def asked(size: str, smoke: bool):
  """The shipped labeler `size` on all eleven ways of asking."""
  layers = {'xs': 2, 's': 3, 'l': 4}[size]
  c = step(layers, texts.ASKED_MIX, ASKED_STEPS[size], f'tiny:{size}')
  c.max_prompt, c.max_response = 912, 112  # exemplars and rationales
  c.optimizer.learning_rate, c.loss_mean = 1.5e-3, 'row'
  c.seed, c.num_texts = 2, c.batch_size * c.num_steps
  c.model.remat = False
  c.eval_every = c.checkpoint.every = 500
  if smoke:
    shrink(c)
  return c


def shrink(c) -> None:
  """A few steps."""
  c.num_steps, c.num_texts, c.batch_size = 4, 400, 8
  c.optimizer.warmup_steps = 1


def step(layers: int, mix, steps: int, start: str = ''):
  """One training step of the pipeline, on the texts of `mix`."""
  c = tiny_labeler.default_config()
  c.model.path = start
  c.mix = ConfigDict(dict(mix), sort_keys=False)
  c.architecture.hidden_size = 96
  c.architecture.intermediate_size = 256
  c.architecture.num_hidden_layers = layers
  c.architecture.num_attention_heads = 3
  c.architecture.num_key_value_heads = 3
  c.architecture.rope_theta = 100000.0
  c.max_prompt, c.max_response = 480, 56
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
