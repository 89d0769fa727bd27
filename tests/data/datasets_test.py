"""The data sets that read files, in every form that they know."""

import gzip
import json
import math

import pytest

from rlaif_jax.data.datasets import load_dataset

QUERY = 'SUBREDDIT: r/cats\n\nTITLE: My cat\n\nPOST: It ran off.'
POST = {
  'id': 't3_1',
  'subreddit': 'cats',
  'title': 'My cat',
  'post': 'It ran off.',
  'summary': ' Cat gone.',
}
COMPARISON = {
  'info': {k: POST[k] for k in ('id', 'subreddit', 'title', 'post')},
  'summaries': [
    {'text': ' Cat gone.', 'policy': 'ref', 'note': None},
    {'text': ' Cat sat.', 'policy': 'sup2', 'note': None},
  ],
  'choice': 1,
  'worker': 'w',
  'batch': 'b3',
  'split': 'train',
  'extra': {'confidence': 8},
}
CONTEXT = '\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant:'


def write(path, *rows):
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == '.gz':
    path.write_bytes(gzip.compress(text.encode()))
  else:
    path.write_text(text)
  return str(path)


def load_one(name, path, **options):
  (example,) = load_dataset(name, path, 'train', **options)
  return example


# -- tldr ---------------------------------------------------------------------


def test_tldr_posts_in_the_query_format(tmp_path):
  example = load_one('tldr', write(tmp_path / 'train.jsonl', POST))
  assert example.prompt == QUERY + '\n\nTL;DR:'
  assert example.response == 'Cat gone.'
  assert example.id == 't3_1'
  assert example.pair is None
  assert example.fields == {
    'text': QUERY,
    'subreddit': 'cats',
    'title': 'My cat',
    'post': 'It ran off.',
  }


@pytest.mark.parametrize(
  'row',
  [
    {'prompt': QUERY + '\n\nTL;DR:', 'completion': ' Cat gone.'},
    {
      'subreddit': 'cats',
      'title': 'My cat',
      'content': 'It ran off.',
      'summary': 'Cat gone.',
    },
    {
      'query': QUERY + '\n\nTL;DR:',
      'reference_response': '  Cat gone.',
      'policy_response': '  Cat gone.',
      'ai_preferred': None,
    },
  ],
)
def test_tldr_other_forms_give_the_same_text(tmp_path, row):
  example = load_one('tldr', write(tmp_path / 'x.jsonl', row))
  assert example.prompt == QUERY + '\n\nTL;DR:'
  assert example.fields['post'] == 'It ran off.'
  assert example.response == 'Cat gone.'
  assert example.pair is None  # identical summaries cannot be compared


def test_tldr_judged_posts(tmp_path):
  row = {
    'id': 0,
    'query': QUERY + '\n\nTL;DR:',
    'reference_response': '  ref',
    'policy_response': '  pol',
    'ai_explanation': 'shorter',
  }
  rows = [{**row, 'ai_preferred': p} for p in ('reference', 'policy', None)]
  path = write(tmp_path / 'x.jsonl.gz', *rows)
  examples = load_dataset('tldr', path, 'train')
  assert [e.p_first for e in examples] == [1.0, 0.0, None]
  assert {e.pair for e in examples} == {('ref', 'pol')}
  assert [e.id for e in examples] == ['0', '0-2', '0-3']
  assert examples[0].meta['ai_preferred'] == 'reference'
  bad = write(tmp_path / 'y.jsonl', {**row, 'ai_preferred': 'both'})
  with pytest.raises(ValueError, match=r"y\.jsonl:1: ai_preferred is 'both'"):
    load_dataset('tldr', bad, 'train')


def test_tldr_judged_posts_say_which_was_shown_first(tmp_path):
  row = {
    'query': QUERY + '\n\nTL;DR:',
    'reference_response': 'ref',
    'policy_response': 'pol',
  }
  rows = [{**row, 'shuffled_index': i} for i in (0, 1, None)]
  examples = load_dataset('tldr', write(tmp_path / 'x.jsonl', *rows), 'train')
  # 0: the policy's, which is the second of the pair; 1: the reference.
  assert [e.meta.get('first_shown') for e in examples] == [1, 0, None]
  for key, value in (('shuffled_index', 2), ('policy_response', 3)):
    bad = write(tmp_path / 'y.jsonl', row, {**row, key: value})
    with pytest.raises(ValueError, match=rf'y\.jsonl:2: .*{key}'):
      load_dataset('tldr', bad, 'train')


