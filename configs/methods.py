"""All methods from one SFT model and one set of labels, and the table of them.

Beside RLAIF, direct RLAIF and RLHF (2309.00267) every other way to learn from
preferences that this package has, on the embedded tiny world: no download, an
hour on one CPU core, minutes on a GPU.

  python -m rlaif_jax.main --config=configs/methods.py --workdir=runs/methods
  python launch/readme.py methods=runs/methods      # the table in the README

  only=rlaif+dpo+rest   these methods (see `methods` below), and what they need
  seeds                 three seeds, averaged (three times as long)
  smoke                 a few steps of everything (minutes)

Settings are small and alike, so that the table shows what the methods do rather
than how long each was tuned; the published ones are in configs/rl.py and
configs/preference.py.
"""

import dataclasses
import re

from ml_collections import ConfigDict

from configs import common, iterated, rlaif
from configs import preference as preference_config
from configs import reward as reward_config
from configs import rl as rl_config
from configs import sample as sample_config
from rlaif_jax import algorithms, stages

INSTRUCTIONS = ('A bad summary.', 'A good summary.')  # words it knows
PAIRS = 4096  # labelled once, for all methods
RL_STEPS = 80


def get_config(arg: str = ''):
  """The pipeline; see the module docstring for `only`, `seeds`, `smoke`."""
  args = common.parse_arg(arg, only='', seeds=False, smoke=False)
  known = methods()
  names = args['only'].split('+') if args['only'] else list(known)
  for name in names:
    if name not in known:
      raise ValueError(
        f'only={name!r} is no method; there are: {", ".join(known)}'
      )
  c = stages.load('pipeline').default_config()
  if args['seeds']:
    c.seeds = (0, 1, 2)
  steps = shared()
  for name in names:
    steps |= known[name]
  steps = needed(steps, names)
  steps['evaluate'] = evaluate(names, steps)
  c.steps = ConfigDict(steps, sort_keys=False)
  if args['smoke']:
    shrink(c)
  return c


def needed(steps: dict, names: list[str]) -> dict:
  """The steps that lead to those called `names`, in their order."""
  wanted = {'sft', *names}
  for name, step in reversed(steps.items()):
    if name in wanted:
      wanted |= set(re.findall(r'step:(\w+)', str(step.to_dict())))
  return {name: step for name, step in steps.items() if name in wanted}


def shared() -> dict:
  """What several methods start from."""
  return {
    'sft': rlaif.sft(),
    'labels_ai': labels('tiny:l'),
    'labels_human': labels(''),
    'reward_ai': reward('labels_ai'),
    'reward_human': reward('labels_human'),
  }


def labels(labeler: str, source: str = ''):
  """Pairs of SFT samples, compared by a labeler or the simulated human."""
  c = rlaif.labels(labeler)
  c.data.size, c.source = PAIRS, source or c.source
  return c


def reward(source: str, loss: str = 'soft', seed: int = 0):
  """A reward model on one epoch and a half of these labels."""
  c = rlaif.reward(source, 'tiny:l')
  c.num_steps, c.seed = 3 * PAIRS // (2 * c.batch_size), seed
  c.loss, c.loss_options, _ = reward_config.METHODS[loss]
  return c


# -- RL -----------------------------------------------------------------------


def rl(
  method: str = 'reinforce', source: str = 'reward_ai', rate=5e-4, **options
):
  """An algorithm of configs/rl.py against a reward model.

  The reward is scaled alike for all; options are over the published ones.
  """
  c = rlaif.rl(source)
  if method != 'reinforce':
    c.algorithm, published, _ = rl_config.METHODS[method]
    module = algorithms.load(c.algorithm)
    c.algorithm_config = ConfigDict(
      dataclasses.asdict(module.Config(**{**published, **options}))
    )
  c.num_steps, c.optimizer.learning_rate = RL_STEPS, rate
  return c


def ptx():
  """PPO-ptx: PPO that goes on learning the reference summaries beside."""
  c = rl('ppo', rate=2e-4, beta=0.18)
  c.ptx.coef, c.ptx.ratio = 0.5, 1
  common.tiny_data(c.ptx.data, 'train', 4096)
  return c


def mixed() -> dict:
  """RLHF + RLAIF: a reward model on as many labels of either kind."""
  c = reward('labels_ai')
  c.mix.labels = ('step:labels_human',)
  return {'reward_mixed': c, 'mixed': rl(source='reward_mixed')}


