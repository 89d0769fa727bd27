"""DPO, IPO, cDPO, SimPO, KTO, ORPO or CPL on preferences, hard or soft.

On the labels of an AI labeler (2309.00267, section 2.1), or a data set's own:

python -m rlaif_jax.main --config=configs/preference.py --workdir=runs/dpo \
    --config.policy.path=runs/sft --config.labels=runs/labels \
    --config.eval_data.name=tldr --config.eval_data.path=COMPARISONS
python -m rlaif_jax.main --config=configs/preference.py:loss=ipo \
    --workdir=runs/ipo --config.policy.path=runs/sft \
    --config.labels=runs/labels \
    --config.eval_data.name=tldr --config.eval_data.path=COMPARISONS
"""

from configs import common
from rlaif_jax.stages import preference

# Name -> (loss, its options, fields of the stage), as published.
METHODS = {
  # Rafailov et al. 2023 (2305.18290), appendix B: 0.5 for TL;DR, 0.1 else.
  'dpo': ('dpo', dict(beta=0.1), {}),
  'dpo_tldr': ('dpo', dict(beta=0.5), {}),
  # Mitchell 2023: labels are taken to be flipped with this probability.
  'cdpo': ('dpo', dict(beta=0.1, smoothing=0.1), {}),
  # Azar et al. 2023 (2310.12036).
  'ipo': ('ipo', dict(tau=0.1), {}),
  # Meng et al. 2024 (2405.14734), of Llama-3-Base: gamma is half of beta, 128
  # pairs, cosine with a tenth of the 478 steps to warm up.
  'simpo': (
    'simpo',
    dict(beta=2.0, gamma=1.0),
    dict(
      batch_size=128,
      optimizer=dict(
        name='adamw',
        learning_rate=6e-7,
        schedule='cosine',
        warmup_steps=48,
        b1=0.9,
        b2=0.999,
      ),
    ),
  ),
  # Ethayarajh et al. 2024 (2402.01306).
  'kto': ('kto', dict(beta=0.1), dict(optimizer=dict(learning_rate=5e-7))),
  # Hong et al. 2024 (2403.07691), which has no SFT stage before it.
  'orpo': (
    'orpo',
    dict(beta=0.1),
    dict(optimizer=dict(learning_rate=8e-6, b1=0.9, b2=0.999)),
  ),
  # Hejna et al. 2023 (2310.13639).
  'cpl': ('cpl', dict(alpha=0.1, bias=0.5), {}),
}


def get_config(arg: str = ''):
  """`loss`: a key of `METHODS`; `smoke`: a few pairs of the tiny world."""
  args = common.parse_arg(arg, loss='dpo', smoke=False)
  if args['loss'] not in METHODS:
    raise ValueError(
      f'loss={args["loss"]!r} is unknown; there are: {", ".join(METHODS)}'
    )
  c = preference.default_config()
  c.loss, c.loss_options, fields = METHODS[args['loss']]
  c.update(fields)
  if args['smoke']:
    c.policy.path = 'tiny:xs'
    common.tiny_data(c.data, 'preferences', 32)
    common.tiny_data(c.eval_data, 'test_preferences', 16)
    common.tiny_lengths(c)
    c.batch_size, c.num_steps, c.optimizer.warmup_steps = 8, 3, 0
  return c
