"""Rejection sampling, ReST, hindsight relabelling: sampled, selected, SFT.

Ways to learn from a reward without RL (beside 2309.00267), each a pipeline of
the stages `sample` and `sft` (or `hindsight`); DATA has prompts, and responses,
which only tell the loss on those of them that are held out:

python -m rlaif_jax.main --workdir=runs/rejection --config=configs/sample.py:\
method=rejection,policy=runs/sft,reward=runs/reward,data=tldr,path=DATA

  method=rejection  Llama 2 (2307.09288, 3.2.3): of K samples the best one; SFT
                    on the winners of all rounds so far, from the newest policy
  method=rest       ReST (2308.08998): Grow samples, then Improve steps on those
                    above rising quantiles, each at a smaller learning rate
  method=hir        hindsight relabelling (2302.05206): all samples, prompts
                    that ask for what they are, by the stage `hindsight`
  method=imitation  the samples of a model (policy=LABELER) as they are, learned
                    by model=runs/sft: what is there without any preference
  method=sample     one sample stage alone

`rounds` of them (default 2), `samples` of each prompt (default: as published,
see `METHODS`). `smoke`: a few steps on the tiny world.
"""

from ml_collections import ConfigDict

from configs import common
from rlaif_jax import stages

# Method -> (fields of the sample stage, fields of the SFT stage), as published;
# what is not here is ours, or Lee et al.'s (2309.00267, App. G).
METHODS = {
  'sample': ({}, {}),
  # Section 3.2.3: 10 to 100 samples. T is 1; once RLHF has been at the policy,
  # 1.2 to 1.3 was best (figure 8).
  'rejection': (dict(num_samples=10), {}),
  # Appendix A.3: T 0.8, and 25 samples of each source of WMT 2020 (100 where
  # there are few, IWSLT 2014). The paper says that the rate falls, not how.
  'rest': (dict(num_samples=25, sampling=dict(temperature=0.8)), {}),
  # tianjunz/HIR, online_sampler.py, offline_trainer.py and run.sh: 4 samples at
  # T 1, 10 epochs of batch 64, AdamW at 5e-4 without clipping. That is for
  # FLAN-T5: a decoder wants less, `--config.steps.hir.optimizer...`.
  'hir': (
    dict(num_samples=4),
    dict(
      batch_size=64,
      num_epochs=10,
      optimizer=dict(name='adamw', learning_rate=5e-4, clip_norm=0.0),
    ),
  ),
  'imitation': ({}, {}),
}
# Quantiles of the scores that ReST's Improve steps ask for, one after another:
# the paper's thresholds (section 4), there of scores scaled to 0 to 1. It takes
# the first, which is all samples, and two to five more.
QUANTILES = (0.0, 0.7, 0.8, 0.9, 0.95, 0.99)
# What hindsight tells the policy, from worst to best.
INSTRUCTIONS = ('Give a bad answer.', 'Give a good answer.')


def get_config(arg: str = ''):
  """See the module docstring for `method`, `policy`, `model`, `reward`, `data`,
  `path`, `rounds`, `samples` and `smoke`.
  """
  args = common.parse_arg(
    arg,
    method='sample',
    policy='',
    model='',
    reward='',
    data='tldr',
    path='',
    rounds=2,
    samples=0,
    smoke=False,
  )
  if args['method'] not in METHODS:
    raise ValueError(
      f'method={args["method"]!r} is unknown; there are: {", ".join(METHODS)}'
    )
  if args['smoke']:
    args.update(policy='tiny:xs', reward='tiny:xs', data='tiny_tldr')
  sample = stages.load('sample').default_config()
  learns = 'hindsight' if args['method'] == 'hir' else 'sft'
  sft = stages.load(learns).default_config()
  sample.policy.path = args['policy']
  for block, split in ((sample.data, 'train'), (sft.eval_data, 'valid')):
    block.name, block.path, block.split = args['data'], args['path'], split
    block.options = {'holdout': 0.05}
  for stage, fields in zip((sample, sft), METHODS[args['method']], strict=True):
    stage.update(fields)
  sample.num_samples = args['samples'] or sample.num_samples
  if args['reward'] and args['method'] != 'imitation':
    sample.reward.name, sample.reward.path = 'reward_model', args['reward']
  if args['smoke']:
    shrink(sample, sft)
  if args['method'] == 'sample':
    return sample
  sft.model.path = args['model'] or args['policy']
  c = stages.load('pipeline').default_config()
  steps = STEPS[args['method']](args['method'], sample, sft, args['rounds'])
  c.steps = ConfigDict(steps, sort_keys=False)
  return c