def margin() -> dict:
  """A reward model that is to be the surer where the labels are."""
  c = reward('labels_ai', 'margin_label')
  return {'reward_margin': c, 'margin': rl(source='reward_margin')}


def ensemble() -> dict:
  """The worse of what two reward models say, of other seeds."""
  c = rl()
  c.reward.name = 'ensemble'
  c.reward.options = {'others': ('step:reward_ai_2',), 'combine': 'min'}
  return {'reward_ai_2': reward('labels_ai', seed=1), 'ensemble': c}


def gated() -> dict:
  """Llama 2's gate: what people clearly dislike is judged by their model."""
  c = rl()
  c.reward.name = 'gated'
  c.reward.options = {'safety': 'step:reward_human', 'threshold': 0.3}
  return {'gated': c}


def kway() -> dict:
  """InstructGPT's reward model: four samples of a prompt, ranked by grades."""
  s = stages.load('sample').default_config()
  s.policy.path, s.num_samples, s.batch_size = 'step:sft', 4, 256
  s.reward = rlaif.direct('tiny:l').reward
  common.tiny_data(s.data, 'rl', PAIRS // 4)
  common.tiny_lengths(s)
  c = reward('kway_samples', 'kway')
  c.labels = ''
  c.data.name, c.data.split, c.data.size = 'jsonl', 'all', 0
  c.data.path = 'step:kway_samples/samples/selected.jsonl'
  c.batch_size //= 2  # prompts, of twice as many responses
  common.tiny_data(c.demonstrations, 'train', 512)
  return {
    'kway_samples': s,
    'reward_kway': c,
    'kway': rl(source='reward_kway'),
  }


def warm() -> dict:
  """WARM: the two reward models averaged into one."""
  c = stages.load('average').default_config()
  c.models = ('step:reward_ai', 'step:reward_ai_2')
  common.tiny_data(c.data, 'test_preferences', 512)
  common.tiny_lengths(c)
  return {
    'reward_ai_2': reward('labels_ai', seed=1),
    'reward_warm': c,
    'warm': rl(source='reward_warm'),
  }


def random() -> dict:
  """Control: RL on labels that a coin has given."""
  return {
    'labels_random': labels('', 'random'),
    'reward_random': reward('labels_random'),
    'random': rl(source='reward_random'),
  }


def direct(labeler: str):
  """Direct RLAIF: the labeler's own grades are the reward."""
  c = rlaif.direct(labeler)
  c.num_steps = RL_STEPS
  return c


def online_dpo():
  """Online AI feedback: the labeler compares the two samples of a prompt."""
  c = rl('online_dpo', rate=3e-4, beta=0.2)
  c.reward.name, c.reward.path = 'pairwise', 'tiny:l'
  c.reward.prompt, c.reward.max_tokens = 'summary_base', 320
  c.reward_scaling = 'none'
  return c


def length():
  """Control: a reward that knows how long a response is, and nothing else."""
  c = rl(source='')
  c.reward.name, c.reward.path, c.reward.options = 'length', '', {'target': 16}
  return c


# -- preferences --------------------------------------------------------------


def offline(method: str, rate: float = 3e-4, **options):
  """A loss of configs/preference.py on the AI labels."""
  loss, published, _ = preference_config.METHODS[method]
  return iterated.preference('labels_ai', loss, {**published, **options}, rate)


# -- samples ------------------------------------------------------------------


def sampled(method: str, sft, rounds: int = 1, **options) -> dict:
  """Steps of a method of configs/sample.py against the AI reward model."""
  s = stages.load('sample').default_config()
  s.policy.path = 'step:sft'
  s.reward.name, s.reward.path = 'reward_model', 'step:reward_ai'
  common.tiny_data(s.data, 'rl', 1024)
  common.tiny_lengths(s)
  s.batch_size = 256
  steps = sample_config.STEPS[method]
  return steps(method, s, sft, rounds, **options)


def learner(num_steps: int):
  """SFT that goes on from the SFT model."""
  c = rlaif.sft()
  c.model.path, c.num_steps, c.eval_every = 'step:sft', num_steps, 0
  c.optimizer.learning_rate = 5e-4
  return c


def hir() -> dict:
  """Hindsight relabelling, in words that the tiny world has."""
  c = stages.load('hindsight').default_config()
  sft = learner(120)
  c.update({key: value for key, value in sft.items() if key != 'stage'})
  # Responses are drawn: with smoothed labels a fifth of the words would be any.
  c.max_prompt, c.smoothing = 80, 0.0
  steps = sampled('hir', c)
  steps['hir_samples_1'].instructions = INSTRUCTIONS
  return steps


def imitation() -> dict:
  """Control: SFT on the labeler's own summaries, without any preference."""
  s = stages.load('sample').default_config()
  s.policy.path, s.num_samples, s.batch_size = 'tiny:l', 1, 256
  common.tiny_data(s.data, 'rl', 2048)
  common.tiny_lengths(s)
  return sample_config.imitation('imitation', s, learner(60), 1)


def rounds(steps: dict) -> dict:
  """Rounds of configs/iterated.py, as short as a single one of the others."""
  for step in steps.values():
    if step.stage == 'reward':
      step.num_steps = 48
    if step.stage == 'rl':
      step.num_steps = RL_STEPS // 2
  return steps


def methods() -> dict[str, dict]:
  """Method -> its own steps; the one of its name is the policy."""
  single = {
    'rlaif': rl(),
    'rlhf': rl(source='reward_human'),
    'direct': direct('tiny:l'),
    'direct_self': direct('step:sft'),  # the labeler is the initial policy
    'ppo': rl('ppo', rate=2e-4, beta=0.18),
    'rloo': rl('rloo', beta=0.18, num_minibatches=1),
    'grpo': rl('grpo', group_size=8, beta=0.18),
    'dr_grpo': rl('dr_grpo', rate=2e-4, num_minibatches=2),
    'dapo': rl('dapo', rate=2e-4, group_size=8, num_minibatches=2),
    'gspo': rl('gspo', rate=2e-4, group_size=8, num_minibatches=2),
    'reinforce_pp': rl('reinforce_pp', beta=0.18, num_minibatches=1),
    'ppo_ptx': ptx(),
    'online_dpo': online_dpo(),
    'dpo': offline('dpo'),
    'cdpo': offline('cdpo'),
    'ipo': offline('ipo'),
    'simpo': offline('simpo', 2e-4),
    'kto': offline('kto'),
    'orpo': offline('orpo', 5e-4, beta=0.5),
    'cpl': offline('cpl', 5e-4),
  }
  half = PAIRS // 2
  return {
    **{name: {name: step} for name, step in single.items()},
    'rejection': sampled('rejection', learner(60), rounds=2),
    'rest': sampled('rest', learner(60), quantiles=(0.0, 0.5, 0.75)),
    'hir': hir(),
    'iterated': rounds(iterated.rl_rounds('iterated', 'tiny:l', 2, half)),
    'self_rewarding': rounds(
      iterated.dpo_rounds('self_rewarding', 'self', 2, half)
    ),
    'mixed': mixed(),
    'margin': margin(),
    'kway': kway(),
    'ensemble': ensemble(),
    'gated': gated(),
    'warm': warm(),
    'imitation': imitation(),
    'random': random(),
    'length': {'length': length()},
  }


# -- evaluation ---------------------------------------------------------------


def evaluate(names: list[str], steps: dict):
  """All methods against SFT, judged by the oracle."""
  c = rlaif.evaluate()
  c.policies = ConfigDict({'sft': 'step:sft'}, sort_keys=False)
  c.labels, c.reward_models, c.head_to_head = ConfigDict(), ConfigDict(), ()
  for name in names:
    c.policies[name] = f'step:{name}'
  if 'hir' in names:
    c.instructions.hir, c.max_prompt = INSTRUCTIONS[-1], 80
  for name, step in steps.items():
    if step.stage == 'label' and step.source == 'labeler':
      c.labels[name.replace('labels_', '')] = f'step:{name}'
    if step.stage in ('reward', 'average'):
      c.reward_models[name.replace('reward_', '')] = f'step:{name}'
  return c


def shrink(c) -> None:
  """A few steps of everything, so that the real wiring is run in minutes."""
  rlaif.shrink(c)
  for step in c.steps.values():
    options = step.get('algorithm_config', {})
    for name in {'group_size', 'num_minibatches'} & set(options):
      options[name] = min(options[name], 2)
