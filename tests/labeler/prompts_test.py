"""The contract of every labeling prompt, and prompts from JSON."""

import dataclasses
import json

import pytest

from rlaif_jax.labeler import prompts, template
from rlaif_jax.labeler.prompts import Exemplar, LabelPrompt

NAMES = prompts.prompt_names()
FIELDS = {'summarization': 'text', 'helpful': 'context', 'harmless': 'context'}
each_prompt = pytest.mark.parametrize('name', NAMES)


def test_what_ships():
  kinds = {'base': 25, 'detailed': 110, 'score': 30}
  tasks = {'summary': 'summarization', 'helpful': 'helpful'}
  assert len(NAMES) == 9
  for name in NAMES:
    task, kind = name.split('_')
    prompt = prompts.load_prompt(name)
    assert len(prompt.preamble.split()) <= kinds[kind]
    assert prompt.task == tasks.get(task, task)
    assert prompt.kind == ('score' if kind == 'score' else 'pairwise')


@each_prompt
def test_contract(name):
  prompt = prompts.load_prompt(name)
  assert prompt.name == name
  field = FIELDS[prompt.task]
  assert prompt.field_names == (field,)
  responses = ('first answer', 'second answer')[: prompt.num_responses]
  text = template.render(prompt, {field: 'the source'}, responses)
  assert text.startswith(prompt.preamble)
  assert text.endswith('\n\n' + prompt.ending)
  # The boundary of the label needs no space.
  assert prompt.ending == prompt.ending.strip()
  for part in ('the source', *responses):
    assert text.count(part) == 1
  hash(prompt)


@each_prompt
def test_labels_and_direction(name):
  prompt = prompts.load_prompt(name)
  if prompt.kind == 'score':
    assert prompt.labels == tuple(map(str, range(1, 11)))
    assert prompt.prefers == 'better'
  else:
    assert prompt.labels == ('1', '2')
    worse = 'more harmful' in prompt.preamble
    assert (prompt.prefers == 'worse') == worse == (prompt.task == 'harmless')


def test_unknown_name_lists_what_exists():
  with pytest.raises(FileNotFoundError, match='summary_base, summary_detailed'):
    prompts.load_prompt('summary_bse')
  with pytest.raises(FileNotFoundError, match='no labeling prompt'):
    prompts.load_prompt('missing.json')


def write(tmp_path, **changes):
  data = dict(
    task='helpful',
    preamble='Judge.',
    template='{context}\n\nA - {response_1}\n\nB - {response_2}',
    ending='Best=',
    labels=['A', 'B'],
    exemplars=[{'fields': {'context': 'x'}, 'responses': ['y', 'z'],
                'label': 'B'}],
  )  # fmt: skip
  data.update(changes)
  path = tmp_path / 'mine.json'
  path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}))
  return str(path)


def test_json_prompt(tmp_path):
  prompt = prompts.load_prompt(write(tmp_path, prefers='worse'))
  assert prompt == LabelPrompt(
    name='mine',
    task='helpful',
    preamble='Judge.',
    template='{context}\n\nA - {response_1}\n\nB - {response_2}',
    ending='Best=',
    labels=('A', 'B'),
    prefers='worse',
    exemplars=(Exemplar({'context': 'x'}, ('y', 'z'), 'B'),),
  )


@pytest.mark.parametrize('name', NAMES)
def test_json_holds_every_shipped_prompt(tmp_path, name):
  prompt = prompts.load_prompt(name)
  path = tmp_path / 'copy.json'
  path.write_text(json.dumps(dataclasses.asdict(prompt)))
  assert prompts.load_prompt(str(path)) == prompt


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'temprature': 1}, "unknown keys ['temprature']"),
    ({'ending': None}, "lacks ['ending']"),
    ({'task': 'sumarization'}, "task is 'sumarization'"),
    ({'prefers': 'best'}, "prefers is 'best'"),
    ({'ending': ' '}, 'the ending is empty'),
    ({'labels': ['1', '1']}, 'are empty or repeat'),
    ({'labels': ['1', '2', '3']}, 'has 2 labels, not 3'),
    ({'labels': '12'}, 'labels must be a list'),
    ({'template': '{context} {response_1}'}, 'lacks {response_2}'),
    ({'template': 7}, 'template must be a string'),
    ({'exemplars': [{'fields': {}}]}, 'exemplar 0 has unknown keys []'),
    (
      {'exemplars': [{'fields': {}, 'responses': 'yz', 'label': 'B'}]},
      "exemplar 0 lacks the fields ['context']",
    ),
    (
      {
        'exemplars': [
          {'fields': {'context': ''}, 'responses': ['y', 'z'], 'label': '2'}
        ]
      },
      "label '2'",
    ),
  ],
)
def test_json_errors(tmp_path, changes, message):
  with pytest.raises(ValueError) as error:
    prompts.load_prompt(write(tmp_path, **changes))
  assert message in str(error.value)


def test_json_that_is_none(tmp_path):
  path = tmp_path / 'broken.json'
  path.write_text('{')
  with pytest.raises(ValueError, match=r'broken\.json is not valid JSON'):
    prompts.load_prompt(str(path))
  path.write_text('[]')
  with pytest.raises(ValueError, match='expected an object'):
    prompts.load_prompt(str(path))
