"""Several policies against a baseline, judged by a labeler (2309.00267, 3.3).

python -m rlaif_jax.main --config=configs/evaluate.py --workdir=runs/evaluate \
    --config.policies.sft=runs/sft --config.policies.rlaif=runs/rl \
    --config.judge.path=LABELER --config.data.name=tldr --config.data.path=POSTS

Responses in a file, of any origin, need no policies: rows of `prompt` and
`responses` {name: text}, as an evaluation writes them to samples.jsonl. Below,
by what is in the text alone; compared by a labeler, in both orders; and by
people. With judge=file, by the `scores` {name: number} that the rows have.

python -m rlaif_jax.main --workdir=runs/texts \
    --config=configs/evaluate.py:samples=samples.jsonl,baseline=sft
python -m rlaif_jax.main --workdir=runs/judged \
    --config=configs/evaluate.py:samples=runs/evaluate,judge=labeler \
    --config.judge.path=LABELER --config.judge.prompt=summary_detailed
python -m rlaif_jax.main --workdir=runs/rated \
    --config=configs/evaluate.py:samples=runs/evaluate,judge=human \
    --config.judge.path=runs/evaluate/rating.key.json \
    --config.judge.ratings="('ratings-ann.json', 'ratings-bob.json')"

  evals   evaluators beside the usual ones, separated by +, such as
          overlap+perplexity+ranking (perplexity wants --config.reader.path)
"""

from configs import common
from rlaif_jax.stages import evaluate

# What needs nobody who prefers one response.
TEXT = ('text', 'overlap')


def get_config(arg: str = ''):
  """`smoke`: the shipped models on the tiny world, judged by its oracle."""
  args = common.parse_arg(
    arg, samples='', judge='', baseline='sft', evals='', smoke=False
  )
  c = evaluate.default_config()
  c.judge.name = args['judge'] or 'labeler'
  c.baseline = args['baseline']
  if args['samples']:
    c.samples = args['samples']
    c.judge.name = args['judge'] or 'none'
    if not args['judge']:
      c.evals = {name: {} for name in TEXT}
  else:
    c.policies.sft = ''
    c.policies.rlaif = ''
  for name in filter(None, args['evals'].split('+')):
    c.evals[name] = {}
  if args['smoke']:
    c.judge.name = 'oracle'
    c.policies.sft, c.policies.rlaif = 'tiny:xs', 'tiny:l'
    common.tiny_data(c.data, 'test', 16)
    common.tiny_lengths(c)
    c.batch_size = 8
  return c
