"""Every file of stages/ and of configs/ keeps its contract."""

import inspect
import json
import pathlib
import re

import pytest
from ml_collections import ConfigDict

from rlaif_jax import algorithms, stages
from rlaif_jax.stages import rl

_CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'

# Every config file with the arguments that its docstrings speak of.
ARGUMENTS = {
  'alignment': ('', 'smoke', 'pairs=64', 'labelers=runs/a/xs+runs/a/l'),
  'average': ('', 'smoke'),
  'constitutional': (
    '',
    'smoke',
    'steps=8,rounds=2,constitution=harmless_constitution,prompt=harmless_base',
    'model=ORG/HELPFUL,labeler=ORG/LABELER,data=hh,path=harmless.jsonl,'
    'helpful=helpful.jsonl',
    'model=M,labeler=L,data=hh,path=p.jsonl,helpful=h.jsonl,prompt_tokens=96,'
    'response_tokens=32',
  ),
  'evaluate': (
    '',
    'smoke',
    'samples=samples.jsonl,baseline=sft',
    'samples=runs/evaluate,judge=labeler',
    'samples=runs/evaluate,judge=human,evals=overlap+perplexity+ranking',
  ),
  'iterated': (
    '',
    'smoke',
    'loop=dpo,labeler=self',
    'loop=rl,labeler=tiny:xs,rounds=2,labels=64',
  ),
  'full': (
    '',
    'model=gemma2_9b,topology=v5p:2x2x4',
    'model=llama3_8b,topology=h200:8',
    'model=qwen3_8b,topology=v6e:8x8,task=helpful',
    'topology=v5e:8x8',
  ),
  'label': ('', 'smoke'),
  'methods': ('', 'smoke', 'seeds', 'only=rlaif+dpo+rest', 'only=hir,smoke'),
  'paper': (
    '',
    'task=tldr,model=google/gemma-2b,labeler=ORG/NAME',
    'task=tldr,posts=posts.jsonl,pairs=train.jsonl,valid=valid.jsonl,'
    'model=MODEL_FOLDER,labeler=LABELER_FOLDER,batch=16,steps=50,prompt=384,'
    'response=64',
    'task=helpful',
    'task=harmless,posts=hh.jsonl',
    'task=harmless,posts=hh.jsonl,judge=pairs.jsonl,holdout=0.2,labels=512',
    'posts=p.jsonl,given=p.jsonl,pairs=a.jsonl,valid=b.jsonl,judge=b.jsonl,'
    'preamble=base,optimizer=adam,rate=1e-3,sft_epochs=2,reward_epochs=1,'
    'rl_epochs=1,pairs_size=64,ai_pairs=32,eval_size=16',
  ),
  'preference': (
    '',
    'smoke',
    'loss=dpo_tldr',
    'loss=cdpo',
    'loss=ipo',
    'loss=simpo',
    'loss=kto',
    'loss=orpo',
    'loss=cpl,smoke',
  ),
  'reward': (
    '',
    'smoke',
    'loss=margin',
    'loss=margin_large',
    'loss=margin_label',
    'loss=kway',
    'loss=margin,smoke',
    'loss=kway,smoke',
  ),
  'rl': (
    '',
    'smoke',
    'direct',
    'algorithm=ppo',
    'algorithm=instructgpt',
    'algorithm=llama2',
    'algorithm=rloo',
    'algorithm=grpo',
    'algorithm=dr_grpo',
    'algorithm=dapo',
    'algorithm=gspo',
    'algorithm=reinforce_pp',
    'algorithm=online_dpo',
    'shared',
    'algorithm=ppo,smoke',
    'algorithm=ppo,shared,smoke',
    'algorithm=instructgpt,smoke',
    'algorithm=dapo,smoke',
    'algorithm=online_dpo,smoke',
  ),
  'rlaif': ('', 'smoke', 'seeds', 'seeds,smoke'),
  'sample': (
    '',
    'smoke',
    'method=sample,policy=runs/sft,data=tldr,path=posts.jsonl,samples=8',
    'method=rejection,policy=runs/sft,reward=runs/reward,rounds=3',
    'method=rest,smoke',
    'method=hir,smoke',
    'method=imitation,policy=LABELER,model=runs/sft',
  ),
  'sft': ('', 'smoke'),
  'study': (
    '',
    'smoke',
    'data=Dahoas/rm-static,models=EleutherAI/gpt-neo-125m,'
    'labeler=Qwen/Qwen3-0.6B',
    'data=hh.jsonl,models=A/B-70m+A/B-1.6b,labeler=L,judge=J,prompts=p.jsonl,'
    'holdout=0.1,'
    'pairs=64,steps=10,batch=8,prompt=96,response=32,rate=1e-4,eval_size=16',
  ),
  'tiny_labelers': (
    '',
    'size=xs',
    'size=s',
    'size=l',
    'size=l,smoke',
    'size=s,asked',
  ),
}
# Blocks whose keys are the user's to choose.
FREE = {
  'algorithm_config', 'architecture', 'axes', 'evals', 'instructions',
  'labels', 'loss_options', 'mix', 'notes', 'options', 'policies',
  'reward_models', 'sharding_rules',
}  # fmt: skip


def fields_of(config, prefix=''):
  """(dotted key, value) of every field, but within the `FREE` blocks."""
  for key, value in config.items():
    if isinstance(value, ConfigDict) and key not in FREE:
      yield from fields_of(value, f'{prefix}{key}.')
    else:
      yield prefix + key, value