def test_tldr_comparisons_keep_openais_order(tmp_path):
  example = load_one('tldr', write(tmp_path / 'batch3.json', COMPARISON))
  assert example.pair == ('Cat gone.', 'Cat sat.')
  assert example.p_first == 0.0
  assert example.prompt == QUERY + '\n\nTL;DR:'
  assert example.meta['policies'] == ['ref', 'sup2']
  assert example.meta['confidence'] == 8
  assert example.response is None


def test_tldr_comparisons_filtered(tmp_path, caplog):
  unsure = {**COMPARISON, 'extra': {'confidence': 5}, 'choice': 0}
  article = {**COMPARISON, 'info': {'id': 'cnn', 'article': 'News.'}}
  same = {**COMPARISON, 'summaries': COMPARISON['summaries'][:1] * 2}
  path = write(tmp_path / 'b.json', unsure, article, same, COMPARISON)
  assert len(load_dataset('tldr', path, 'train')) == 2
  assert load_one('tldr', path, confidence='high').p_first == 0.0
  assert '1 rows left out: not a Reddit post' in caplog.text
  assert '1 rows left out: identical summaries' in caplog.text


def test_tldr_folder_of_comparisons_split_by_column(tmp_path):
  valid = {**COMPARISON, 'split': 'valid1'}
  write(tmp_path / 'batch3.json', COMPARISON, valid)
  write(tmp_path / 'batch4.json', {**valid, 'split': 'valid2'})
  count = {
    split: len(load_dataset('tldr', str(tmp_path), split))
    for split in ('train', 'valid', 'valid1', 'all')
  }
  assert count == {'train': 1, 'valid': 2, 'valid1': 1, 'all': 3}


def test_tldr_chosen_rejected_of_a_bare_post(tmp_path):
  rows = [
    {'prompt': f'Post {i}', 'chosen': f' good {i}', 'rejected': f' bad {i}'}
    for i in range(40)
  ]
  examples = load_dataset('tldr', write(tmp_path / 'x.jsonl', *rows), 'train')
  assert examples[0].prompt == 'POST: Post 0\n\nTL;DR:'
  assert examples[0].fields == {'text': 'POST: Post 0', 'post': 'Post 0'}
  for i, e in enumerate(examples):
    assert e.pair[0 if e.p_first == 1 else 1] == f'good {i}'
  # The place of the chosen one tells nothing, and does not change.
  assert 10 < sum(e.p_first for e in examples) < 30
  again = load_dataset('tldr', str(tmp_path / 'x.jsonl'), 'train')
  assert again == examples


def test_tldr_kind_picks_among_files(tmp_path):
  write(tmp_path / 'posts_valid.jsonl', POST)
  write(tmp_path / 'comparisons_valid.jsonl', COMPARISON)
  with pytest.raises(ValueError, match="several files could be split 'valid'"):
    load_dataset('tldr', str(tmp_path), 'valid')
  (post,) = load_dataset('tldr', str(tmp_path), 'valid', kind='posts')
  (pair,) = load_dataset('tldr', str(tmp_path), 'valid', kind='pairs')
  assert post.response and pair.pair


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ({'post': 'x'}, "no column 'summary' or 'completion' or 'tldr'"),
    ({'summary': 'x'}, "no column 'post' or 'content' or 'documents'"),
    ({'prompt': 'x', 'chosen': 'a'}, "no column 'rejected'"),
    ({'post': 1, 'summary': 'x'}, "column 'post' should be text but is int"),
    ({**COMPARISON, 'choice': 2}, 'choice 0 or 1'),
    ({**COMPARISON, 'summaries': ['a', 'b']}, "'summaries' should be a list"),
    ({**COMPARISON, 'summaries': 3}, "'summaries' should be a list"),
    ({**COMPARISON, 'info': 'x'}, "column 'info' should be an object"),
    ({**COMPARISON, 'extra': 'x'}, "column 'extra' should be an object"),
    (
      {'query': 'q', 'reference_response': 'a', 'ai_preferred': ['x']},
      "ai_preferred is ['x']",
    ),
  ],
)
def test_tldr_bad_rows_are_named(tmp_path, row, message):
  path = write(tmp_path / 'x.jsonl', POST, row)
  with pytest.raises(ValueError, match=r'x\.jsonl:2: ') as error:
    load_dataset('tldr', path, 'train')
  assert message in str(error.value)


