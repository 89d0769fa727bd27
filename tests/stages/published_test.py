"""configs/*.py hold the numbers of the methods' papers and their code.

Read from the sources that the configs name, and written down once more here.
"""

import pytest

RL = {
  'ppo': {  # 2403.17031, and its ppo.py
    'batch_size': 512, 'sampling.temperature': 0.7,
    'optimizer.name': 'adamw', 'optimizer.learning_rate': 3e-6,
    'optimizer.schedule': 'linear', 'optimizer.eps': 1e-5,
    'optimizer.weight_decay': 0.01, 'optimizer.clip_norm': 0.0,
    'algorithm_config.beta': 0.05, 'algorithm_config.gamma': 1.0,
    'algorithm_config.gae_lambda': 0.95, 'algorithm_config.inner_epochs': 4,
    'algorithm_config.num_minibatches': 1, 'algorithm_config.clip_high': 0.2,
    'algorithm_config.value_clip': 0.2, 'algorithm_config.value_coef': 0.1,
  },
  'instructgpt': {  # 2203.02155, C.4
    'batch_size': 512, 'sampling.temperature': 1.0,
    'optimizer.b2': 0.95, 'optimizer.warmup_steps': 10 * 512 // 64,
    'value_optimizer.learning_rate': 9e-6,
    'algorithm_config.beta': 0.02, 'algorithm_config.inner_epochs': 1,
    'algorithm_config.num_minibatches': 512 // 64,
    'ptx.coef': 27.8, 'ptx.ratio': 8,
  },
  'llama2': {  # 2307.09288, 3.2.3
    'batch_size': 512, 'reward.name': 'gated',
    'optimizer.learning_rate': 1e-6, 'optimizer.weight_decay': 0.1,
    'optimizer.b1': 0.9, 'optimizer.b2': 0.95, 'optimizer.eps': 1e-5,
    'optimizer.clip_norm': 1.0, 'optimizer.schedule': 'constant',
    'algorithm_config.beta': 0.01, 'algorithm_config.clip_low': 0.2,
    'algorithm_config.num_minibatches': 512 // 64,
  },
  'rloo': {  # 2402.14740, C
    'batch_size': 512, 'optimizer.learning_rate': 1e-6,
    'optimizer.warmup_steps': 2 * 600 * 3 // 100,
    'algorithm_config.beta': 0.03, 'algorithm_config.num_minibatches': 2,
  },
  'grpo': {  # 2402.03300, 4.2
    'batch_size': 1024, 'optimizer.learning_rate': 1e-6,
    'algorithm_config.beta': 0.04, 'algorithm_config.group_size': 64,
    'algorithm_config.num_minibatches': 1,
  },
  'dr_grpo': {  # sail-sg/understand-r1-zero, examples/qwen2.5-math-7b.sh
    'batch_size': 128 * 8, 'optimizer.learning_rate': 1e-6,
    'optimizer.b2': 0.95, 'sampling.temperature': 1.0,
    'algorithm_config.beta': 0.0, 'algorithm_config.group_size': 8,
    'algorithm_config.num_minibatches': 8, 'algorithm_config.scale': False,
  },
  'dapo': {  # 2503.14476, 4.1; verl's recipe
    'batch_size': 512 * 16, 'optimizer.learning_rate': 1e-6,
    'optimizer.warmup_steps': 20 * 16, 'optimizer.weight_decay': 0.1,
    'algorithm_config.group_size': 16, 'algorithm_config.num_minibatches': 16,
    'algorithm_config.clip_low': 0.2, 'algorithm_config.clip_high': 0.28,
    'algorithm_config.beta': 0.0,
  },
  'gspo': {  # 2507.18071, 5.1
    'algorithm_config.clip_low': 3e-4, 'algorithm_config.clip_high': 4e-4,
    'algorithm_config.num_minibatches': 4,
  },
  'reinforce_pp': {  # OpenRLHF, train_reinforce_llama_ray.sh
    'batch_size': 1024, 'optimizer.learning_rate': 5e-7, 'optimizer.b2': 0.95,
    'optimizer.schedule': 'cosine', 'optimizer.end_share': 0.1,
    'algorithm_config.beta': 0.01, 'algorithm_config.group_size': 1,
    'algorithm_config.num_minibatches': 1024 // 128,
  },
  'online_dpo': {  # 2402.04792, 4
    'batch_size': 2 * 128, 'sampling.temperature': 0.9,
    'optimizer.name': 'adafactor', 'optimizer.learning_rate': 5e-7,
    'optimizer.warmup_steps': 150, 'algorithm_config.beta': 0.1,
  },
}  # fmt: skip

