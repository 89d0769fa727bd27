"""Stop strings, beside a search in the text."""

import jax
import numpy as np
import pytest

from rlaif_jax.core.types import PromptBatch
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.inference import compact, decode, stop
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.models import locate

# As many as the tiny model has tokens; spelled so that strings meet in many
# ways, and one adds nothing.
PIECES = [
  '', 'a', 'b', 'ab', 'ba', 'aa', 'bb', 'aab', 'abb', '\n', '\n\n', 'a\n',
  '\nb', 'c', 'ca', 'bc', 'abc', 'cab', 'x', 'xa', 'y', 'by', 'z', '\n\na',
]  # fmt: skip


def first_end(tokens, strings):
  """Tokens up to the one with which the text holds one of the strings."""
  for count in range(1, len(tokens) + 1):
    text = ''.join(PIECES[t] for t in tokens[:count])
    if any(string in text for string in strings):
      return count
  return len(tokens)


STRINGS = [
  ('abab',),
  ('\n\n', 'abc'),
  ('aab', 'ab\n', 'bab'),
  ('aaa', 'aab', 'ca\nb'),
  ('é',),
]


@pytest.mark.parametrize('strings', STRINGS)
def test_the_table_finds_what_a_search_finds(strings):
  table = stop.make(strings, PIECES)
  rng = np.random.default_rng(0)
  ended = 0
  for _ in range(200):
    tokens = rng.integers(0, len(PIECES), 12)
    place, count = np.zeros(1, np.int32), 0
    while count < len(tokens) and not table.found(place)[0]:
      place = table.follow(place, tokens[count : count + 1])
      count += 1
    assert count == first_end(tokens, strings)
    ended += bool(table.found(place)[0])
  assert (ended > 20) == (strings != ('é',))


def test_the_end_stays_the_end():
  table = stop.make(('ab', 'b'), PIECES)
  end = len(table.following) - 1
  np.testing.assert_array_equal(table.following[end], end)


@pytest.mark.parametrize('module', [decode, compact])
def test_responses_end_with_the_string(tiny, module):
  model, params = tiny
  rng = np.random.default_rng(0)
  prompts = PromptBatch(
    rng.integers(1, len(PIECES), (8, 3)).astype(np.int32), np.ones((8, 3), bool)
  )
  strings = ('a\n', 'bb', 'xa')

  def rollout(stops, module=module):
    run = module.make_generate(
      model,
      max_new_tokens=12,
      sampling=SamplingConfig(),
      eos_ids=(),
      pad_id=0,
      stops=stops,
    )
    return jax.device_get(run(params, prompts, jax.random.key(3)))

  free = rollout(None, decode)
  found = rollout(stop.make(strings, PIECES))
  ends = np.array([first_end(row, strings) for row in free.response_tokens])
  assert 0 < (ends < 12).sum() < 8
  mask = np.arange(12)[None] < ends[:, None]
  np.testing.assert_array_equal(found.response_mask, mask)
  np.testing.assert_array_equal(
    found.response_tokens, np.where(mask, free.response_tokens, 0)
  )


def test_pieces_of_a_real_tokenizer():
  tokenizer = load_tokenizer(locate.resolve('tiny:tokenizer'))
  size = tokenizer.vocab_size + 5
  pieces = stop.pieces_of(tokenizer.decode_batch, size)
  assert len(pieces) == size
  ids = tokenizer.encode('The post says so.\n\nTL;DR: it was fine, thanks!')
  text = tokenizer.decode(ids)
  assert ''.join(pieces[i] for i in ids).strip() == text.strip()
  table = stop.make(['\n\nTL', 'fine,'], pieces)
  place, count = np.zeros(1, np.int32), 0
  while not table.found(place)[0]:
    place = table.follow(place, np.array(ids[count : count + 1]))
    count += 1
  assert '\n\nTL' in tokenizer.decode(ids[:count])
  assert '\n\nTL' not in tokenizer.decode(ids[: count - 1])


def test_cut():
  assert stop.cut('one\n\ntwo', ['two', '\n\n']) == 'one'
  assert stop.cut('one', ['x']) == 'one'


@pytest.mark.parametrize('strings', [(), ('a', '')])
def test_nothing_to_stop_at_is_an_error(strings):
  with pytest.raises(ValueError, match='stop strings'):
    stop.make(strings, PIECES)