def test_tldr_bad_options(tmp_path):
  path = write(tmp_path / 'x.jsonl', POST)
  with pytest.raises(ValueError, match="kind='both'"):
    load_dataset('tldr', path, 'train', kind='both')
  with pytest.raises(ValueError, match="confidence='low'"):
    load_dataset('tldr', path, 'train', confidence='low')


def test_tldr_shared_files(shared_data):
  folder = str(shared_data / 'summarize-from-feedback')
  train = load_dataset('tldr', folder, 'train', kind='pairs')
  valid = load_dataset('tldr', folder, 'valid', kind='pairs')
  posts = load_dataset('tldr', folder, 'valid', kind='posts')
  assert [len(x) for x in (train, valid, posts)] == [3489, 1821, 1100]
  for examples in (train, valid, posts):
    assert len({e.id for e in examples}) == len(examples)
    for e in examples:
      assert e.prompt == e.fields['text'] + '\n\nTL;DR:'
      assert e.fields['post']
      for text in e.pair or ():
        assert text == text.strip()
  assert {e.p_first for e in train} == {0.0, 1.0}
  assert {e.p_first for e in posts} == {0.0, 1.0, None}
  assert all(e.response and e.fields['title'] for e in posts)


# -- hh -----------------------------------------------------------------------


def test_hh_transcripts_split_at_the_last_answer(tmp_path):
  row = {'chosen': CONTEXT + ' Because. ', 'rejected': CONTEXT + ' No.'}
  example = load_one('hh', write(tmp_path / 'train.jsonl.gz', row))
  assert example.prompt == CONTEXT
  assert example.response == 'Because.'
  assert example.pair[0 if example.p_first == 1 else 1] == 'Because.'
  assert example.fields == {
    'context': 'Human: Hi\n\nAssistant: Yes?\n\nHuman: Why?'
  }


def test_hh_prompt_column(tmp_path):
  row = {'id': 'a', 'prompt': 'Why?', 'chosen': 'So.', 'rejected': 'No.'}
  example = load_one('hh', write(tmp_path / 'x.jsonl', row))
  assert example.prompt == '\n\nHuman: Why?\n\nAssistant:'
  assert example.id == 'a'
  row = {'prompt': CONTEXT, 'chosen': 'So.', 'rejected': 'No.'}
  assert load_one('hh', write(tmp_path / 'y.jsonl', row)).prompt == CONTEXT


def test_hh_rows_without_shared_context_are_counted(tmp_path, caplog):
  good = {'chosen': CONTEXT + ' a', 'rejected': CONTEXT + ' b'}
  other = {'chosen': CONTEXT + ' a', 'rejected': '\n\nHuman: x\n\nAssistant: b'}
  same = {'chosen': CONTEXT + ' a', 'rejected': CONTEXT + ' a '}
  empty = {'chosen': CONTEXT, 'rejected': CONTEXT + ' b'}
  path = write(tmp_path / 'x.jsonl', good, other, same, empty)
  assert len(load_dataset('hh', path, 'train')) == 1
  assert 'an answer is empty' in caplog.text
  assert 'do not share their context' in caplog.text
  assert 'identical answers' in caplog.text


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ({'chosen': CONTEXT}, "no column 'rejected'"),
    ({'chosen': 'a', 'rejected': 'b'}, "Assistant:' turn in 'chosen'"),
    ({'chosen': ['a'], 'rejected': 'b'}, "'chosen' should be text"),
  ],
)
def test_hh_bad_rows_are_named(tmp_path, row, message):
  path = write(tmp_path / 'x.jsonl', row)
  with pytest.raises(ValueError, match=r'x\.jsonl:1: ') as error:
    load_dataset('hh', path, 'train')
  assert message in str(error.value)


def test_hh_subsets_of_a_folder(tmp_path):
  for subset, answer in (('helpful-base', 'a'), ('harmless-base', 'b')):
    row = {'chosen': f'{CONTEXT} {answer}', 'rejected': CONTEXT + ' c'}
    write(tmp_path / subset / 'train.jsonl.gz', row)
    write(tmp_path / subset / 'test.jsonl.gz', row, row)
  with pytest.raises(ValueError, match='several files'):
    load_dataset('hh', str(tmp_path), 'train')
  example = load_one('hh', str(tmp_path), subset='harmless-base')
  assert example.response == 'b'
  rows = load_dataset('hh', str(tmp_path), 'test', subset='helpful-base')
  assert len(rows) == 2
  with pytest.raises(FileNotFoundError, match='no data file with online'):
    load_dataset('hh', str(tmp_path), 'train', subset='online')


