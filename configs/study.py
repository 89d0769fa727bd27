"""RLHF vs RLAIF in small language models, by conversational context.

For each size of model, as in 2309.00267: SFT, reward models from human and from
real AI labels of the same pairs, REINFORCE on both. Then all policies on four
axes by context (everyday, emotional support, sensitive questions, mental
health), with intervals. Beside them the recipe that elsewhere passes for this:
fine-tuning on the chosen responses, called RLHF, and on the rejected ones,
called RLAIF. It is neither RL nor AI feedback, and is reported as what it is.

The tiny world, judged by its oracle; no download, 2 CPU cores, half an hour:

  python -m rlaif_jax.main --config=configs/study.py --workdir=runs/study

GPT-Neo-125M on Dahoas/rm-static, with an instruction-tuned labeler that also
judges; one GPU of 24 GB, hours (not run yet):

  python -m rlaif_jax.main --workdir=runs/neo --config=configs/study.py:\
data=Dahoas/rm-static,models=EleutherAI/gpt-neo-125m,labeler=Qwen/Qwen3-0.6B

  models    sizes, separated by +, such as A/B-70m+A/B-160m
  labeler   labels the pairs; judge, if named, judges in its place
  prompts   a file of `prompt` and `context`, for prompts of your own contexts
  holdout   share of the dialogues to test on, where `data` is one file
  pairs, steps, batch, prompt, response, rate, eval_size   as in paper.py
  smoke     a few steps of everything on the tiny world (a minute)
"""

from ml_collections import ConfigDict

from configs import common
from rlaif_jax import stages

# What scores each axis; see rlaif_jax/stages/_axes.py. The tiny judges know no
# prompts but those of their training, so there the oracle and words do it.
AXES = {
  'harmlessness': 'harmless_score',
  'helpfulness': 'helpful_score',
  'sentiment': 'configs/prompts/sentiment_score.json',
  'empathy': 'configs/prompts/empathy_score.json',
}
TINY_AXES = {
  'harmlessness': 'oracle:harmlessness',
  'helpfulness': 'oracle:fit',
  'sentiment': 'lacks:stupid|idiot|loser',
  'empathy': 'has:sorry you feel|i see you are',
}
NOTES = {
  'only_chosen': (
    'not RL: SFT on the chosen responses, as some studies do under the name '
    'of RLHF'
  ),
  'only_rejected': (
    'not AI feedback: SFT on the rejected responses, as some studies do under '
    'the name of RLAIF'
  ),
}


def get_config(arg: str = ''):
  """The pipeline; see the module docstring for `arg`."""
  args = common.parse_arg(
    arg,
    data='',
    models='tiny:xs+tiny:s',
    labeler='tiny:l',
    judge='',
    prompts='',
    holdout=0.0,
    pairs=3500,
    steps=0,
    batch=64,
    prompt=384,
    response=128,
    rate=1e-5,
    eval_size=512,
    smoke=False,
  )
  if not args['data']:
    args |= dict(prompt=80, response=40, rate=5e-4)
  if args['smoke']:
    args |= dict(pairs=24, batch=8, steps=2, eval_size=16)
  c = stages.load('pipeline').default_config()
  found = {'labels_ai': labels(args)}
  for model in args['models'].split('+'):
    found |= steps(args, model)
  c.steps = ConfigDict(found, sort_keys=False)
  return c


def steps(args, model: str) -> dict:
  """Name -> stage config of one size."""
  size = model.replace(':', '/').rstrip('/').rpartition('/')[2]
  size = size.replace('.', '_')  # names of steps have no dots
  found = {'sft': sft(args, model, '')}
  for side in ('chosen', 'rejected'):
    found[f'only_{side}'] = sft(args, f'step:sft_{size}', side)
  for name, source in (('ai', 'step:labels_ai'), ('human', '')):
    found[f'reward_{name}'] = reward(args, f'step:sft_{size}', source)
  found['rlaif'] = rl(args, size, 'reward_ai')
  found['rlhf'] = rl(args, size, 'reward_human')
  found['evaluate'] = evaluate(args, size)
  return {f'{name}_{size}': block for name, block in found.items()}