def rejection(name: str, sample, sft, rounds: int) -> dict:
  """Steps of best-of-K: each round from the policy of the one before it.

  Args:
    name: prefix of the steps; the last one, NAME, is the policy.
    sample: sample stage of the first round, with its policy and reward.
    sft: SFT stage, from the first round's policy.
    rounds: how often.
  """
  steps, pool = {}, ()
  for i in range(1, rounds + 1):
    s, t = sample.copy_and_resolve_references(), learner(sft)
    if steps:
      s.policy.path = t.model.path = f'step:{name}_{i - 1}'
    s.select, s.pool, s.seed = 'best', pool, i
    steps[f'{name}_samples_{i}'] = s
    pool += (f'step:{name}_samples_{i}',)
    t.data.path = f'step:{name}_samples_{i}/samples/selected.jsonl'
    steps[name if i == rounds else f'{name}_{i}'] = t
  return steps


def rest(name: str, sample, sft, rounds: int, quantiles=QUANTILES) -> dict:
  """Steps of ReST: in each round a Grow step, then an Improve step a quantile.

  Arguments as in `rejection`. The learning rate halves from one Improve step to
  the next.
  """
  steps, policy, pool = {}, sample.policy.path, ()
  for i in range(1, rounds + 1):
    grow = sample.copy_and_resolve_references()
    grow.policy.path, grow.select, grow.seed = policy, 'all', i
    steps[f'{name}_grow_{i}'] = grow
    pool += (f'step:{name}_grow_{i}',)
    for j, quantile in enumerate(quantiles, 1):
      improve, t = sample.copy_and_resolve_references(), learner(sft)
      improve.policy.path, improve.reward.name, improve.pool = '', '', pool
      improve.select, improve.threshold = 'quantile', quantile
      steps[f'{name}_data_{i}_{j}'] = improve
      if (i, j) != (1, 1):
        t.model.path = policy
      t.data.path = f'step:{name}_data_{i}_{j}/samples/selected.jsonl'
      t.optimizer.learning_rate /= 2 ** (j - 1)
      last = (i, j) == (rounds, len(quantiles))
      policy = name if last else f'{name}_{i}_{j}'
      steps[policy] = t
      policy = f'step:{policy}'
  return steps


def hir(name: str, sample, sft, rounds: int) -> dict:
  """Steps of hindsight relabelling, `sft` being a hindsight stage; other
  arguments as in `rejection`.

  Later rounds sample from the policy as it is asked plainly. Evaluations ask
  for the best: `instructions` of the evaluate stage.
  """
  steps = {}
  for i in range(1, rounds + 1):
    s, t = sample.copy_and_resolve_references(), learner(sft)
    if steps:
      s.policy.path = t.model.path = f'step:{name}_{i - 1}'
    s.select, s.instructions, s.seed = 'all', INSTRUCTIONS, i
    steps[f'{name}_samples_{i}'] = s
    t.data.path = f'step:{name}_samples_{i}/samples/selected.jsonl'
    steps[name if i == rounds else f'{name}_{i}'] = t
  return steps


def imitation(name: str, sample, sft, rounds: int) -> dict:
  """Steps of SFT on the samples of `sample`'s policy; one round is all."""
  del rounds
  t = learner(sft)
  t.data.path = f'step:{name}_samples/samples/selected.jsonl'
  return {f'{name}_samples': sample, name: t}


STEPS = {
  'rejection': rejection,
  'rest': rest,
  'hir': hir,
  'imitation': imitation,
}


def learner(sft):
  """A copy of an SFT stage that learns from selected samples.

  A sample that was not cut ends within max_response, but its text may have
  more tokens than those that were sampled.
  """
  t = sft.copy_and_resolve_references()
  t.data.name, t.data.split = 'jsonl', 'all'
  t.overlong_response = 'truncate'
  return t


def shrink(sample, sft) -> None:
  """A few steps on the tiny world, so that the real wiring is run."""
  sample.reward.path = sample.reward.path and 'tiny:xs'
  sample.reward.name = sample.reward.name and 'direct'
  sample.reward.max_tokens = 256
  sample.data.options = sft.eval_data.options = {}
  common.tiny_data(sample.data, 'rl', 12)
  common.tiny_data(sft.eval_data, 'test', 8)
  for c in (sample, sft):
    common.tiny_lengths(c)
    c.max_prompt, c.batch_size = 80, 8
  sample.chunk, sample.num_samples, sft.num_steps = 8, 4, 3
