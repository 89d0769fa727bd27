"""The main job on real data, with the paper's settings (2309.00267, App. E-G).

Batch 128 (32 for reward models of dialogues), Adafactor at 1e-5, T = 0.9, beta
= 0.05, 1024 + 128 tokens; SFT one epoch, reward models three, RL eight. The
paper ran PaLM 2 XS with an L labeler on TPUs; a 2B policy with a 9B labeler
wants 8 chips of 80 GB, or a v5e-32.

python -m rlaif_jax.main --workdir=runs/tldr \
    --config=configs/paper.py:task=tldr,model=google/gemma-2b,labeler=ORG/NAME

Your own data and models by path, and a smaller run by batch, steps and lengths:

python -m rlaif_jax.main --workdir=runs/mine --config=configs/paper.py:\
task=tldr,posts=posts.jsonl,pairs=train.jsonl,valid=valid.jsonl,\
model=MODEL_FOLDER,labeler=LABELER_FOLDER,batch=16,steps=50,prompt=384,response=64

  posts   prompts and demonstrations, for SFT, RL and evaluation
  pairs   comparisons with human labels; the labeler labels the same pairs
  valid   held-out comparisons, for the accuracy of reward models
  given   pairs that another AI has labelled, such as GPT-4: they get a reward
          model and a policy of their own, and the labeler is compared with them
  judge   comparisons for a reward model that only judges the policies; without
          it the labeler does

task is tldr (summarization), helpful or harmless (dialogues). For dialogues one
file serves all three: `pairs` and `valid` default to `posts`, of which the
share `holdout` is kept for evaluation.

  prompt, response   tokens, as `labels` of the labeler's prompts
  preamble           base or detailed labeling prompt, without rationale and
                     exemplars; '' as in the paper, which has either
  optimizer, rate    of all that is trained
  sft_epochs, reward_epochs, rl_epochs   or `steps` of each, `rl_steps` of RL
  pairs_size         how many pairs the labeler labels and the reward models see
  ai_pairs           how many the labeler labels, if not pairs_size
  eval_size          prompts in the evaluation, at most
"""

from ml_collections import ConfigDict

from configs import common
from rlaif_jax import stages

# task: data set, hub id, pairwise prompt, scoring prompt. The pairwise ones are
# those that agreed best with people (table 2), which its RLAIF was trained on.
TASKS = {
  'tldr': ('tldr', 'trl-lib/tldr', 'summary_detailed_cot', 'summary_score'),
  'helpful': ('hh', 'Anthropic/hh-rlhf', 'helpful_base_cot', 'helpful_score'),
  'harmless': (
    'hh', 'Anthropic/hh-rlhf', 'harmless_base_2shot', 'harmless_score',
  ),
}  # fmt: skip
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
    given='',
    judge='',
    holdout=0.1,
    batch=128,
    steps=0,
    sft_epochs=1,
    reward_epochs=3,
    rl_epochs=8,
    rl_steps=0,
    optimizer='adafactor',
    rate=1e-5,
    prompt=1024,
    response=128,
    labels=4096,
    preamble='',
    pairs_size=0,
    ai_pairs=0,
    eval_size=512,
  )
  if args['task'] not in TASKS:
    raise ValueError(f'task={args["task"]!r}; use one of {", ".join(TASKS)}')
  c = stages.load('pipeline').default_config()
  c.steps = ConfigDict(steps(args), sort_keys=False)
  return c


def steps(args) -> dict:
  """Name -> stage config, in the order of the pipeline."""
  found = {
    'sft': sft(args),
    'labels_ai': labels(args, 'pairs'),
    'reward_ai': reward(args, 'step:labels_ai'),
    'reward_human': reward(args, ''),
  }
  if args['given']:
    found['labels_given'] = given = labels(args, 'given')
    given.source = 'dataset'
    found['labels_ai_on_given'] = labels(args, 'given')
    found['reward_given'] = reward(args, 'step:labels_given')
  if args['judge']:
    found['reward_judge'] = judge(args)
  found['rlaif'] = rl(args, 'reward_ai')
  if args['given']:
    found['rlaif_given'] = rl(args, 'reward_given')
  return found | {
    'direct_rlaif': direct(args),
    'rlhf': rl(args, 'reward_human'),
    'evaluate': evaluate(args),
  }


def _data(block, args, kind: str, split: str, size: int = 0):
  """Fills a data block with posts or pairs of the task."""
  name, hub, _, _ = TASKS[args['task']]
  path = args[kind] or args['posts'] or hub
  if kind != 'posts' and not args[kind] and not args['posts']:
    path = COMPARISONS if name == 'tldr' else hub
  block.name, block.path, block.size = name, path, size
  block.overflow = 'truncate'
  if name == 'tldr' and kind != 'given':
    block.options.kind = 'posts' if kind == 'posts' else 'pairs'
  elif path == hub:
    block.options.subset = f'{args["task"]}-base'
  # A file of its own is used whole; a shared one is split by prompt.
  own = bool(args[kind]) and kind != 'posts' and path != args['posts']
  local = bool(args[kind] or args['posts'])
  block.split = 'all' if own else split
  if local and not own:
    block.options.holdout = args['holdout']