def test_hh_shared_files(shared_data):
  path = str(shared_data / 'hh-rlhf/harmless_base_test_dev.jsonl.gz')
  examples = load_dataset('hh', path, 'test')
  assert len(examples) == 1699 - 4 - 2  # no shared context; an empty answer
  for e in examples:
    assert e.prompt.startswith('\n\nHuman:')
    assert e.prompt.endswith('\n\nAssistant:')
    assert e.pair[0] != e.pair[1]
    assert e.response in e.pair
  valid, test = (
    load_dataset('hh', path, split, holdout=(0.667, 0.333))
    for split in ('valid', 'test')
  )
  assert len(valid) + len(test) == len(examples)
  assert 0.6 < len(valid) / len(examples) < 0.73
  assert (
    len(load_dataset('hh', str(shared_data / 'tara-hh-rlhf'), 'all')) == 480
  )


# -- jsonl --------------------------------------------------------------------


def test_jsonl_prompts_and_responses(tmp_path):
  rows = [{'prompt': 'Say:'}, {'prompt': 'Go:', 'response': ' ok', 'n': 1}]
  path = write(tmp_path / 'mine.jsonl', *rows)
  first, second = load_dataset('jsonl', path, 'train')
  assert (first.prompt, first.response, first.pair) == ('Say:', None, None)
  assert first.fields == {'text': 'Say:', 'context': 'Say:'}
  assert (second.response, second.meta) == ('ok', {'n': 1})
  assert first.id != second.id


def test_jsonl_pairs(tmp_path):
  rows = [
    {'prompt': 'a', 'response_1': 'x', 'response_2': 'y', 'p_first': 0.25},
    {'prompt': 'a', 'response_1': 'x', 'response_2': 'y'},
    {'prompt': 'a', 'chosen': 'x', 'rejected': 'y', 'id': 5},
    {'prompt': 'a', 'chosen': 'x', 'rejected': 'y', 'fields': {'text': 'T'}},
  ]
  path = write(tmp_path / 'mine.json', *rows)
  examples = load_dataset('jsonl', path, 'train')
  assert [e.p_first for e in examples[:2]] == [0.25, None]
  assert {e.pair for e in examples[:2]} == {('x', 'y')}
  for e in examples[2:]:
    assert e.pair[0 if e.p_first == 1 else 1] == 'x'
  assert examples[2].id == '5'
  assert examples[3].fields == {'text': 'T'}


def test_json_list_and_parquet(tmp_path):
  rows = [{'prompt': 'a', 'response': 'b'}, {'prompt': 'c', 'response': 'd'}]
  (tmp_path / 'x.json').write_text(json.dumps(rows))
  pyarrow = pytest.importorskip('pyarrow')
  parquet = pytest.importorskip('pyarrow.parquet')
  table = pyarrow.Table.from_pylist(rows)
  parquet.write_table(table, tmp_path / 'x.parquet')
  forms = [
    load_dataset('jsonl', str(tmp_path / name), 'train')
    for name in ('x.json', 'x.parquet')
  ]
  assert forms[0] == forms[1]
  assert [e.response for e in forms[0]] == ['b', 'd']
  (tmp_path / 'bad.parquet').write_bytes(b'nothing')
  with pytest.raises(ValueError, match='not a Parquet file'):
    load_dataset('jsonl', str(tmp_path / 'bad.parquet'), 'train')


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ({'text': 'a'}, "no column 'prompt'; it has text"),
    ({'prompt': 'a', 'response': 3}, "'response' should be text but is int"),
    ({'prompt': 'a', 'chosen': 'b'}, "no column 'rejected'"),
    (
      {'prompt': 'a', 'chosen': 'b', 'rejected': ' b'},
      'chosen and rejected are identical',
    ),
    (
      {'prompt': 'a', 'response_1': 'b', 'response_2': 'b'},
      'response_1 and response_2 are identical',
    ),
    (
      {
        'prompt': 'a',
        'response_1': 'b',
        'response_2': 'c',
        'p_first': math.nan,
      },
      'p_first is nan',
    ),
    (
      {'prompt': 'a', 'response_1': 'b', 'response_2': 'c', 'p_first': 2},
      'p_first is 2',
    ),
    ([1, 2], 'expected a JSON object with columns, got list'),
    ({'prompt': None}, "column 'prompt' is null"),
    ({'prompt': 'a', 'fields': 'b'}, "'fields' should be an object of texts"),
    ({'prompt': 'a', 'fields': {'text': 3}}, "fields: column 'text' should be"),
    ({'prompt': '\ud800'}, "has half a character ('\\ud800')"),
  ],
)
def test_jsonl_bad_rows_are_named(tmp_path, row, message):
  path = write(tmp_path / 'x.jsonl', {'prompt': 'ok'}, row)
  with pytest.raises(ValueError, match=r'x\.jsonl:2: ') as error:
    load_dataset('jsonl', path, 'train')
  assert message in str(error.value)


