"""What is asked: complete, shuffled, blinded, and the key opens it."""

import collections
import dataclasses
import itertools
import json

import pytest

from rlaif_jax.rating import page, sheet


def _opened(made):
  """(id, {policy: text}) of each item, read with the key."""
  return [
    (item.id, dict(zip(item.policies, texts, strict=True)))
    for item, (_, texts) in zip(made.key.items, made.shown, strict=True)
  ]


@pytest.mark.parametrize(
  ('mode', 'size', 'count'),
  [('pairwise', 2, 15), ('ranking', 3, 5), ('harmless', 1, 15)],
)
def test_everything_is_asked_once(rows, mode, size, count):
  made = sheet.make(rows, mode)
  assert len(made.shown) == len(made.key.items) == count
  known = {row['id']: row for row in rows}
  asked = set()
  for (name, texts), (prompt, _) in zip(_opened(made), made.shown, strict=True):
    assert prompt == known[name]['prompt']
    assert len(texts) == size
    for policy, text in texts.items():
      assert text == known[name]['responses'][policy]
    asked.add((name, frozenset(texts)))
  assert asked == {
    (name, frozenset(group))
    for name in known
    for group in itertools.combinations(('rlaif', 'rlhf', 'sft'), size)
  }


def test_orders_are_random_and_the_seed_fixes_them(rows):
  many = [{**rows[0], 'id': str(i), 'prompt': f'p{i}'} for i in range(300)]
  made = sheet.make(many, 'ranking', limit=0)
  assert made == sheet.make(many, 'ranking', limit=0)
  assert (
    made.key.sheet != sheet.make(many, 'ranking', limit=0, seed=1).key.sheet
  )
  orders = collections.Counter(item.policies for item in made.key.items)
  assert len(orders) == 6
  assert max(orders.values()) < 80  # of 300; 50 are expected
  ids = [int(item.id) for item in made.key.items]
  assert sorted(ids) == list(range(300)) and ids != sorted(ids)
  # Pairs of one prompt do not come one after the other.
  pairs = sheet.make(many, 'pairwise', limit=0).key.items
  beside = sum(a.id == b.id for a, b in itertools.pairwise(pairs))
  assert beside < 30


def test_limit_takes_prompts_at_random(rows):
  many = [{**rows[0], 'id': str(i), 'prompt': f'p{i}'} for i in range(60)]
  assert len(sheet.make(many, 'ranking').shown) == 50
  few = [
    {item.id for item in sheet.make(many, limit=4, seed=s).key.items}
    for s in range(5)
  ]
  assert all(len(ids) == 4 for ids in few)
  assert len(set.union(*few)) > 10


def test_rows_of_one_prompt_are_one_cluster(rows):
  many = [rows[0], {**rows[1], 'prompt': rows[0]['prompt']}, rows[2]]
  items = sheet.make(many, 'ranking').key.items
  prompt = {item.id: item.prompt for item in items}
  assert prompt['test-0'] == prompt['test-1'] != prompt['test-2']


def test_the_reference_can_be_rated(rows):
  made = sheet.make(rows, 'ranking', ['sft', 'reference'])
  assert made.key.policies == ('sft', 'reference')
  for name, texts in _opened(made):
    assert texts['reference'] == name.replace('test-', 'reference ')


def test_spaces_at_the_ends_do_not_give_a_policy_away(rows):
  row = {**rows[2], 'responses': {'a': ' one', 'b': 'two\n\n'}}
  assert set(sheet.make([row]).shown[0][1]) == {'one', 'two'}


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'mode': 'best'}, "mode 'best': there are pairwise"),
    ({'policies': ['sft', 'ppo']}, "no response of 'ppo'; there are: rlaif"),
    ({'policies': ['sft', 'sft']}, 'named twice'),
    ({'policies': ['sft']}, 'pairwise needs 2 policies'),
    ({'policies': ['sft'], 'mode': 'ranking'}, 'ranking needs 2 policies'),
    ({'limit': -1}, 'must not be negative'),
  ],
)
def test_errors(rows, options, message):
  with pytest.raises(ValueError, match=message):
    sheet.make(rows, **options)


