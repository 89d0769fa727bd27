import gzip
import json
import math

import numpy as np
import pytest

from rlaif_jax.data import records
from rlaif_jax.data.records import PreferenceRecord


def record(name='r0', **kwargs):
  return PreferenceRecord(
    **{
      'id': name,
      'prompt': 'POST: x\n\nTL;DR:',
      'response_1': 'one',
      'response_2': 'two',
      'p_first': 0.25,
      **kwargs,
    }
  )


FULL = record(
  logprobs_12=(-0.5, -1.5),
  logprobs_21=(-2.0, -0.25),
  rationales=('because', 'since'),
  prompt_name='summary_detailed',
  labeler='tiny:labeler_s',
  labeler_hash='ab',
  config_hash='cd',
  fields={'text': 'POST: x'},
  meta={'human_p_first': None, 'n': 3},
)


def write_lines(path, *rows):
  lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
  path.write_text('\n'.join(lines) + '\n')
  return path


def row(**kwargs):
  return {
    'prompt': 'p',
    'response_1': 'a',
    'response_2': 'b',
    'p_first': 0.5,
    **kwargs,
  }


def test_append_and_read(tmp_path):
  path = tmp_path / 'labels' / 'preferences.jsonl'
  assert records.done_ids(path) == set()
  records.append(path, [FULL])
  records.append(path, [record('r1'), record('r2')])
  records.append(path, [])
  assert records.read(path) == [FULL, record('r1'), record('r2')]
  assert records.done_ids(path) == {'r0', 'r1', 'r2'}
  assert records.read(path)[0].pair == ('one', 'two')


def test_append_takes_numpy_numbers(tmp_path):
  path = tmp_path / 'p.jsonl'
  number = np.float32
  records.append(
    path, [record(p_first=number(0.25), logprobs_12=(number(-1),))]
  )
  (line,) = path.read_text().splitlines()
  assert json.loads(line)['p_first'] == 0.25
  assert json.loads(line)['logprobs_12'] == [-1.0]


def test_impossible_labels_stay_valid_json(tmp_path):
  path = tmp_path / 'p.jsonl'
  records.append(path, [record(logprobs_12=(0.0, -math.inf))])
  assert 'Infinity' not in path.read_text()
  assert records.read(path)[0].logprobs_12[1] < -1e30


def test_half_written_line_is_dropped_and_then_removed(tmp_path):
  path = tmp_path / 'p.jsonl'
  records.append(path, [record('r0'), record('r1')])
  whole = path.read_bytes()
  path.write_bytes(whole[:-20])  # killed while writing r1
  with pytest.warns(UserWarning, match='half-written'):
    assert records.done_ids(path) == {'r0'}
  with pytest.warns(UserWarning, match='half-written'):
    records.append(path, [record('r1')])
  assert path.read_bytes() == whole


def test_half_written_first_line(tmp_path):
  path = tmp_path / 'p.jsonl'
  path.write_text('{"id": "r')
  with pytest.warns(UserWarning, match='half-written'):
    records.append(path, [record('r1')])
  assert records.done_ids(path) == {'r1'}


def test_last_line_without_line_break_is_whole(tmp_path):
  path = tmp_path / 'p.jsonl'
  path.write_text(json.dumps(row(id='x')))
  records.append(path, [record('r1')])
  assert records.done_ids(path) == {'x', 'r1'}


def test_broken_line_in_the_middle_names_the_line(tmp_path):
  path = write_lines(tmp_path / 'p.jsonl', row(), '{"prompt": ', row())
  for read in (records.read, records.read_preferences):
    with pytest.raises(ValueError, match=r'p\.jsonl:2: not valid JSON'):
      read(path)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'p_first': math.nan}, 'p_first is nan'),
    ({'p_first': math.inf}, 'p_first is inf'),
    ({'p_first': 1.5}, 'p_first is 1.5, outside'),
    ({'p_first': -0.1}, 'p_first is -0.1, outside'),
    ({'p_first': '1'}, "p_first should be a number but is '1'"),
    ({'p_first': None}, 'p_first should be a number but is None'),
    ({'prompt': None}, "column 'prompt' is null"),
    ({'prompt': 3}, "column 'prompt' should be text but is int"),
    ({'response_2': 'a'}, 'response_1 and response_2 are identical'),
    ({'logprobs_12': [math.nan, 0]}, 'logprobs_12 has a NaN'),
    ({'logprobs_12': 5}, 'logprobs_12 should be a list of numbers but is 5'),
    ({'logprobs_21': [None, 0]}, 'logprobs_21 should be a list of numbers'),
    ({'rationales': 'why'}, 'rationales should be a list of texts'),
    ({'meta': [1]}, 'meta should be an object'),
    ({'fields': [1]}, "column 'fields' should be an object of texts"),
    ({'fields': {'text': 1}}, "fields: column 'text' should be text"),
    ({'fields': '{x'}, 'fields: not valid JSON'),
  ],
)
def test_bad_rows_are_named(tmp_path, change, message):
  path = write_lines(tmp_path / 'p.jsonl', row(), row(**change))
  for read in (records.read, records.read_preferences):
    with pytest.raises(ValueError, match=r'p\.jsonl:2: ') as error:
      read(path)
    assert message in str(error.value)