# -- paths and splits ---------------------------------------------------------


@pytest.mark.parametrize('name', ['tldr', 'hh', 'jsonl'])
def test_bad_files(tmp_path, name):
  def load(path):
    return load_dataset(name, path, 'train')

  with pytest.raises(ValueError, match='needs a path'):
    load(None)
  with pytest.raises(FileNotFoundError, match='no such file or folder'):
    load(str(tmp_path / 'gone'))
  with pytest.raises(FileNotFoundError, match='no data file'):
    load(str(tmp_path))
  (tmp_path / 'x.jsonl').write_text('')
  with pytest.raises(ValueError, match=r'x\.jsonl: the file is empty'):
    load(str(tmp_path / 'x.jsonl'))
  (tmp_path / 'x.jsonl').write_text('{"prompt": "a"\n')
  with pytest.raises(ValueError, match=r'x\.jsonl:1: not valid JSON'):
    load(str(tmp_path / 'x.jsonl'))
  (tmp_path / 'x.jsonl').write_bytes(b'\xff\xfe{}')
  with pytest.raises(ValueError, match='not UTF-8'):
    load(str(tmp_path / 'x.jsonl'))


@pytest.mark.parametrize(
  'data',
  [
    b'\xef\xbb\xbf%s\n%s\n',  # a byte order mark
    b'%s\r\n%s\r\n',
    b'\n\n%s\n\n%s',
  ],
)
def test_files_of_other_editors(tmp_path, data):
  row = {'prompt': '日本語 \u2028 é 😀', 'response': 'ü'}
  lines = [json.dumps({**row, 'id': i}, ensure_ascii=False) for i in 'ab']
  file = tmp_path / 'x.jsonl'
  file.write_bytes(data % tuple(line.encode() for line in lines))
  examples = load_dataset('jsonl', str(file), 'train')
  assert [e.id for e in examples] == ['a', 'b']
  assert {(e.prompt, e.response) for e in examples} == {tuple(row.values())}


@pytest.mark.parametrize('line', ['[' * 99_999, '{"prompt": 1' + '0' * 5000])
def test_lines_that_no_parser_takes(tmp_path, line):
  (tmp_path / 'x.jsonl').write_text('{"prompt": "a"}\n' + line + '}')
  with pytest.raises(ValueError, match=r'x\.jsonl:2: cannot be read'):
    load_dataset('jsonl', str(tmp_path / 'x.jsonl'), 'train')


def prompts_file(path, count=200):
  # Every prompt stands twice, as it does in preference data.
  rows = [{'prompt': f'p{i // 2}', 'response': str(i)} for i in range(count)]
  return write(path, *rows)


def test_holdout_splits_by_prompt(tmp_path):
  path = prompts_file(tmp_path / 'all.jsonl')

  def prompts(split, holdout):
    rows = load_dataset('jsonl', path, split, holdout=holdout)
    assert len(rows) == 2 * len({e.prompt for e in rows})
    return {e.prompt for e in rows}

  train, valid = prompts('train', 0.3), prompts('valid', 0.3)
  assert not train & valid
  assert len(train | valid) == 100
  assert 15 < len(valid) < 45
  three = [prompts(s, (0.3, 0.2)) for s in ('train', 'valid', 'test')]
  assert three[1] == valid
  assert sum(map(len, three)) == len(set.union(*three)) == 100
  assert prompts('all', 0.3) == train | valid


def test_bad_holdouts(tmp_path):
  path = prompts_file(tmp_path / 'all.jsonl')
  bad = (0.0, 1.5, (0.5, 0.6), (0.1, 0.1, 0.1), (), 'a', (0.1, 'a'))
  for holdout in bad:
    with pytest.raises(ValueError, match='holdout='):
      load_dataset('jsonl', path, 'valid', holdout=holdout)
  with pytest.raises(ValueError, match='with holdout, splits are'):
    load_dataset('jsonl', path, 'dev2', holdout=0.1)


