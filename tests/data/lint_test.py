import dataclasses
import gzip
import json
import math

import pytest

from rlaif_jax.data import lint, records
from rlaif_jax.data.records import PreferenceRecord


def record(name='r0', **kwargs):
  return PreferenceRecord(
    **{
      'id': name,
      'prompt': f'prompt of {name}',
      'response_1': 'one',
      'response_2': 'two',
      'p_first': 0.25,
      **kwargs,
    }
  )


def row(**kwargs):
  return {
    'prompt': 'p',
    'response_1': 'a',
    'response_2': 'b',
    'p_first': 0.75,
    **kwargs,
  }


def write_lines(path, *rows):
  lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
  path.write_text('\n'.join(lines) + '\n')
  return path


def found(preferences, evaluation=()):
  """{code: finding} of records in memory."""
  findings = lint.check(
    lint.rows_of(preferences), lint.rows_of(evaluation, 'held out')
  )
  assert len({f.code for f in findings}) == len(findings)
  return {f.code: f for f in findings}


def places(finding):
  return [where.place for where in finding.rows]


def test_sound_records_have_no_finding():
  assert found([record('a'), record('b', logprobs_12=(-1, -2),
                                    logprobs_21=(-2, -1))]) == {}  # fmt: skip
  assert lint.check([]) == []


# -- duplicates and contradictions --------------------------------------------


def test_planted_duplicates():
  first = record('a', p_first=0.9)
  swapped = record(
    'c',
    prompt=first.prompt,
    response_1='two',
    response_2='one',
    p_first=0.3,
  )
  other_prompt = record('d', p_first=0.9)
  same = record('e', prompt=first.prompt, p_first=0.6)
  finding = found([first, swapped, other_prompt, same])['duplicate']
  assert finding.severity == 'warning'
  assert finding.count == 2
  assert [tuple(where) for where in finding.rows] == [
    ('record 1', 'c', 'as record 0'),
    ('record 3', 'e', 'as record 0'),
  ]


def test_contradictions_are_opposite_verdicts_in_either_order():
  first = record('a', p_first=0.9)
  alike = dict(prompt=first.prompt)
  turned = dict(response_1='two', response_2='one', **alike)
  against = record('b', p_first=0.1, **alike)
  swapped = record('b', p_first=0.9, **turned)
  for other in (against, swapped):
    findings = found([first, other])
    assert findings['contradiction'].count == 1
    assert findings['contradiction'].rows[0].note == 'against record 0'
    assert 'duplicate' not in findings
  # A tie contradicts nothing, nor does a verdict that is missing.
  for p in (0.5, math.nan):
    assert 'contradiction' not in found(
      [first, record('b', p_first=p, **alike)]
    )
  # Three raters of one pair: one contradiction, and one row twice.
  findings = found([first, against, record('c', p_first=0.2, **alike)])
  assert findings['contradiction'].count == 1
  assert findings['duplicate'].count == 1


def test_one_id_for_two_pairs():
  findings = found([record('a'), record('a', response_1='three')])
  assert findings['shared-id'].rows[0].note == 'as record 0'
  again = [record('a'), record('a')]  # that is a duplicate
  assert set(found(again)) == {'duplicate'}


# -- single rows --------------------------------------------------------------


@pytest.mark.parametrize(
  ('change', 'code', 'severity'),
  [
    ({'p_first': math.nan}, 'missing-verdict', 'error'),
    ({'p_first': 1.01}, 'impossible-verdict', 'error'),
    ({'p_first': -3.0}, 'impossible-verdict', 'error'),
    ({'p_first': math.inf}, 'impossible-verdict', 'error'),
    ({'logprobs_12': (math.nan, -1.0)}, 'bad-logprobs', 'error'),
    ({'logprobs_12': (-math.inf, -1.0)}, 'bad-logprobs', 'error'),
    ({'logprobs_12': (-1.0,)}, 'bad-logprobs', 'error'),
    ({'logprobs_12': (-1.0, -2.0)}, 'single-order', 'warning'),
    ({'response_1': 'two'}, 'identical-responses', 'error'),
    ({'response_1': ' \n'}, 'empty-text', 'warning'),
    ({'prompt': ''}, 'empty-text', 'warning'),
  ],
)
def test_faults_of_single_rows(change, code, severity):
  orders = {}
  if 'logprobs_12' in change and code == 'bad-logprobs':
    orders['logprobs_21'] = (-1.0, -2.0)
  findings = found([record('a'), record('b', **orders, **change)])
  assert list(findings) == [code]
  assert findings[code].severity == severity
  assert findings[code].count == 1
  assert places(findings[code]) == ['record 1']
  assert findings[code].rows[0].id == 'b'


def test_ties_are_a_warning_where_there_are_many():
  few = [record(str(i), p_first=0.5 if i < 2 else 0.9) for i in range(10)]
  assert found(few)['tie'].severity == 'info'
  assert found(few)['tie'].message.startswith('20.0% of the labels')
  many = [record(str(i), p_first=0.5 if i < 3 else 0.9) for i in range(10)]
  assert found(many)['tie'].severity == 'warning'
  assert found(many)['tie'].count == 3


