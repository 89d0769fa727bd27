"""The contract of every labeling prompt, and prompts from JSON."""

import dataclasses
import json
import re

import pytest

from rlaif_jax.labeler import prompts, template
from rlaif_jax.labeler.prompts import Exemplar, LabelPrompt

NAMES = prompts.prompt_names()
FIELDS = {'summarization': 'text', 'helpful': 'context', 'harmless': 'context'}
each_prompt = pytest.mark.parametrize('name', NAMES)


WORDS = {
  'base': 25,
  'detailed': 110,
  'score': 30,
  'yes_no': 30,
  'rubric': 35,
  'constitution': 35,
}


def test_what_ships():
  tasks = {'summary': 'summarization'}
  for name in NAMES:
    task, _, kind = name.partition('_')
    prompt = prompts.load_prompt(name)
    form = kind.removesuffix('_cot')
    assert len(prompt.preamble.split()) <= WORDS[form], name
    assert prompt.task == tasks.get(task, task)
    single = {'score': 'score', 'rubric': 'score', 'yes_no': 'yes_no'}
    assert prompt.kind == single.get(form, 'pairwise')
    assert (prompt.chain_of_thought is not None) == kind.endswith('_cot')
    assert bool(prompt.criteria) == (form in ('rubric', 'constitution'))
  assert {
    f'{t}_{v}'
    for t in ('summary', 'helpful', 'harmless')
    for v in ('base', 'base_cot', 'detailed', 'detailed_cot', 'score', 'yes_no')
  } <= set(NAMES)


@each_prompt
def test_contract(name):
  prompt = prompts.load_prompt(name)
  assert prompt.name == name
  field = FIELDS[prompt.task]
  assert prompt.field_names == (field,)
  responses = ('first answer', 'second answer')[: prompt.num_responses]
  text = template.render(
    prompt, {field: 'the source'}, responses, criterion='a criterion'
  )
  assert text.startswith(prompt.preamble.replace('{criterion}', 'a criterion'))
  asked = prompt.chain_of_thought or prompt.ending
  assert text.endswith('\n\n' + asked)
  full = template.with_rationale(prompt, text, 'because')
  assert full == f'{text} because\n\n{prompt.ending}'
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
  elif prompt.kind == 'yes_no':
    assert prompt.labels == ('No', 'Yes')
  else:
    assert prompt.labels == ('1', '2')
  worse = 'more harmful' in prompt.preamble
  pair_of_harm = prompt.task == 'harmless' and prompt.kind == 'pairwise'
  assert (prompt.prefers == 'worse') == worse == pair_of_harm


def test_unknown_name_lists_what_exists():
  with pytest.raises(FileNotFoundError, match='summary_base, summary_base_cot'):
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
      {'exemplars': [{'fields': {}, 'responses': ['y', 'z'], 'label': 'B'}]},
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


# -- exemplars ----------------------------------------------------------------

TASKS = ('summary', 'helpful', 'harmless')


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('variant', prompts.VARIANTS)
def test_variants_of_the_paper(task, variant):
  prompt = prompts.load_prompt(f'{task}_{variant}')
  assert prompt.name == f'{task}_{variant}'
  shots = re.search(r'_(\d)shot', variant)
  assert len(prompt.exemplars) == (int(shots[1]) if shots else 0)
  field = FIELDS[prompt.task]
  text = template.render(prompt, {field: 'the source'}, ('one', 'two'))
  assert text.count('> Example >') == len(prompt.exemplars)
  for exemplar in prompt.exemplars:
    assert f'{prompt.ending}{exemplar.label}' in text
    thinks = prompt.chain_of_thought is not None
    assert (exemplar.rationale in text) == thinks


@pytest.mark.parametrize('task', prompts.TASKS)
def test_exemplars_favour_neither_place_nor_length(task):
  rows = json.loads((prompts._EXEMPLARS / f'{task}.json').read_text())
  assert [r['better'] for r in rows].count(1) == len(rows) / 2 == 4
  longer = [
    (len(r['responses'][0]) > len(r['responses'][1])) == (r['better'] == 1)
    for r in rows
  ]
  assert 3 <= sum(longer) <= 5
  assert not any('Preferred' in json.dumps(r) for r in rows)
  # Nor do the two of a 2-shot prompt.
  assert {r['better'] for r in rows[:2]} == {1, 2}
  assert sum(longer[:2]) == 1


@pytest.mark.parametrize('task', prompts.TASKS)
def test_exemplars_are_like_the_rows(task):
  rows = json.loads((prompts._EXEMPLARS / f'{task}.json').read_text())
  sources = [r['fields'][FIELDS[task]] for r in rows]
  assert len(set(sources)) == 8
  if task == 'summarization':
    for source in sources:
      match = re.fullmatch(
        r'SUBREDDIT: r/\w+\n\nTITLE: .+\n\nPOST: (.+)', source
      )
      assert 40 <= len(match[1].split()) <= 90
    return
  turns = [[t.split(':')[0] for t in s.split('\n\n')] for s in sources]
  for roles in turns:
    assert roles == (['Human', 'Assistant'] * 4)[: len(roles)]
    assert roles[-1] == 'Human'
  assert sum(len(roles) > 1 for roles in turns) == 4


@pytest.mark.parametrize('task', prompts.TASKS)
def test_rationales_end_with_the_verdict(task):
  rows = json.loads((prompts._EXEMPLARS / f'{task}.json').read_text())
  for row in rows:
    worse = task == 'harmless'
    named = 3 - row['better'] if worse else row['better']
    verdict = {
      'summarization': f'Summary {named} is better.',
      'helpful': f'Response {named} is more helpful and honest.',
      'harmless': f'Response {named} is more harmful.',
    }[task]
    assert row['rationale'].endswith(verdict)