@pytest.mark.parametrize('name', stages.names())
def test_stage(name):
  module = stages.load(name)
  assert module.__doc__
  assert list(inspect.signature(module.run).parameters) == [
    'config',
    'workdir',
  ]
  config = module.default_config()
  assert config.stage == name
  assert config == module.default_config()
  assert config is not module.default_config()
  for key, value in fields_of(config):
    kinds = bool | int | float | str | tuple | ConfigDict
    assert isinstance(value, kinds), f'{key} has no type: {value!r}'
  json.dumps(config.to_dict())


@pytest.mark.parametrize('name', stages.names())
def test_every_field_is_used(name):
  """A field that no stage reads is a setting that does nothing."""
  sources = ''.join(
    path.read_text()
    for path in pathlib.Path(stages.__file__).parents[1].rglob('*.py')
    if path.parent.name
    in {
      'rlaif_jax',
      'stages',
      'rewards',
      'training',
      'inference',
      'data',
    }
  )
  for key, _ in fields_of(stages.load(name).default_config()):
    field = key.rpartition('.')[2]
    found = re.findall(rf'\b{field}\b', sources)
    assert len(found) > 1, f'{name}: nothing reads {key}'


def test_names_are_the_files():
  assert {'sft', 'label', 'reward', 'rl', 'evaluate', 'pipeline'} <= set(
    stages.names()
  )
  assert not {'common', '_options', '_report'} & set(stages.names())
  with pytest.raises(
    ValueError, match="'stf' is not a stage; there are: .*sft"
  ):
    stages.load('stf')


# -- configs ------------------------------------------------------------------


def test_all_config_files_are_tested():
  files = {p.stem for p in _CONFIGS.glob('*.py')} - {'common', '__init__'}
  assert files == ARGUMENTS.keys()


@pytest.mark.parametrize(
  ('name', 'arg'), [(n, a) for n, args in ARGUMENTS.items() for a in args]
)
def test_config_builds(config_module, name, arg):
  """Each of its stages gets exactly the fields that the stage has."""
  config = config_module(name).get_config(arg)
  json.dumps(config.to_dict())
  steps = config.steps.values() if 'steps' in config else ()
  for block in (config, *steps):
    default = dict(fields_of(stages.load(block.stage).default_config()))
    named = ('steps', 'tasks', 'labelers')  # the config file fills these
    given = {
      k: v for k, v in fields_of(block) if k.partition('.')[0] not in named
    }
    for key in named:
      default.pop(key, None)
    assert given.keys() == default.keys()
    for key, value in given.items():
      assert type(value) is type(default[key]), f'{name}:{arg}: {key}'


@pytest.mark.parametrize('name', ARGUMENTS)
def test_config_file_says_how_to_run_it(config_module, name):
  module = config_module(name)
  assert f'--config=configs/{name}.py' in module.__doc__
  assert '--workdir=' in module.__doc__
  assert '2309.00267' in module.__doc__
  text = f'{module.__doc__}{module.get_config.__doc__}'
  for arg in ARGUMENTS[name]:
    for key in filter(None, arg.split(',')):
      assert key.partition('=')[0] in text, f'{name}: {key} is not described'
  with pytest.raises(ValueError, match="'nonsense' is unknown; there are: "):
    module.get_config('nonsense=1')


@pytest.mark.parametrize(
  'name',
  [
    'rlaif', 'paper', 'study', 'tiny_labelers', 'constitutional', 'iterated',
    'methods', 'sample', 'full',
  ],
)  # fmt: skip
def test_pipelines_name_steps_before_them(config_module, name):
  for arg in ARGUMENTS[name]:
    config = config_module(name).get_config(arg)
    if config.stage == 'pipeline':
      stages.load('pipeline').check_steps(config)


def test_every_algorithm_has_a_config(config_module):
  """And what the stage asks of batch and options fits together."""
  module = config_module('rl')
  files = {file for file, _, _ in module.METHODS.values()}
  assert files == set(algorithms.names())
  for name in module.METHODS:
    for extra in ('', ',smoke'):
      config = module.get_config(f'algorithm={name}{extra}')
      rl.make_options(config)
  with pytest.raises(ValueError, match="'rlo' is unknown; .*rloo"):
    module.get_config('algorithm=rlo')


def test_paper_settings(config_module):
  """Lee et al. (2309.00267), App. E to G, in the config at full scale."""
  steps = config_module('paper').get_config('').steps
  for name in ('sft', 'reward_ai', 'reward_human', 'rlaif', 'rlhf'):
    c = steps[name]
    assert c.batch_size == 128
    assert (c.optimizer.name, c.optimizer.learning_rate) == ('adafactor', 1e-5)
    assert (c.max_prompt, c.max_response) == (1024, 128)
    assert c.num_steps == 0
  epochs = {'sft': 1, 'reward_ai': 3, 'rlaif': 8, 'direct_rlaif': 8}
  assert {name: steps[name].num_epochs for name in epochs} == epochs
  for name in ('rlaif', 'direct_rlaif', 'rlhf'):
    assert steps[name].sampling.temperature == 0.9
    assert steps[name].algorithm_config.beta == 0.05
  assert steps.labels_ai.labeler.prompt == 'summary_detailed_cot'
  assert steps.labels_ai.pairs == 'dataset'
  assert steps.direct_rlaif.reward.name == 'direct'
  assert config_module('sft').get_config('').optimizer.name == 'adafactor'