def test_missing_column_lists_what_is_there(tmp_path):
  path = write_lines(tmp_path / 'p.jsonl', {'prompt': 'a', 'answer': 'b'})
  with pytest.raises(ValueError, match="'response_1'.* it has answer, prompt"):
    records.read_preferences(path)


def test_append_refuses_bad_records_before_writing(tmp_path):
  path = tmp_path / 'p.jsonl'
  with pytest.raises(ValueError, match='record r1: p_first is nan'):
    records.append(path, [record('r0'), record('r1', p_first=math.nan)])
  assert not path.exists()


def test_missing_and_empty_files(tmp_path):
  empty = tmp_path / 'empty.jsonl'
  empty.write_text('')
  assert records.read(empty) == []
  with pytest.raises(ValueError, match='empty.jsonl: the file is empty'):
    records.read_preferences(empty)
  for read in (records.read, records.read_preferences):
    with pytest.raises(FileNotFoundError, match='gone.jsonl: no such file'):
      read(tmp_path / 'gone.jsonl')
  (tmp_path / 'p.csv').write_text('a,b')
  with pytest.raises(ValueError, match='cannot read this kind of file'):
    records.read_preferences(tmp_path / 'p.csv')


def test_broken_gzip(tmp_path):
  path = tmp_path / 'p.jsonl.gz'
  path.write_bytes(gzip.compress(json.dumps(row()).encode() * 50)[:-12])
  with pytest.raises(ValueError, match='broken gzip file'):
    records.read_preferences(path)


def test_foreign_columns_go_to_meta_and_ids_are_stable(tmp_path):
  path = write_lines(tmp_path / 'p.jsonl', row(worker='w1'))
  (first,) = records.read_preferences(path)
  (second,) = records.read_preferences(path)
  assert first.meta == {'worker': 'w1'}
  assert first.id == second.id
  assert len(first.id) == 16


@pytest.mark.parametrize('name', ['p.jsonl', 'p.parquet'])
def test_write_and_read_back(tmp_path, name):
  path = tmp_path / 'new' / name
  rows = [FULL, record('r1')]
  records.write(path, rows)
  assert records.read_preferences(path) == rows
  with pytest.raises(FileExistsError, match='exists already'):
    records.write(path, rows)
  with pytest.raises(ValueError, match='no record to write'):
    records.write(tmp_path / 'none.jsonl', [])


def test_to_trl_orders_by_preference():
  assert records.to_trl(record(p_first=0.25)) == {
    'prompt': 'POST: x\n\nTL;DR:',
    'chosen': ' two',
    'rejected': ' one',
    'margin': pytest.approx(math.log(3)),
  }
  certain = records.to_trl(record(p_first=1.0))
  assert certain['chosen'] == ' one'
  assert math.isfinite(certain['margin'])


def test_trl_round_trip(tmp_path):
  path = tmp_path / 'trl.jsonl'
  rows = [record(str(i), response_1=f'a{i}') for i in range(20)]
  records.write_trl(path, rows)
  soft = records.read_preferences(path, margin_is_logit=True)
  for before, after in zip(rows, soft, strict=True):
    p_of = dict(
      zip(after.pair, (after.p_first, 1 - after.p_first), strict=True)
    )
    assert p_of[before.response_1] == pytest.approx(0.25)
  hard = records.read_preferences(path)
  # Position tells nothing: the chosen one stands on either side.
  assert {r.p_first for r in hard} == {0.0, 1.0}
  assert all(r.pair[0 if r.p_first else 1] == 'two' for r in hard)
  with pytest.raises(FileExistsError):
    records.write_trl(path, rows)


def test_trl_chat_messages(tmp_path):
  path = write_lines(
    tmp_path / 'chat.jsonl',
    {
      'id': 7,
      'prompt': [{'role': 'user', 'content': 'Hi?'}],
      'chosen': [{'role': 'assistant', 'content': 'Hello.'}],
      'rejected': [{'role': 'assistant', 'content': 'No.'}],
    },
  )
  (row,) = records.read_preferences(path)
  assert row.id == '7'
  assert row.prompt == '\n\nHuman: Hi?\n\nAssistant:'
  assert set(row.pair) == {'Hello.', 'No.'}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'chosen': 'b'}, 'identical'),
    ({'chosen': None}, "column 'chosen' is null"),
    ({'margin': 'big'}, 'margin should be a finite number'),
    ({'prompt': [{'role': 'bot'}]}, 'list of messages'),
  ],
)
def test_bad_trl_rows(tmp_path, change, message):
  bad = {'prompt': 'p', 'chosen': 'a', 'rejected': 'b', 'margin': 1.0, **change}
  path = write_lines(tmp_path / 't.jsonl', bad)
  with pytest.raises(ValueError, match=r't\.jsonl:1: ') as error:
    records.read_preferences(path, margin_is_logit=True)
  assert message in str(error.value)


def test_stable_hash():
  assert records.stable_hash({'a': 1, 'b': (1, 2)}) == records.stable_hash(
    {'b': [1, 2], 'a': 1}
  )
  assert records.stable_hash('1') != records.stable_hash(1)
  assert records.stable_hash(FULL) == records.stable_hash(FULL)
  assert records.stable_hash(np.float64(2.0)) == records.stable_hash(2.0)
  assert records.stable_hash('x') == 'ba2df4903a2c14e8'
  with pytest.raises(TypeError, match='cannot hash'):
    records.stable_hash(object())