def _lengths(c, args):
  c.max_prompt, c.max_response = args['prompt'], args['response']
  c.batch_size = args['batch']


def _training(c, args, epochs: str):
  """How long to train, and how fast."""
  c.num_steps, c.num_epochs = args['steps'], args[epochs]
  for block in ('optimizer', 'value_optimizer'):
    if block in c:
      c[block].name, c[block].learning_rate = args['optimizer'], args['rate']


def sft(args):
  """One epoch on the demonstrations."""
  c = stages.load('sft').default_config()
  c.model.path = args['model']
  _data(c.data, args, 'posts', 'train')
  _data(c.eval_data, args, 'posts', 'valid', args['eval_size'])
  _lengths(c, args)
  _training(c, args, 'sft_epochs')
  c.overlong_response = 'truncate'
  return c


def labels(args, kind: str):
  """The data set's own pairs, compared by the labeler in both orders."""
  c = stages.load('label').default_config()
  size = args['ai_pairs'] or args['pairs_size']
  _data(c.data, args, kind, 'train', 0 if kind == 'given' else size)
  c.labeler.path = args['labeler']
  c.labeler.prompt = TASKS[args['task']][2]
  if args['preamble']:
    task, _, _ = c.labeler.prompt.partition('_')
    c.labeler.prompt = f'{task}_{args["preamble"]}'
  c.labeler.max_tokens = args['labels']
  return c


def reward(args, source: str):
  """Reward model from the step `source`, or from the human labels.

  Both start from SFT. The paper's does for AI labels of summaries; from human
  labels it starts from the pretrained model (79.3% against 78.7%, App. H).
  """
  c = stages.load('reward').default_config()
  c.model.path, c.labels = 'step:sft', source
  _data(c.data, args, 'pairs', 'train', args['pairs_size'])
  _data(c.eval_data, args, 'valid', 'valid')
  _lengths(c, args)
  if args['task'] != 'tldr':
    c.batch_size = min(c.batch_size, 32)  # of dialogues (App. G)
  _training(c, args, 'reward_epochs')
  return c


def judge(args):
  """Reward model from comparisons that no policy is trained on."""
  c = reward(args, '')
  _data(c.data, args, 'judge', 'train')
  if args['judge'] == args['valid']:  # the others' comparisons are held out
    _data(c.eval_data, args, 'pairs', 'train', args['eval_size'])
  return c


def rl(args, reward_step: str):
  """REINFORCE against a reward model, KL to SFT."""
  c = stages.load('rl').default_config()
  c.policy.path, c.reward.path = 'step:sft', f'step:{reward_step}'
  _data(c.data, args, 'posts', 'train')
  _lengths(c, args)
  _training(c, args, 'rl_epochs')
  c.num_steps = args['rl_steps'] or args['steps']
  return c


def direct(args):
  """The labeler's own score as the reward."""
  c = rl(args, '')
  c.reward.name, c.reward.path = 'direct', args['labeler']
  c.reward.prompt = TASKS[args['task']][3]
  c.reward.max_tokens = args['labels']
  return c


def evaluate(args):
  """Win rates against SFT, judged by the labeler or by `reward_judge`."""
  c = stages.load('evaluate').default_config()
  _data(c.data, args, 'posts', 'valid', args['eval_size'])
  _data(c.human_data, args, 'valid', 'valid')
  _lengths(c, args)
  c.judge.name, c.judge.path = 'labeler', args['labeler']
  c.judge.prompt = TASKS[args['task']][3]
  c.judge.max_tokens = args['labels']
  if args['judge']:
    c.judge.name, c.judge.path = 'reward_model', 'step:reward_judge'
  if args['task'] == 'harmless':
    # The middle of 1 to 10, or the mean of the judge's own comparisons.
    c.evals.harmless_rate = {'threshold': 0.0 if args['judge'] else 5.5}
  given = ('given',) if args['given'] else ()
  rlaif = ('rlaif', *(f'rlaif_{name}' for name in given))
  for name in ('sft', *rlaif, 'direct_rlaif', 'rlhf'):
    c.policies[name] = f'step:{name}'
  c.head_to_head = tuple((name, 'rlhf') for name in rlaif)
  for name in ('ai', *given, *(f'ai_on_{name}' for name in given)):
    c.labels[name] = f'step:labels_{name}'
  for name in ('ai', *given, 'human'):
    c.reward_models[name] = f'step:reward_{name}'
  return c