_RMSPROP = {
  'optimizer.name': 'adam', 'optimizer.b1': 0.0, 'optimizer.b2': 0.99,
  'optimizer.warmup_steps': 150, 'optimizer.clip_norm': 10.0,
  'optimizer.schedule': 'constant', 'num_epochs': 1,
}  # fmt: skip
_ADAMW = {
  'optimizer.name': 'adamw', 'optimizer.b1': 0.9, 'optimizer.b2': 0.999,
  'optimizer.schedule': 'cosine', 'optimizer.clip_norm': 1.0,
}  # fmt: skip
PREFERENCE = {
  'dpo': {  # 2305.18290, B
    'batch_size': 64, 'optimizer.learning_rate': 1e-6,
    'loss_options.beta': 0.1, **_RMSPROP,
  },
  'dpo_tldr': {'loss_options.beta': 0.5, 'batch_size': 64},
  'simpo': {  # princeton-nlp/SimPO, llama-3-8b-base-simpo.yaml
    'batch_size': 128, 'num_epochs': 1, 'optimizer.learning_rate': 6e-7,
    'loss_options.beta': 2.0, 'loss_options.gamma': 0.5 * 2.0, **_ADAMW,
  },
  'kto': {  # 2402.01306; 32 responses
    'batch_size': 32 // 2, 'optimizer.learning_rate': 5e-7,
    'loss_options.beta': 0.1, **_RMSPROP,
  },
  'orpo': {  # 2403.07691, C
    'batch_size': 4 * 8, 'num_epochs': 10, 'optimizer.learning_rate': 8e-6,
    'optimizer.warmup_steps': 200, 'loss_options.beta': 0.1, **_ADAMW,
  },
  'cpl': {'loss_options.alpha': 0.1, 'loss_options.bias': 0.5},
}  # fmt: skip

REWARD = {
  'soft': {  # 2309.00267, G
    'batch_size': 128, 'num_epochs': 3, 'optimizer.name': 'adafactor',
    'optimizer.learning_rate': 1e-5,
  },
  'margin': {  # 2307.09288, 3.2.2
    'batch_size': 512, 'num_epochs': 1, 'optimizer.learning_rate': 1e-5,
    'optimizer.schedule': 'cosine', 'optimizer.end_share': 0.1,
    'optimizer.warmup_steps': 5, 'optimizer.weight_decay': 0.1,
    'optimizer.b2': 0.95, 'optimizer.eps': 1e-5, 'optimizer.clip_norm': 1.0,
  },
  'kway': {  # 2203.02155, C.2
    'batch_size': 64, 'num_epochs': 1, 'optimizer.learning_rate': 9e-6,
    'optimizer.schedule': 'cosine', 'optimizer.end_share': 0.1,
  },
}  # fmt: skip

CASES = [
  (file, f'{key}={name}', wanted)
  for file, key, methods in (
    ('rl', 'algorithm', RL),
    ('preference', 'loss', PREFERENCE),
    ('reward', 'loss', REWARD),
  )
  for name, wanted in methods.items()
]


def check(config, wanted: dict) -> None:
  """`config` has the `wanted` values of dotted fields."""
  for key, value in wanted.items():
    found = config
    for part in key.split('.'):
      found = found[part]
    assert found == value, key


@pytest.mark.parametrize(
  ('file', 'arg', 'wanted'), CASES, ids=[arg for _, arg, _ in CASES]
)
def test_method(config_module, file, arg, wanted):
  check(config_module(file).get_config(arg), wanted)


