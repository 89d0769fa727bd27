"""Iterated RLAIF: in each round fresh samples, fresh labels, a fresh reward.

The open question of 2309.00267 (section 6), and self-improvement: what is
labelled are always samples of the newest policy. On the tiny world:

  python -m rlaif_jax.main --config=configs/iterated.py --workdir=runs/iterated

  loop=rl        each round a reward model on that round's labels, then RL; KL
                 is to the SFT model throughout (default)
  loop=dpo       each round DPO from the policy of the round before it, which is
                 also the reference (iterative DPO)
  labeler=NAME   who compares: a model's path, 'tiny:l' by default, or 'self':
                 the newest policy itself. loop=dpo,labeler=self is the loop of
                 self-rewarding language models (2401.10020)
  rounds=N       3 by default; labels=N: pairs of each round
  smoke          a few steps of everything (a minute)

The paper's self-improvement without rounds is configs/rl.py:direct with the
initial policy's own checkpoint as labeler: --config.policy.path=runs/sft
--config.reward.path=runs/sft.
"""

from ml_collections import ConfigDict

from configs import common, rlaif
from rlaif_jax import stages

LOOPS = ('rl', 'dpo')


def get_config(arg: str = ''):
  """The pipeline; see the module docstring for `arg`."""
  args = common.parse_arg(
    arg, loop='rl', labeler='tiny:l', rounds=3, labels=3072, smoke=False
  )
  if args['loop'] not in LOOPS:
    raise ValueError(
      f'loop={args["loop"]!r} is unknown; there are: {", ".join(LOOPS)}'
    )
  make = rl_rounds if args['loop'] == 'rl' else dpo_rounds
  rounds = make('policy', args['labeler'], args['rounds'], args['labels'])
  steps = {'sft': rlaif.sft(), **rounds, 'evaluate': evaluate(rounds)}
  c = stages.load('pipeline').default_config()
  c.steps = ConfigDict(steps, sort_keys=False)
  if args['smoke']:
    rlaif.shrink(c)
  return c


def rl_rounds(name: str, labeler: str, rounds: int, pairs: int) -> dict:
  """Steps of RL rounds; the last one is called NAME, those before NAME_i."""
  steps, policy = {}, 'step:sft'
  for i in range(1, rounds + 1):
    steps[f'{name}_labels_{i}'] = labels(labeler, policy, pairs, i)
    # A model of the policy's size judges itself with a reward model as small.
    start = 'tiny:xs' if labeler == 'self' else labeler
    steps[f'{name}_reward_{i}'] = rlaif.reward(f'{name}_labels_{i}', start)
    c = rlaif.rl(f'{name}_reward_{i}')
    c.policy.path, c.reference, c.seed = policy, 'step:sft', i
    c.num_steps = 80
    policy = f'step:{_add(steps, name, i, rounds, c)}'
  return steps


def dpo_rounds(name: str, labeler: str, rounds: int, pairs: int) -> dict:
  """Steps of DPO rounds; the last one is called NAME, those before NAME_i."""
  steps, policy = {}, 'step:sft'
  for i in range(1, rounds + 1):
    steps[f'{name}_labels_{i}'] = labels(labeler, policy, pairs, i)
    c = preference(f'{name}_labels_{i}', 'dpo', dict(beta=0.1), 1e-4)
    c.policy.path = policy
    policy = f'step:{_add(steps, name, i, rounds, c)}'
  return steps


def labels(labeler: str, policy: str, pairs: int, number: int):
  """Two samples of `policy` for each prompt, compared; `number` is the round's.

  The prompts are the same in all rounds, the samples are not.
  """
  c = rlaif.labels(policy if labeler == 'self' else labeler)
  c.data.size, c.policy.path, c.seed = pairs, policy, number
  return c


def preference(source: str, loss: str, options: dict, rate: float):
  """A loss on the preferences of the step `source`, from the SFT model."""
  c = stages.load('preference').default_config()
  c.policy.path, c.labels = 'step:sft', f'step:{source}'
  common.tiny_data(c.eval_data, 'test_preferences', 512)
  common.tiny_lengths(c)
  c.loss, c.loss_options = loss, options
  c.batch_size, c.num_epochs = 64, 1
  c.optimizer.name, c.optimizer.learning_rate = 'adam', rate
  c.optimizer.b1, c.optimizer.b2, c.optimizer.warmup_steps = 0.9, 0.999, 10
  c.optimizer.schedule, c.optimizer.clip_norm = 'linear', 1.0
  return c


def evaluate(rounds: dict):
  """The policies of all rounds against SFT, and the labelers of all rounds."""
  c = rlaif.evaluate()
  c.policies = ConfigDict({'sft': 'step:sft'}, sort_keys=False)
  c.labels, c.reward_models = ConfigDict(), ConfigDict()
  c.head_to_head = ()
  for name, step in rounds.items():
    if step.stage in ('rl', 'preference'):
      c.policies[name] = f'step:{name}'
    if step.stage == 'label':
      c.labels[name] = f'step:{name}'
    if step.stage == 'reward':
      c.reward_models[name] = f'step:{name}'
  return c


def _add(steps: dict, name: str, i: int, rounds: int, step) -> str:
  """Adds the policy of round i; returns what it is called."""
  name = name if i == rounds else f'{name}_{i}'
  steps[name] = step
  return name