def test_findings_name_the_first_rows_and_come_worst_first():
  rows = [record(str(i), p_first=0.5) for i in range(8)]
  findings = lint.check(lint.rows_of([*rows, record('x', p_first=2.0)]))
  assert [f.severity for f in findings] == ['error', 'warning']
  assert findings[1].count == 8
  assert places(findings[1]) == [f'record {i}' for i in range(5)]


# -- leakage ------------------------------------------------------------------


def test_leaked_prompts_whatever_their_case_and_spaces():
  train = [record('a', prompt='What\n is  it?'), record('b', response_1='x')]
  held_out = [record('e', prompt=' what is IT? ', response_1='other')]
  findings = found(train, held_out)
  assert set(findings) == {'leaked-prompt'}
  assert findings['leaked-prompt'].severity == 'error'
  assert findings['leaked-prompt'].rows == (('record 0', 'a', 'as held out 0'),)


def test_leaked_pairs_in_any_order():
  train = [record('a'), record('b', response_1='one more')]
  held_out = [record('e', response_1='TWO', response_2='One')]
  findings = found(train, held_out)
  assert set(findings) == {'leaked-pair'}
  assert places(findings['leaked-pair']) == ['record 0']


def test_an_evaluation_set_may_hold_prompts_alone(tmp_path):
  path = write_lines(tmp_path / 'e.jsonl', {'prompt': 'p'}, {'text': 'p'})
  rows, findings = lint.read(path, need_pair=False)
  assert len(rows) == 1
  assert findings[0].count == 1
  assert "no column 'prompt'" in findings[0].rows[0].note
  train = lint.rows_of([record('a', prompt='P')])
  assert [f.code for f in lint.leakage(train, rows)] == ['leaked-prompt']
  empty = lint.rows_of([record('a', response_1='', response_2=' ')])
  assert lint.leakage(empty, rows) == []  # they have no pair to leak
  assert len(lint.read(path)[0]) == 0


# -- reading ------------------------------------------------------------------


def test_broken_rows_are_findings_and_the_rest_is_read(tmp_path):
  path = write_lines(
    tmp_path / 'p.jsonl',
    row(id='ok'),
    '{"prompt": ',
    row(prompt=3, id='text'),
    '[1]',
    {'prompt': 'p'},
    row(p_first='0.5'),
    row(p_first=True),
    row(logprobs_12='x'),
    row(logprobs_12=['x', 1]),
    row(fields=[1]),
    row(id='ok too'),
  )
  with open(path, 'a') as file:
    file.write('{"half')
  rows, (finding,) = lint.read(path)
  assert [(r.place, r.record.id) for r in rows] == [
    (f'{path}:1', 'ok'),
    (f'{path}:11', 'ok too'),
  ]
  assert (finding.code, finding.severity) == ('unreadable', 'error')
  assert finding.count == 10
  assert finding.rows[0].place == f'{path}:2'
  assert finding.rows[0].note.startswith('not valid JSON')
  assert finding.rows[1] == (
    f'{path}:3',
    'text',
    "column 'prompt' should be text but is int",
  )


def test_a_half_written_last_line(tmp_path):
  path = tmp_path / 'p.jsonl'
  path.write_text(json.dumps(row()) + '\n' + json.dumps(row())[:-9])
  rows, (finding,) = lint.read(path)
  assert len(rows) == 1
  assert 'half-written' in finding.rows[0].note
  path.write_text(json.dumps(row()))  # whole, though without a line break
  assert lint.read(path)[1] == []


def test_nulls_and_nan_are_read(tmp_path):
  path = write_lines(
    tmp_path / 'p.jsonl',
    row(p_first=None),
    row(p_first=math.nan, logprobs_12=[None, -1], logprobs_21=[-1, math.inf]),
    {key: value for key, value in row().items() if key != 'p_first'},
    row(response_2='a', p_first=0.9),
  )
  rows, findings = lint.read(path)
  assert findings == []
  counts = {f.code: f.count for f in lint.single_rows(rows)}
  assert counts == {
    'missing-verdict': 3,
    'bad-logprobs': 1,
    'identical-responses': 1,
  }


def test_trl_rows(tmp_path):
  pair = {'prompt': 'p', 'chosen': 'a', 'rejected': 'b'}
  path = write_lines(
    tmp_path / 'p.jsonl',
    pair,
    {**pair, 'rejected': ' a '},
    {**pair, 'chosen': 'b', 'rejected': 'a'},
    {**pair, 'chosen': None},
    {
      'prompt': [{'role': 'user', 'content': 'Hi?'}],
      'chosen': [{'role': 'assistant', 'content': 'Hello.'}],
      'rejected': [{'role': 'assistant', 'content': 'No.'}],
    },
    {**pair, 'rejected': 'c'},
  )
  rows, (broken,) = lint.read(path)
  assert places(broken) == [f'{path}:4']
  codes = {f.code: f for f in lint.check(rows)}
  assert set(codes) == {'identical-responses', 'contradiction'}
  assert places(codes['identical-responses']) == [f'{path}:2']
  assert places(codes['contradiction']) == [f'{path}:3']


