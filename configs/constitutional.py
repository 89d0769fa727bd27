"""Constitutional AI: critiques and revisions, then RL from AI labels.

Bai et al. 2022 (2212.08073), beside 2309.00267: a helpful model answers prompts
that ask for harm; by principles drawn for each round it criticises its replies
and writes them again, and a model is fine-tuned on the revisions and on helpful
replies (SL-CAI), so that it stays helpful; its samples are compared by the
labeler under drawn principles, and a reward model and RL follow (RL-CAI). On
the tiny world, five to ten minutes:

  python -m rlaif_jax.main --config=configs/constitutional.py \
      --workdir=runs/constitutional

Tiny models cannot write a critique: there the revisions show that everything
runs, and nothing else; the AI labels are real. With models that can:

python -m rlaif_jax.main --workdir=runs/cai --config=configs/constitutional.py:\
model=ORG/HELPFUL,labeler=ORG/LABELER,data=hh,path=harmless.jsonl,\
helpful=helpful.jsonl

  model         the helpful model, which revises as well
  labeler       compares, by the prompt that `prompt` names
  data, path    prompts that ask for harm, with pairs that people compared, of
                which a twentieth is held out; the prompts fit dialogues
  helpful       as `path`, prompts that ask for help
  constitution  prompt or JSON file whose criteria are the principles of the
                critiques; `prompt` has those of the comparisons
  steps         of RL; rounds: of revision (4)
  prompt_tokens, response_tokens   of data of your own (1024, 128)
  smoke         a few steps of everything (a minute)

With data of one's own, samples at T 1, and SFT for one epoch in batches of 1024
(2212.08073, section 3.2), there at half the rate of pretraining; the weight of
KL is that of Bai et al. 2022 (2204.05862, section 4.1), whose RL it is, with
PPO. The other numbers are the stages' defaults, of 2309.00267.
"""

from ml_collections import ConfigDict

from configs import common, rlaif
from rlaif_jax import stages


def get_config(arg: str = ''):
  """The pipeline; see the module docstring for `arg`."""
  args = common.parse_arg(
    arg,
    model='',
    labeler='tiny:l',
    data='tiny_dialogue',
    path='',
    helpful='',
    constitution='harmless_constitution',
    prompt='harmless_constitution',
    rounds=4,
    steps=160,
    prompt_tokens=1024,
    response_tokens=128,
    smoke=False,
  )
  tiny = args['data'] == 'tiny_dialogue'
  if not (tiny or args['model']):
    raise ValueError('model= is missing: name the helpful model to start from')
  if not (tiny or args['helpful']):
    raise ValueError(
      'helpful= is missing: name a file of prompts that ask for help, which '
      'the model goes on answering'
    )
  steps = {'helpful': helpful()} if not args['model'] else {}
  start = args['model'] or 'step:helpful'
  steps |= {
    'red_team': red_team(start, args),
    'revisions': revisions(start, args),
    'helpful_samples': helpful_samples(start, args),
    'sl_cai': sl_cai(start, args),
    'labels': labels(args),
    'reward': reward(args),
    'rl_cai': rl(args),
    'evaluate': evaluate(start, args),
  }
  c = stages.load('pipeline').default_config()
  c.steps = ConfigDict(steps, sort_keys=False)
  if args['smoke']:
    rlaif.shrink(c)
    c.steps.revisions.num_rounds = 1
  return c


def _stage(args, name: str, tiny):
  """A stage's config: its defaults, or `tiny` on the tiny world."""
  if args['data'] == 'tiny_dialogue':
    return tiny
  return stages.load(name).default_config()


def _data(block, args, split: str, size: int) -> None:
  """The prompts: of the tiny world the first `size` of its split, else those
  that are held out for the tests, or the rest.
  """
  block.name, block.path, block.split = args['data'], args['path'], split
  if args['data'] == 'tiny_dialogue':
    block.size, block.options = size, {'task': 'harmless'}
  else:
    block.split = 'valid' if split.startswith('test') else 'train'
    block.options, block.overflow = {'holdout': 0.05}, 'truncate'


def _lengths(c, args) -> None:
  if args['data'] == 'tiny_dialogue':
    common.tiny_lengths(c)
  else:
    c.max_prompt = args['prompt_tokens']
    c.max_response = args['response_tokens']


def helpful():
  """The tiny world's helpful model, which never saw a refusal."""
  c = rlaif.sft()
  for block in (c.data, c.eval_data):
    block.name, block.options = 'tiny_dialogue', {'task': 'helpful'}
  return c