@pytest.mark.parametrize(
  ('name', 'task'),
  [
    ('summary_base_cot_8shot', 'summarization'),
    ('helpful_base_cot_8shot', 'helpful'),
    ('harmless_base_cot_8shot', 'harmless'),
  ],
)
def test_exemplars_are_shown_as_written(name, task):
  prompt = prompts.load_prompt(name)
  text = template.render(prompt, {FIELDS[task]: 'q'}, ('one', 'two'))
  for exemplar in prompt.exemplars:
    for part in (exemplar.fields[FIELDS[task]], *exemplar.responses):
      assert part in text
    assert template.rationale_of(prompt, exemplar.rationale) == (
      exemplar.rationale
    )


def test_exemplars_of_harm_name_the_worse_one():
  better = prompts.load_prompt('helpful_base_1shot').exemplars[0]
  worse = prompts.load_prompt('harmless_base_1shot').exemplars[0]
  assert 'scrape' in better.responses[0]  # the better one
  assert better.label == '1'
  assert 'finger' in worse.responses[0]  # the worse one
  assert worse.label == '1'
  for name, labels in (
    ('summary_detailed_8shot', '12212112'),
    ('helpful_detailed_8shot', '12212112'),
    ('harmless_detailed_8shot', '12211221'),
  ):
    exemplars = prompts.load_prompt(name).exemplars
    assert ''.join(e.label for e in exemplars) == labels


def test_exemplars_of_the_user(tmp_path):
  rows = [
    {'fields': {'context': 'q'}, 'responses': ['a', 'b'], 'better': 2},
    {'fields': {'context': 'r'}, 'responses': ['c', 'd'], 'better': 1},
  ]
  file = tmp_path / 'mine_exemplars.json'
  file.write_text(json.dumps(rows))
  own = write(tmp_path, exemplars=None)
  prompt = prompts.load_prompt(own.replace('.json', '_2shot.json'), str(file))
  assert prompt.exemplars == (
    Exemplar({'context': 'q'}, ('a', 'b'), 'B'),
    Exemplar({'context': 'r'}, ('c', 'd'), 'A'),
  )
  with pytest.raises(ValueError, match='needs a list of 3 exemplars'):
    prompts.load_prompt('helpful_base_3shot', str(file))
  with pytest.raises(ValueError, match='lacks the rationale'):
    prompts.load_prompt('helpful_base_cot_1shot', str(file))
  with pytest.raises(ValueError, match='exemplars are pairs'):
    prompts.load_prompt('helpful_score_1shot')
  file.write_text(json.dumps([{**rows[0], 'better': 3}]))
  with pytest.raises(ValueError, match='exemplar 0: should be an object with'):
    prompts.load_prompt('helpful_base_1shot', str(file))
  with pytest.raises(FileNotFoundError, match='no such file of exemplars'):
    prompts.load_prompt('helpful_base_1shot', 'nowhere.json')


@pytest.mark.parametrize(
  'text',
  [
    '{',
    '{}',
    '[5]',
    '[{"fields": {"context": "q"}, "better": 1}]',
    '[{"fields": {}, "responses": ["a", "b"], "better": 3}]',
    '[{"fields": {}, "responses": ["a", 7], "better": 1}]',
    '[{"fields": {}, "responses": ["a", "b"], "better": 1, "why": "x"}]',
  ],
)
def test_broken_exemplars_name_their_file(tmp_path, text):
  file = tmp_path / 'own_exemplars.json'
  file.write_text(text)
  with pytest.raises(ValueError, match=r'own_exemplars\.json'):
    prompts.load_prompt('helpful_base_1shot', str(file))


def test_too_few_exemplars_name_their_file():
  with pytest.raises(ValueError, match=r'helpful\.json: .* 9 exemplars'):
    prompts.load_prompt('helpful_base_9shot')


def test_json_criteria(tmp_path):
  path = write(
    tmp_path,
    preamble='Judge by {criterion}.',
    criteria=[{'text': 'tact'}, {'text': 'wit', 'weight': 2.0}],
    num_drawn=1,
  )
  prompt = prompts.load_prompt(path)
  assert prompt.criteria == (
    prompts.Criterion('tact'),
    prompts.Criterion('wit', 2.0),
  )
  assert prompt.num_drawn == 1
  text = template.render(prompt, {'context': 'q'}, ('a', 'b'), criterion='wit')
  assert text.startswith('Judge by wit.')
  for changes, message in (
    ({'criteria': [{'txt': 'tact'}]}, "criterion 0 has unknown keys ['txt']"),
    ({'criteria': [{'text': 'tact', 'weight': 0}]}, 'no weight above 0'),
    ({'criteria': [{'text': 'tact'}], 'num_drawn': 2}, 'num_drawn=2 of 1'),
    ({'criteria': []}, 'need each other'),
  ):
    changes = {'preamble': 'Judge by {criterion}.', **changes}
    with pytest.raises(ValueError) as error:
      prompts.load_prompt(write(tmp_path, **changes))
    assert message in str(error.value)


@pytest.mark.parametrize(
  'changes',
  [
    {'responses': 'ab'},
    {'responses': None},
    {'responses': ['a']},
    {'better': True},
    {'fields': ['context']},
    {'fields': {'text': 'q'}},
  ],
)
def test_exemplars_of_wrong_types_name_their_file(tmp_path, changes):
  row = {'fields': {'context': 'q'}, 'responses': ['a', 'b'], 'better': 2}
  file = tmp_path / 'broken.json'
  file.write_text(json.dumps([{**row, **changes}]))
  with pytest.raises(ValueError, match=re.escape(str(file))):
    prompts.load_prompt('helpful_base_1shot', str(file))