def test_nobody_ranks_nine(rows):
  row = {**rows[0], 'responses': {str(i): 'x' for i in range(9)}}
  with pytest.raises(ValueError, match='ranks 9 responses'):
    sheet.make([row], 'ranking')
  assert len(sheet.make([row], 'pairwise').shown) == 36


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'no samples'),
    ('{"prompt": "p", "responses": {}}\n{"prom', 'samples.jsonl:2: not JSON'),
    ('[1]\n', ':1: needs a "prompt"'),
    ('{"prompt": "p"}\n', ':1: needs a "prompt"'),
    ('{"prompt": "p", "responses": {"a": 1}}\n', ':1: needs a "prompt"'),
  ],
)
def test_bad_samples_are_named(tmp_path, text, message):
  file = tmp_path / 'samples.jsonl'
  file.write_text(text)
  with pytest.raises(ValueError, match=message):
    sheet.read_samples(file)


# -- the page and its key -----------------------------------------------------


def test_the_key_survives_its_file(rows, tmp_path):
  made = sheet.make(rows, 'ranking')
  key = page.write(made, tmp_path / 'new' / 'rate.html')
  assert key == tmp_path / 'new' / 'rate.key.json'
  assert sheet.read_key(key) == made.key


@pytest.mark.parametrize('mode', sheet.MODES)
def test_the_page_does_not_tell_whose_the_responses_are(rows, mode):
  made = sheet.make(rows, mode)
  text = page.render(made)
  for policy in made.key.policies:
    assert policy not in text.replace('rlaif_jax', '')
  assert 'test-' not in text  # nor the ids
  # What is on it is the same whoever is who.
  swapped = dict(zip(('rlaif', 'rlhf', 'sft'), 'abc', strict=True))
  items = tuple(
    dataclasses.replace(i, policies=tuple(swapped[p] for p in i.policies))
    for i in made.key.items
  )
  key = dataclasses.replace(made.key, policies=tuple('abc'), items=items)
  assert page.render(sheet.Sheet(key, made.shown)) == text


def test_the_page_needs_nothing_else_and_text_stays_in_its_json(rows, hostile):
  made = sheet.make(rows)
  text = page.render(made, question='<b>Which & "why"?</b>')
  assert '&lt;b&gt;Which &amp; &#34;why&#34;?&lt;/b&gt;' in text
  assert 'http:' not in text and 'https:' not in text
  assert text.count('<script') == text.count('</script>') == 2
  assert 'window.broken = 1</script>' not in text
  data = text.split('id="data">')[1].split('</script>')[0]
  assert '<' not in data and '>' not in data
  found = json.loads(data)
  assert any(hostile in item['texts'] for item in found['items'])
  assert set(found) == {'sheet', 'mode', 'items'}


def test_cut_characters_do_not_break_the_page(rows, tmp_path):
  row = {**rows[2], 'responses': {'a': 'half \ud83d', 'b': 'ok'}}
  made = sheet.make([row])
  key = page.write(made, tmp_path / 'rate.html')
  assert sheet.read_key(key) == made.key


def test_others_files_and_keys_are_kept(rows, tmp_path):
  file = tmp_path / 'rate.html'
  file.write_text('<p>mine</p>')
  made = sheet.make(rows)
  with pytest.raises(ValueError, match='is no rating page'):
    page.write(made, file)
  assert file.read_text() == '<p>mine</p>'
  file.unlink()
  page.write(made, file)
  page.write(made, file, 'Another question?')  # the same items
  assert 'Another question?' in file.read_text()
  with pytest.raises(ValueError, match='key of other items'):
    page.write(sheet.make(rows, seed=1), file)
  assert sheet.read_key(page.key_file(file)) == made.key


@pytest.mark.parametrize(
  'text', ['', '[]', '{}', '{"format": "rlaif_jax.rating key 1"}', '{"a": 1}']
)
def test_bad_keys_are_named(tmp_path, text):
  file = tmp_path / 'rate.key.json'
  file.write_text(text)
  with pytest.raises(ValueError, match='rate.key.json: not a key'):
    sheet.read_key(file)