def red_team(start: str, args):
  """One reply of the helpful model to each prompt that asks for harm."""
  c = stages.load('sample').default_config()
  c.policy.path, c.num_samples = start, 1
  _data(c.data, args, 'train', 1024)
  _lengths(c, args)
  return c


def revisions(start: str, args):
  """Rounds of critique and revision by the model itself."""
  c = stages.load('revise').default_config()
  c.data.path = 'step:red_team/samples/selected.jsonl'
  c.reviser.path, c.num_rounds = start, args['rounds']
  c.constitution = args['constitution']
  if args['data'] == 'tiny_dialogue':
    c.max_critique = c.max_response = 32
    c.num_exemplars, c.reviser.max_tokens = 1, 512
  return c


def helpful_samples(start: str, args):
  """Two replies of the helpful model to each prompt that asks for help."""
  c = stages.load('sample').default_config()
  c.policy.path, c.num_samples = start, 2
  if args['data'] == 'tiny_dialogue':
    _data(c.data, args, 'train', 512)
    c.data.options = {'task': 'helpful'}
  else:
    _data(c.data, args, 'train', 0)
    c.data.path = args['helpful']
  _lengths(c, args)
  return c


def sl_cai(start: str, args):
  """SFT on all revisions, and on the helpful model's own helpful replies."""
  c = _stage(args, 'sft', rlaif.sft())
  c.model.path, c.data.name, c.data.split = start, 'jsonl', 'all'
  c.data.path, c.data.size = 'step:revisions/revisions/selected.jsonl', 0
  c.extra_data.name, c.extra_data.split = 'jsonl', 'all'
  c.extra_data.path = 'step:helpful_samples/samples/selected.jsonl'
  _data(c.eval_data, args, 'test', 128)
  _lengths(c, args)
  c.overlong_response = 'truncate'
  if args['data'] == 'tiny_dialogue':
    c.num_steps = 60
  else:
    c.batch_size, c.num_epochs = 1024, 1
  return c


def labels(args):
  """Two samples of SL-CAI for each prompt, compared under drawn principles."""
  c = _stage(args, 'label', rlaif.labels(args['labeler']))
  c.pairs, c.policy.path = 'samples', 'step:sl_cai'
  c.labeler.path, c.labeler.prompt = args['labeler'], args['prompt']
  if args['data'] == 'tiny_dialogue':
    c.labeler.max_tokens = 512
  _data(c.data, args, 'rl', 4096)
  _lengths(c, args)
  return c


def reward(args):
  """A reward model from the soft labels."""
  c = _stage(args, 'reward', rlaif.reward('labels', ''))
  c.model.path, c.labels = args['labeler'], 'step:labels'
  _data(c.eval_data, args, 'test_preferences', 512)
  _lengths(c, args)
  return c


def rl(args):
  """RL from SL-CAI on the prompts that ask for harm."""
  c = _stage(args, 'rl', rlaif.rl('reward'))
  c.policy.path, c.reward.path = 'step:sl_cai', 'step:reward'
  c.num_steps = args['steps']
  if args['data'] != 'tiny_dialogue':
    c.algorithm_config.beta = 0.001
  _data(c.data, args, 'rl', 4096)
  _lengths(c, args)
  return c


def evaluate(start: str, args):
  """The helpful model, SL-CAI and RL-CAI: harm, and who wins."""
  c = _stage(args, 'evaluate', rlaif.evaluate())
  c.policies = ConfigDict(
    {'helpful': start, 'sl_cai': 'step:sl_cai', 'rl_cai': 'step:rl_cai'},
    sort_keys=False,
  )
  c.baseline, c.head_to_head = 'helpful', (('rl_cai', 'sl_cai'),)
  c.labels = ConfigDict({'ai': 'step:labels'})
  c.reward_models = ConfigDict({'ai': 'step:reward'})
  c.evals = ConfigDict(
    dict(win_rate={}, harmless_rate={}, length_control={}, text={}),
    sort_keys=False,
  )
  _data(c.data, args, 'test', 512)
  _data(c.human_data, args, 'test_preferences', 512)
  _lengths(c, args)
  if args['data'] != 'tiny_dialogue':
    c.judge.name, c.judge.path = 'labeler', args['labeler']
    c.judge.prompt = 'harmless_score'
    c.evals.harmless_rate.threshold = 5.5
  return c
