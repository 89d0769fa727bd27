"""The main job on real data, with the paper's settings (2309.00267, App. E-G).

Batch 128, Adafactor at 1e-5, T = 0.9, beta = 0.05, 1024 + 128 tokens; SFT one
epoch, reward models three, RL eight. The paper ran PaLM 2 XS with an L labeler
on TPUs; a 2B policy with a 9B labeler wants 8 chips of 80 GB, or a v5e-32.

python -m rlaif_jax.main --workdir=runs/tldr \
    --config=configs/paper.py:task=tldr,model=google/gemma-2b,labeler=ORG/NAME

Your own data and models by path, and a smaller run by batch, steps and lengths:

python -m rlaif_jax.main --workdir=runs/mine --config=configs/paper.py:\
task=tldr,posts=posts.jsonl,pairs=train.jsonl,valid=valid.jsonl,\
model=MODEL_FOLDER,labeler=LABELER_FOLDER,batch=16,steps=50,prompt=384,response=64

  posts   prompts and demonstrations, for SFT, RL and evaluation
  pairs   comparisons with human labels; the labeler labels the same pairs
  valid   held-out comparisons, for the accuracy of reward models

task is tldr (summarization), helpful or harmless (dialogues). For dialogues one
file serves all three; `pairs` and `valid` default to `posts`.
"""

from ml_collections import ConfigDict

from configs import common
from rlaif_jax import stages

# task: data set, hub id, pairwise prompt, scoring prompt (paper section 4.3)
TASKS = {
  'tldr': ('tldr', 'trl-lib/tldr', 'summary_detailed', 'summary_score'),
  'helpful': ('hh', 'Anthropic/hh-rlhf', 'helpful_base', 'helpful_score'),
  'harmless': ('hh', 'Anthropic/hh-rlhf', 'harmless_base', 'harmless_score'),
}
COMPARISONS = 'openai/summarize_from_feedback'


def get_config(arg: str = ''):
  """The pipeline; see the module docstring for `arg`."""
  args = common.parse_arg(
    arg,
    task='tldr',
    model='google/gemma-2b',
    labeler='google/gemma-7b-it',
    posts='',
    pairs='',
    valid='',
    holdout=0.1,
    batch=128,
    steps=0,
    prompt=1024,
    response=128,
    labels=4096,
    pairs_size=0,
    eval_size=512,
  )
  if args['task'] not in TASKS:
    raise ValueError(f'task={args["task"]!r}; use one of {", ".join(TASKS)}')
  c = stages.load('pipeline').default_config()
  steps = {
    'sft': sft(args),
    'labels_ai': labels(args),
    'reward_ai': reward(args, 'step:labels_ai'),
    'reward_human': reward(args, ''),
    'rlaif': rl(args, 'reward_ai'),
    'direct_rlaif': direct(args),
    'rlhf': rl(args, 'reward_human'),
    'evaluate': evaluate(args),
  }
  c.steps = ConfigDict(steps, sort_keys=False)
  return c


def _data(block, args, kind: str, split: str, size: int = 0):
  """Fills a data block with posts or pairs of the task."""
  name, hub, _, _ = TASKS[args['task']]
  path = args[kind] or args['posts'] or hub
  if kind != 'posts' and not args[kind] and not args['posts']:
    path = COMPARISONS if name == 'tldr' else hub
  block.name, block.path, block.size = name, path, size
  block.overflow = 'truncate'
  if name == 'tldr':
    block.options.kind = 'posts' if kind == 'posts' else 'pairs'
  elif path == hub:
    block.options.subset = f'{args["task"]}-base'
  # A file of its own is used whole; a shared one is split by prompt.
  own = bool(args[kind]) and kind != 'posts'
  local = bool(args[kind] or args['posts'])
  block.split = 'all' if own else split
  if local and not own:
    block.options.holdout = args['holdout']


def _lengths(c, args):
  c.max_prompt, c.max_response = args['prompt'], args['response']
  c.batch_size = args['batch']


def sft(args):
  """One epoch on the demonstrations."""
  c = stages.load('sft').default_config()
  c.model.path = args['model']
  _data(c.data, args, 'posts', 'train')
  _data(c.eval_data, args, 'posts', 'valid', args['eval_size'])
  _lengths(c, args)
  c.num_steps = args['steps']
  c.overlong_response = 'truncate'
  return c


def labels(args):
  """The data set's own pairs, compared by the labeler in both orders."""
  c = stages.load('label').default_config()
  _data(c.data, args, 'pairs', 'train', args['pairs_size'])
  c.labeler.path = args['labeler']
  c.labeler.prompt = TASKS[args['task']][2]
  c.labeler.max_tokens = args['labels']
  return c


def reward(args, source: str):
  """Reward model from the step `source`, or from the human labels."""
  c = stages.load('reward').default_config()
  c.model.path, c.labels = 'step:sft', source
  _data(c.data, args, 'pairs', 'train', args['pairs_size'])
  _data(c.eval_data, args, 'valid', 'valid')
  _lengths(c, args)
  c.num_steps = args['steps']
  return c


def rl(args, reward_step: str):
  """REINFORCE against a reward model, KL to SFT."""
  c = stages.load('rl').default_config()
  c.policy.path, c.reward.path = 'step:sft', f'step:{reward_step}'
  _data(c.data, args, 'posts', 'train')
  _lengths(c, args)
  c.num_steps = args['steps']
  return c


def direct(args):
  """The labeler's own score as the reward."""
  c = rl(args, '')
  c.reward.name, c.reward.path = 'direct', args['labeler']
  c.reward.prompt = TASKS[args['task']][3]
  c.reward.max_tokens = args['labels']
  return c


def evaluate(args):
  """Win rates against SFT with the labeler as judge."""
  c = stages.load('evaluate').default_config()
  _data(c.data, args, 'posts', 'valid', args['eval_size'])
  _data(c.human_data, args, 'valid', 'valid')
  _lengths(c, args)
  c.judge.name, c.judge.path = 'labeler', args['labeler']
  c.judge.prompt = TASKS[args['task']][3]
  c.judge.max_tokens = args['labels']
  for name in ('sft', 'rlaif', 'direct_rlaif', 'rlhf'):
    c.policies[name] = f'step:{name}'
  c.head_to_head = (('rlaif', 'rlhf'),)
  c.labels.ai = 'step:labels_ai'
  for name in ('ai', 'human'):
    c.reward_models[name] = f'step:reward_{name}'
  return c
