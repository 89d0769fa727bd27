"""One side of a pair as the response."""

import pytest

from rlaif_jax.data import datasets
from rlaif_jax.data.datasets import Example
from rlaif_jax.stages import common


def pairs():
  return [
    Example(id='0', prompt='p', response='r', pair=('a', 'b'), p_first=1.0),
    Example(id='1', prompt='p', pair=('a', 'b'), p_first=0.2),
    Example(id='2', prompt='p', pair=('a', 'b'), p_first=0.5),
    Example(id='3', prompt='p', pair=('a', 'b')),
    Example(id='4', prompt='p', response='r'),
  ]


def test_side_by_hand():
  chosen = datasets.take_side(pairs(), 'chosen')
  rejected = datasets.take_side(pairs(), 'rejected')
  assert [(e.id, e.response) for e in chosen] == [('0', 'a'), ('1', 'b')]
  assert [(e.id, e.response) for e in rejected] == [('0', 'b'), ('1', 'a')]


def test_errors():
  with pytest.raises(ValueError, match="side='best'; use 'chosen' or"):
    datasets.take_side(pairs(), 'best')
  with pytest.raises(ValueError, match='no example has a pair with a choice'):
    datasets.take_side(pairs()[2:], 'chosen')


def test_it_is_an_option_of_every_data_block():
  block = common.data_config('tiny_dialogue', 'preferences')
  block.size = 5
  block.options = {'task': 'harmless', 'side': 'rejected'}
  found = common.load_examples(block)
  block.options = {'task': 'harmless'}
  plain = common.load_examples(block)
  assert len(found) == 5
  for side, whole in zip(found, plain, strict=True):
    assert side.response == whole.pair[1 if whole.p_first == 1 else 0]