@pytest.mark.parametrize('name', ['p.jsonl.gz', 'p.json', 'p.parquet'])
def test_other_files(tmp_path, name):
  rows = [row(id='a'), row(id='b', prompt='q', response_2='a')]
  path = tmp_path / name
  if name.endswith('.gz'):
    with gzip.open(path, 'wt') as file:
      file.writelines(json.dumps(r) + '\n' for r in rows)
  elif name.endswith('.json'):
    path.write_text(json.dumps(rows))
  else:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
  read, findings = lint.read(path)
  assert findings == []
  (finding,) = lint.single_rows(read)
  assert (finding.code, finding.count) == ('identical-responses', 1)
  assert finding.rows[0].id == 'b'
  assert str(path) in finding.rows[0].place


def test_a_cut_download_keeps_what_there_is(tmp_path):
  lines = ''.join(json.dumps(row(id=str(i), x='ab' * i)) + '\n'
                  for i in range(2000))  # fmt: skip
  path = tmp_path / 'p.jsonl.gz'
  path.write_bytes(gzip.compress(lines.encode())[:-200])
  rows, (finding,) = lint.read(path)
  assert 0 < len(rows) < 2000
  assert 'broken gzip file' in finding.rows[0].note


def test_no_file_at_all(tmp_path):
  with pytest.raises(FileNotFoundError, match='no such file'):
    lint.read(tmp_path / 'gone.jsonl')
  (tmp_path / 'empty.jsonl').write_text('\n')
  with pytest.raises(ValueError, match='the file is empty'):
    lint.read(tmp_path / 'empty.jsonl')
  (tmp_path / 'p.csv').write_text('a,b')
  with pytest.raises(ValueError, match='cannot read this kind of file'):
    lint.read(tmp_path / 'p.csv')


@pytest.mark.parametrize(
  'change',
  [
    {},
    {'p_first': 0},
    {'p_first': None},
    {'p_first': '1'},
    {'p_first': 1.5},
    {'p_first': math.inf},
    {'prompt': None},
    {'response_2': 'a'},
    {'response_2': ''},
    {'logprobs_12': [math.nan, 0], 'logprobs_21': [0, 0]},
    {'logprobs_12': 5},
    {'rationales': 'why'},
    {'meta': [1]},
    {'fields': '{x'},
    {'extra': 1},
  ],
)
def test_what_stops_training_is_an_error_here_and_the_rest_is_not(
  tmp_path, change
):
  path = write_lines(tmp_path / 'p.jsonl', row(prompt='q'), row(**change))
  rows, findings = lint.read(path)
  findings += lint.check(rows)
  try:
    strict = records.read_preferences(path)
  except ValueError:
    assert 'error' in {f.severity for f in findings}
    return
  assert 'error' not in {f.severity for f in findings}
  assert [r.record for r in rows] == strict


def test_the_rows_of_our_own_files_are_read_as_they_are(tmp_path):
  path = tmp_path / 'p.jsonl'
  full = record(
    logprobs_12=(-0.5, -1.5),
    logprobs_21=(-2.0, -0.25),
    rationales=('because', 'since'),
    prompt_name='x',
    labeler='y',
    fields={'text': 'POST'},
    meta={'human_p_first': None},
  )
  records.append(path, [full, dataclasses.replace(full, id='r1')])
  rows, _ = lint.read(path)
  assert [r.record for r in rows] == records.read(path)


# -- real data ----------------------------------------------------------------


@pytest.mark.parametrize('split', ['train', 'valid'])
def test_the_contradictions_of_real_raters(shared_data, split):
  path = (
    shared_data
    / f'summarize-from-feedback/tldr_human_comparisons_{split}.jsonl.gz'
  )
  rows, broken = lint.read(path)
  assert broken == []
  codes = {f.code: f for f in lint.check(rows)}
  seen, opposite = set(), 0
  with gzip.open(path, 'rt', encoding='utf-8') as lines:
    for line in lines:
      r = json.loads(line)
      opposite += (r['prompt'], r['rejected'], r['chosen']) in seen
      seen.add((r['prompt'], r['chosen'], r['rejected']))
  assert codes['contradiction'].count == opposite == 49
  assert 'duplicate' not in codes
  assert not [f for f in codes.values() if f.severity == 'error']


def test_real_judgements_that_could_not_be_read(shared_data, tmp_path):
  path = shared_data / 'llmbar/llmbar_ai_judge_outputs_dev.jsonl.gz'
  rows, missing = [], 0
  with gzip.open(path, 'rt', encoding='utf-8') as lines:
    for line in lines:
      r = json.loads(line)
      both = [r['winner_12'], r['winner_21']]
      missing += None in both
      p = None if None in both else both.count('1') / 2
      name = '-'.join(str(r[k]) for k in ('subset', 'idx', 'judge', 'style'))
      rows.append(row(id=name, prompt=name, p_first=p))
  labels, _ = lint.read(write_lines(tmp_path / 'p.jsonl', *rows))
  codes = {f.code: f for f in lint.check(labels)}
  assert codes['missing-verdict'].count == missing == 15
  assert set(codes) == {'missing-verdict', 'tie'}
