"""Reward model distilled from soft labels (2309.00267, 2.2.1 and App. G).

python -m rlaif_jax.main --config=configs/reward.py --workdir=runs/reward \
    --config.model.path=runs/sft --config.labels=runs/labels \
    --config.eval_data.name=tldr --config.eval_data.path=COMPARISONS

With `:loss=NAME` by the loss of others, at its published settings (`METHODS`
below): `margin` of Llama 2, from graded preferences (2307.09288), or from how
sure an AI labeler is (`margin_label`); `kway` of InstructGPT, from rankings
(2203.02155). Human labels beside AI labels, three of these to one of those, and
pairs of like length:

python -m rlaif_jax.main --config=configs/reward.py --workdir=runs/mixed \
    --config.model.path=runs/sft --config.labels=runs/labels_ai \
    --config.mix.labels="('runs/labels_human',)" \
    --config.mix.counts="(3000, 1000)" --config.length_gap=0.2 \
    --config.eval_data.name=tldr --config.eval_data.path=COMPARISONS
"""

from configs import common
from rlaif_jax.stages import reward

# 2307.09288, section 3.2.2: one epoch, 5e-6 for 70B and 1e-5 else, cosine to a
# tenth, warm-up over 3% of the steps but 5 at least (5 is right for up to 166),
# 512 pairs; AdamW as in pretraining (section 2.2).
_LLAMA_2 = dict(
  batch_size=512,
  num_epochs=1,
  optimizer=dict(
    name='adamw',
    learning_rate=1e-5,
    warmup_steps=5,
    schedule='cosine',
    end_share=0.1,
    weight_decay=0.1,
    b2=0.95,
    eps=1e-5,
  ),
)

# Name -> (loss, its options, fields of the stage), as published.
METHODS = {
  'soft': ('soft', {}, {}),
  'margin': ('margin', dict(grades='small'), _LLAMA_2),
  'margin_large': ('margin', dict(grades='large'), _LLAMA_2),
  # Of labels that are soft and not graded: the surer, the larger.
  'margin_label': ('margin', dict(key=''), {}),
  # 2203.02155, appendix C.2: one epoch, 64 prompts of 4 to 9 responses, 9e-6,
  # cosine to a tenth; Adam's b2 is that of all its models (appendix C). Its
  # demonstrations score 0 (section 3.5).
  'kway': (
    'kway',
    {},
    dict(
      batch_size=64,
      num_epochs=1,
      optimizer=dict(
        name='adam',
        learning_rate=9e-6,
        schedule='cosine',
        end_share=0.1,
        b2=0.95,
      ),
      demonstrations=dict(name='tldr'),
    ),
  ),
}


def get_config(arg: str = ''):
  """`loss`: a key of `METHODS`; `smoke`: a few pairs of the tiny world."""
  args = common.parse_arg(arg, loss='soft', smoke=False)
  if args['loss'] not in METHODS:
    raise ValueError(
      f'loss={args["loss"]!r} is unknown; there are: {", ".join(METHODS)}'
    )
  c = reward.default_config()
  c.loss, c.loss_options, fields = METHODS[args['loss']]
  c.update(fields)
  if args['smoke']:
    c.model.path = 'tiny:xs'
    common.tiny_data(c.data, 'preferences', 32)
    common.tiny_data(c.eval_data, 'test_preferences', 16)
    if c.demonstrations.name:
      common.tiny_data(c.demonstrations, 'train', 16)
    if c.loss == 'margin':
      c.loss_options = {**c.loss_options, 'key': ''}  # they have no grades
    common.tiny_lengths(c)
    c.batch_size, c.num_steps, c.optimizer.warmup_steps = 8, 3, 0
  return c
