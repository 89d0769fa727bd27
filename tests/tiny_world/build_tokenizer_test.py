import itertools
import json

import numpy as np
import pytest
import tokenizers

from rlaif_jax.data.datasets import _tiny_dialogue_words as dialogue
from rlaif_jax.data.datasets import _tiny_tldr_words as tldr
from rlaif_jax.data.datasets import tiny_dialogue, tiny_tldr
from rlaif_jax.tiny_world import build_tokenizer


@pytest.fixture(scope='module')
def shipped():
  file = build_tokenizer.FOLDER / 'tokenizer.json'
  return tokenizers.Tokenizer.from_file(str(file))


def _count(tokenizer, texts, special=True):
  return [
    len(tokenizer.encode(t, add_special_tokens=special).ids) for t in texts
  ]


def test_vocabulary_and_specials(shipped):
  assert shipped.get_vocab_size() == 1024
  assert [shipped.id_to_token(i) for i in range(3)] == ['<pad>', '<s>', '</s>']
  ids = shipped.encode(' my sister').ids
  assert ids[0] == 1
  assert 2 not in ids
  assert len(ids) == 3


def test_rebuilding_keeps_the_ids_of_the_tiny_world(shipped):
  rebuilt = build_tokenizer.build(build_tokenizer.texts(), ['other words'])
  for example in tiny_tldr.load(None, 'test', size=30):
    text = f'{example.prompt} {example.response}'
    assert rebuilt.encode(text).ids == shipped.encode(text).ids


def test_every_word_of_the_tiny_world_is_one_token(shipped):
  groups = [
    tldr.VALUES,
    tldr.SENTENCES,
    tldr.CLAUSES,
    dialogue.HELPFUL_VALUES,
    dialogue.HELPFUL_SENTENCES,
    dialogue.HELPFUL_CLAUSES,
    dialogue.HARMLESS_VALUES,
    dialogue.HARMLESS_SENTENCES,
    dialogue.HARMLESS_CLAUSES,
  ]
  texts = list(itertools.chain(*(itertools.chain(*g.values()) for g in groups)))
  texts += tldr.FILLERS + tldr.TITLES + tldr.OPENERS + dialogue.OPENERS
  words = {
    word.strip('.?')
    for word in ' '.join(texts).split()
    if not word.startswith('{')
  }
  assert len(words) > 300
  for word in words:
    assert f'\u0120{word}' in shipped.get_vocab(), word
  for name in tldr.LABELER_SUBREDDITS + tldr.POLICY_SUBREDDITS:
    assert name in shipped.get_vocab(), name


def test_texts_of_the_tiny_world_come_back_and_are_short(shipped):
  rows = tiny_tldr.load(None, 'train', size=300)
  for row in rows:
    text = f'{row.prompt} {row.response}'
    assert shipped.decode(shipped.encode(text).ids) == text
  assert np.mean(_count(shipped, [r.prompt for r in rows])) <= 75
  responses = [' ' + r.response for r in rows]
  assert np.mean(_count(shipped, responses, special=False)) <= 25
  for task in tiny_dialogue.TASKS:
    rows = tiny_dialogue.load(None, 'train', task=task, size=200)
    for row in rows:
      text = f'{row.prompt} {row.response}'
      assert shipped.decode(shipped.encode(text).ids) == text
    assert np.mean(_count(shipped, [r.prompt for r in rows])) <= 75


@pytest.mark.parametrize(
  'text',
  [
    'Unseen Words, unbelievably: 3.14159!',
    'ünï 日本 🙂 »»»»\t\x00\r\n\n\n  y',
    '   ',
    '',
  ],
)
def test_any_text_comes_back(shipped, text):
  ids = shipped.encode(text, add_special_tokens=False).ids
  assert shipped.decode(ids) == text


def test_digits_and_punctuation_stand_alone(shipped):
  def pieces(text):
    return shipped.encode(text, add_special_tokens=False).tokens

  assert pieces('10') == ['1', '0']
  assert pieces('Summary=1')[-2:] == ['=', '1']
  assert pieces('a... b')[1:4] == ['.', '.', '.']
  # A label never changes the tokens before it.
  for ending in ('Preferred Summary=', 'SCORE: ', 'Score\n'):
    for label in ('1', '2', '10'):
      assert pieces(ending + label) == pieces(ending) + list(label)


def test_loads_in_transformers():
  transformers = pytest.importorskip('transformers')
  tokenizer = transformers.AutoTokenizer.from_pretrained(build_tokenizer.FOLDER)
  assert len(tokenizer) == 1024
  assert tokenizer.pad_token_id == 0
  assert tokenizer.bos_token_id == 1
  assert tokenizer.eos_token_id == 2
  ids = tokenizer('my sister.')['input_ids']
  assert ids[0] == 1
  assert tokenizer.decode(ids, skip_special_tokens=True) == 'my sister.'


def test_save_writes_both_files(tmp_path):
  tokenizer = build_tokenizer.build(['a b'], ['c'], vocab_size=400)
  build_tokenizer.save(tokenizer, tmp_path / 'new')
  config = json.loads((tmp_path / 'new' / 'tokenizer_config.json').read_text())
  assert config['eos_token'] == '</s>'
  again = tokenizers.Tokenizer.from_file(str(tmp_path / 'new/tokenizer.json'))
  assert again.get_vocab() == tokenizer.get_vocab()


def test_a_vocabulary_too_small_is_refused():
  with pytest.raises(ValueError, match='do not fit a vocabulary of 300'):
    build_tokenizer.build(['many different words'], [], vocab_size=300)


def test_prompt_texts_reads_strings_but_no_docstrings(tmp_path):
  (tmp_path / 'one_base.py').write_text("'''Doc.'''\nX = ('Text - ' 'a', 3)\n")
  (tmp_path / '__init__.py').write_text("Y = 'hidden'\n")
  (tmp_path / 'one_base_cot.py').write_text("Z = 'no room'\n")
  assert build_tokenizer.prompt_texts(tmp_path) == ['Text - a']