def test_sampled_methods(config_module):
  """2307.09288 (3.2.3), 2308.08998 (4, A.3), tianjunz/HIR."""
  get = config_module('sample').get_config
  given = 'policy=P,reward=R'
  rejection = get(f'method=rejection,{given}').steps
  check(rejection.rejection_samples_1, {'num_samples': 10, 'select': 'best'})
  rest = get(f'method=rest,{given},rounds=1').steps
  check(rest.rest_grow_1, {'num_samples': 25, 'sampling.temperature': 0.8})
  thresholds = [rest[f'rest_data_1_{i}'].threshold for i in range(1, 7)]
  assert thresholds == [0.0, 0.7, 0.8, 0.9, 0.95, 0.99]
  hir = get(f'method=hir,{given}').steps
  check(hir.hir_samples_1, {'num_samples': 4, 'sampling.temperature': 1.0})
  wanted = {
    'batch_size': 64, 'num_epochs': 10, 'optimizer.name': 'adamw',
    'optimizer.learning_rate': 5e-4, 'optimizer.schedule': 'constant',
  }  # fmt: skip
  check(hir.hir, wanted)
  check(get(f'method=hir,{given},samples=8').steps.hir_samples_1,
        {'num_samples': 8})  # fmt: skip


def test_constitutional_on_own_data(config_module):
  """2212.08073 (3.2) and 2204.05862 (4.1); the tiny world's sizes stay there.

  Prompts of 64 tokens and Adam at 1e-3 are no way to train a model that can
  write a critique.
  """
  arg = 'model=M,labeler=L,data=hh,path=harmless.jsonl,helpful=h.jsonl'
  steps = config_module('constitutional').get_config(arg).steps
  names = 'red_team helpful_samples sl_cai labels reward rl_cai evaluate'
  for name in names.split():
    check(steps[name], {'max_prompt': 1024, 'max_response': 128})
  for name in ('sl_cai', 'reward', 'rl_cai'):
    check(steps[name].optimizer, {'name': 'adafactor', 'learning_rate': 1e-5})
  check(steps.sl_cai, {'batch_size': 1024, 'num_epochs': 1, 'num_steps': 0})
  check(steps.rl_cai, {'algorithm_config.beta': 0.001, 'num_steps': 160})
  check(steps.revisions, {'num_rounds': 4, 'sampling.temperature': 1.0})
  check(steps.red_team, {'sampling.temperature': 1.0})
  check(steps.labels, {'pairs': 'samples', 'policy.path': 'step:sl_cai'})


def test_dialogues_of_the_paper(config_module):
  """2309.00267, App. G: batch 32 for reward models; table 2: the prompts."""
  for task, prompt in (('helpful', 'base_cot'), ('harmless', 'base_2shot')):
    steps = config_module('paper').get_config(f'task={task}').steps
    check(steps.labels_ai.labeler, {'prompt': f'{task}_{prompt}'})
    for name in ('reward_ai', 'reward_human'):
      check(steps[name], {'batch_size': 32})
    check(steps.rlaif, {'batch_size': 128})
    arg = f'task={task},batch=16,preamble=detailed'
    steps = config_module('paper').get_config(arg).steps
    check(steps.labels_ai.labeler, {'prompt': f'{task}_detailed'})
    check(steps.reward_ai, {'batch_size': 16})


def test_the_comparison_keeps_its_own_settings(config_module):
  """What is tuned for the tiny world does not follow the published numbers."""
  steps = config_module('methods').get_config('').steps
  check(steps.dpo.optimizer, {'clip_norm': 1.0, 'learning_rate': 3e-4})
  check(steps.reinforce_pp, {'algorithm_config.num_minibatches': 1})
  assert [n for n in steps if n.startswith('rest_data')] == [
    'rest_data_1_1', 'rest_data_1_2', 'rest_data_1_3',
  ]  # fmt: skip
  check(steps.hir, {'optimizer.name': 'adam', 'optimizer.clip_norm': 1.0})
