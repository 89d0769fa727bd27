"""Every file of data/datasets/ keeps the contract in the folder's docstring."""

import inspect
import json

import pytest

from rlaif_jax.data import datasets

POST = 'SUBREDDIT: r/a\n\nTITLE: b\n\nPOST: some text here\n\nTL;DR:'
# Rows of the kinds that the data sets with files read.
ROWS = {
  'tldr': [
    {'prompt': POST, 'completion': ' short'},
    {'prompt': POST + ' ', 'completion': ' brief'},
  ],
  'hh': [
    {
      'chosen': f'\n\nHuman: {q}\n\nAssistant: yes',
      'rejected': f'\n\nHuman: {q}\n\nAssistant: no',
    }
    for q in ('one', 'two')
  ],
  'jsonl': [
    {'prompt': 'a', 'response_1': 'b', 'response_2': 'c', 'p_first': 0.3},
    {'prompt': 'd', 'response': 'e'},
  ],
}


@pytest.mark.parametrize('name', datasets.names())
def test_contract(name, tmp_path):
  module = datasets.load_module(name)
  assert module.__doc__
  parameters = inspect.signature(module.load).parameters
  assert list(parameters)[:2] == ['path', 'split']
  options = list(parameters.values())[2:]
  assert all(p.kind is p.KEYWORD_ONLY for p in options)
  assert all(p.default is not p.empty for p in options)
  assert 'size' in parameters
  path = None
  if name in ROWS:
    path = str(tmp_path / 'rows.jsonl')
    (tmp_path / 'rows.jsonl').write_text('\n'.join(map(json.dumps, ROWS[name])))
  examples = datasets.load_dataset(name, path, 'train', size=2)
  assert examples == datasets.load_dataset(name, path, 'train', size=2)
  assert len(examples) == 2
  assert len({e.id for e in examples}) == 2
  assert datasets.load_dataset(name, path, 'train', size=1) == examples[:1]
  for example in examples:
    assert example.prompt
    for text in (example.response, *(example.pair or ())):
      assert text is None or text == text.strip()
    if example.pair is not None:
      assert example.pair[0] != example.pair[1]
      assert example.p_first is None or 0.0 <= example.p_first <= 1.0
    assert {'text', 'context'} & example.fields.keys()


def test_names_are_the_files():
  assert {'tldr', 'hh', 'jsonl', 'tiny_tldr', 'tiny_dialogue'} <= set(
    datasets.names()
  )
  with pytest.raises(ValueError, match="'tldl'. Known are: .*tldr"):
    datasets.load_dataset('tldl', None, 'train')