def test_a_lone_file_is_not_every_split(tmp_path):
  path = prompts_file(tmp_path / 'mine.jsonl')
  with pytest.raises(ValueError, match="one file has no split 'valid'"):
    load_dataset('jsonl', path, 'valid')
  assert len(load_dataset('jsonl', path, 'all')) == 200
  named = prompts_file(tmp_path / 'mine-dev.jsonl')
  assert len(load_dataset('jsonl', named, 'valid')) == 200


def test_folder_splits_by_name(tmp_path):
  for name, count in (('train', 8), ('validation', 4), ('test', 2)):
    prompts_file(tmp_path / f'{name}.jsonl', count)
  sizes = [
    len(load_dataset('jsonl', str(tmp_path), split))
    for split in ('train', 'valid', 'test', 'all')
  ]
  assert sizes == [8, 4, 2, 14]
  # A holdout divides the training file alone.
  both = [
    load_dataset('jsonl', str(tmp_path), split, holdout=0.5)
    for split in ('train', 'valid')
  ]
  assert sum(map(len, both)) == 8
  with pytest.raises(ValueError, match="no file for split 'extra'"):
    load_dataset('jsonl', str(tmp_path), 'extra')


def test_shards_are_one_source(tmp_path):
  for i in range(2):
    prompts_file(tmp_path / f'train-0000{i}-of-00002.jsonl', 4)
  assert len(load_dataset('jsonl', str(tmp_path), 'train')) == 8


def test_size_takes_the_first(tmp_path):
  path = prompts_file(tmp_path / 'mine.jsonl')
  rows = load_dataset('jsonl', path, 'train', size=3)
  assert [e.response for e in rows] == ['0', '1', '2']


def test_repeated_rows_get_ids_of_their_own(tmp_path):
  path = write(tmp_path / 'x.jsonl', {'prompt': 'a'}, {'prompt': 'a'})
  first, second = load_dataset('jsonl', path, 'train')
  assert second.id == first.id + '-2'


# -- hub and TFDS -------------------------------------------------------------


def test_hub_id(monkeypatch):
  datasets = pytest.importorskip('datasets')
  asked = []

  def split_names(path, config, **extra):
    asked.append((path, config, extra))
    return ['train', 'validation']

  def load(path, config, split, **extra):
    asked.append((path, config, split, extra))
    return [{'prompt': QUERY + '\n\nTL;DR:', 'completion': ' Cat gone.'}]

  monkeypatch.setattr(datasets, 'get_dataset_split_names', split_names)
  monkeypatch.setattr(datasets, 'load_dataset', load)
  (example,) = load_dataset('tldr', 'trl-lib/tldr', 'valid', revision='r1')
  assert example.response == 'Cat gone.'
  assert asked == [
    ('trl-lib/tldr', None, {'revision': 'r1'}),
    ('trl-lib/tldr', None, 'validation', {'revision': 'r1'}),
  ]
  with pytest.raises(ValueError, match='it has train, validation'):
    load_dataset('tldr', 'trl-lib/tldr', 'test')
  asked.clear()
  with pytest.raises(ValueError, match=r'tldr\[train\]: row 0: no column'):
    load_dataset('hh', 'trl-lib/tldr', 'train', subset='harmless-base')
  assert asked[0][2] == {'revision': None, 'data_dir': 'harmless-base'}


def test_hub_out_of_reach():
  with pytest.raises(FileNotFoundError, match='the hub did not give it'):
    load_dataset('jsonl', 'nobody/nothing', 'train')


def test_tfds_array_record(tmp_path):
  pytest.importorskip('importlib_resources')  # TFDS needs it undeclared
  tfds = pytest.importorskip('tensorflow_datasets')

  class Toy(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      features = {
        key: tfds.features.Text() for key in ('content', 'summary', 'title')
      }
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      for i in range(3):
        yield i, {'content': f'pöst {i}', 'summary': f's{i}', 'title': 't'}

  builder = Toy(data_dir=tmp_path, file_format='array_record')
  builder.download_and_prepare()
  rows = load_dataset('tldr', f'tfds:{builder.data_dir}', 'train')
  assert sorted(e.response for e in rows) == ['s0', 's1', 's2']
  assert 'pöst 0' in {e.fields['post'] for e in rows}
  assert rows[0].prompt.startswith('TITLE: t\n\nPOST: pöst')
  with pytest.raises(ValueError, match="no split 'test'; it has train"):
    load_dataset('tldr', f'tfds:{builder.data_dir}', 'test')
