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

# Transformers' AdamW, as the trainers of SimPO and ORPO use it.
_ADAMW = dict(name='adamw', b1=0.9, b2=0.999, schedule='cosine', clip_norm=1.0)

# Name -> (loss, its options, fields of the stage), as published. Where a
# comment calls a value ours, the source does not have it.
METHODS = {
  # Rafailov et al. 2023 (2305.18290), appendix B: 0.5 for TL;DR, 0.1 else.
  'dpo': ('dpo', dict(beta=0.1), {}),
  'dpo_tldr': ('dpo', dict(beta=0.5), {}),
  # Mitchell 2023: labels are taken to be flipped with this probability; it is
  # to be below 0.5, and 0.1 is ours.
  'cdpo': ('dpo', dict(beta=0.1, smoothing=0.1), {}),
  # Azar et al. 2023 (2310.12036), with bandits alone: tau is ours.
  'ipo': ('ipo', dict(tau=0.1), {}),
  # Meng et al. 2024 (2405.14734), table 8, and princeton-nlp/SimPO,
  # training_configs/llama-3-8b-base-simpo.yaml: gamma is half of beta, 128
  # pairs, a tenth of the 478 steps to warm up.
  'simpo': (
    'simpo',
    dict(beta=2.0, gamma=1.0),
    dict(
      batch_size=128,
      optimizer=dict(learning_rate=6e-7, warmup_steps=48, **_ADAMW),
    ),
  ),
  # Ethayarajh et al. 2024 (2402.01306): 32 responses, which are 16 pairs, and
  # DPO's RMSprop at 5e-7 (ContextualAI/HALOs, config/config.yaml of January
  # 2024); for new runs the paper advises AdamW at 5e-6.
  'kto': (
    'kto',
    dict(beta=0.1),
    dict(batch_size=16, optimizer=dict(learning_rate=5e-7)),
  ),
  # Hong et al. 2024 (2403.07691), appendix C, which has no SFT stage before it;
  # lambda is of Mistral (section 6.1), and what was the best of the ten epochs
  # was kept. Warm-up and batch are of xfactlab/orpo's
  # scripts/run_mistral_orpo_beta.sh: 8 pairs on each of 4 chips.
  'orpo': (
    'orpo',
    dict(beta=0.1),
    dict(
      batch_size=32,
      num_epochs=10,
      optimizer=dict(learning_rate=8e-6, warmup_steps=200, **_ADAMW),
    ),
  ),
  # Hejna et al. 2023 (2310.13639), jhejna/cpl, configs/mw_state_dense/cpl.yaml:
  # alpha and lambda. Its Adam at 1e-4 with 96 segments was for small networks
  # that move robots; here the rest is DPO's.
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