def _data(block, args, split: str, count: int):
  """Pairs of one split; the prompts of RL and evaluation are theirs too."""
  block.split, block.size, block.overflow = split, count, 'truncate'
  if args['data']:
    block.name, block.path = 'hh', args['data']
    if args['holdout']:
      block.options.holdout = args['holdout']
      block.split = {'train': 'train', 'test': 'valid'}[split]
    return
  block.name = 'tiny_dialogue'
  block.options.task = 'harmless'
  block.split = {'train': 'preferences', 'test': 'test_preferences'}[split]


def _training(c, args, epochs: int):
  c.max_prompt, c.max_response = args['prompt'], args['response']
  c.batch_size, c.num_steps, c.num_epochs = args['batch'], args['steps'], epochs
  for block in ('optimizer', 'value_optimizer'):
    if block in c:
      c[block].name, c[block].learning_rate = 'adam', args['rate']


def sft(args, start: str, side: str):
  """On the data's responses, or on one side of its pairs."""
  c = stages.load('sft').default_config()
  c.model.path = start
  _data(c.data, args, 'train', args['pairs'])
  _data(c.eval_data, args, 'test', min(128, args['eval_size']))
  for block in (c.data, c.eval_data):
    if side:
      block.options.side = side
  _training(c, args, 3)
  c.overlong_response = 'truncate'
  return c


def labels(args):
  """The data's own pairs, compared by the labeler in both orders."""
  c = stages.load('label').default_config()
  _data(c.data, args, 'train', args['pairs'])
  c.labeler.path = args['labeler']
  c.labeler.prompt = 'harmless_base' if not args['data'] else 'helpful_base'
  c.labeler.max_tokens = 1024
  return c


def reward(args, start: str, source: str):
  """Reward model from the labels of the step `source`, or from the data's."""
  c = stages.load('reward').default_config()
  c.model.path, c.labels = start, source
  _data(c.data, args, 'train', args['pairs'])
  _data(c.eval_data, args, 'test', args['eval_size'])
  _training(c, args, 2)
  return c


def rl(args, size: str, reward_step: str):
  """REINFORCE with a value baseline and KL to SFT."""
  c = stages.load('rl').default_config()
  c.policy.path = f'step:sft_{size}'
  c.reward.path = f'step:{reward_step}_{size}'
  _data(c.data, args, 'train', args['pairs'])
  _training(c, args, 2)
  c.reward_scaling = 'running'
  return c


def evaluate(args, size: str):
  """All policies of one size against its SFT model, by context."""
  c = stages.load('evaluate').default_config()
  _data(c.data, args, 'test', args['eval_size'])
  _data(c.human_data, args, 'test', args['eval_size'])
  c.max_prompt, c.max_response = args['prompt'], args['response']
  c.batch_size = args['batch']
  c.baseline = 'sft'
  for name in ('sft', 'rlhf', 'rlaif', *NOTES):
    c.policies[name] = f'step:{name}_{size}'
  c.notes = NOTES
  c.head_to_head = (('rlaif', 'rlhf'),)
  c.labels.ai = 'step:labels_ai'
  for name in ('ai', 'human'):
    c.reward_models[name] = f'step:reward_{name}_{size}'
  c.evals.contexts = {}
  c.evals.over_refusal = {}
  c.axes = TINY_AXES
  if args['data']:
    c.axes = AXES
    c.judge.name, c.judge.prompt = 'labeler', 'helpful_base'
    c.judge.path = args['judge'] or args['labeler']
    c.judge.max_tokens = 1024
  if args['prompts']:
    c.data.name, c.data.path, c.data.split = 'jsonl', args['prompts'], 'all'
    c.data.size = 0
  return c
