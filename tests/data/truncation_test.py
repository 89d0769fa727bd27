import pytest

from rlaif_jax.data import truncation
from rlaif_jax.data.truncation import truncate_query

HEAD = 'SUBREDDIT: r/a\n\nTITLE: b\n\nPOST: '
END = '\n\nTL;DR:'


def test_short_prompts_stay_as_they_are(byte_tokenizer):
  prompt = f'{HEAD}one \n{END}'
  assert truncate_query(prompt, len(prompt), byte_tokenizer) == prompt


def test_post_is_cut_at_its_last_line_break(byte_tokenizer):
  prompt = f'{HEAD}one two\nthree\nfour five{END}'
  for cut in range(1, len('\nfour five')):
    result = truncate_query(prompt, len(prompt) - cut, byte_tokenizer)
    assert result == f'{HEAD}one two\nthree{END}'
  limit = len(f'{HEAD}one two{END}')
  assert truncate_query(prompt, limit, byte_tokenizer) == (
    f'{HEAD}one two{END}'
  )


def test_post_without_line_break_is_cut_by_words(byte_tokenizer):
  prompt = f'{HEAD}one two three{END}'
  limit = len(f'{HEAD}one two{END}') + 2
  assert truncate_query(prompt, limit, byte_tokenizer) == f'{HEAD}one two{END}'


def test_blank_lines_before_a_cut_go_too(byte_tokenizer):
  prompt = f'{HEAD}one\n\n\ntwo{END}'
  result = truncate_query(prompt, len(prompt) - 1, byte_tokenizer)
  assert result == f'{HEAD}one{END}'


def test_title_and_ending_are_never_cut(byte_tokenizer):
  prompt = f'{HEAD}one{END}'
  limit = len(HEAD.rstrip() + END)
  assert truncate_query(prompt, limit, byte_tokenizer) == HEAD.rstrip() + END
  with pytest.raises(ValueError, match='fixed part alone is longer'):
    truncate_query(prompt, limit - 1, byte_tokenizer)


def test_query_without_title(byte_tokenizer):
  prompt = 'POST: one two three\n\nTL;DR:'
  result = truncate_query(prompt, len(prompt) - 3, byte_tokenizer)
  assert result == 'POST: one two\n\nTL;DR:'


def test_dialogue_drops_its_oldest_turns(byte_tokenizer):
  old = '\n\nHuman: first\n\nAssistant: yes'
  new = '\n\nHuman: and then\n\nAssistant:'
  for limit in (len(new), len(old + new) - 1):
    assert truncate_query(old + new, limit, byte_tokenizer) == new


def test_lone_turn_is_cut_at_its_end(byte_tokenizer):
  prompt = '\n\nHuman: one two three\n\nAssistant:'
  result = truncate_query(prompt, len(prompt) - 3, byte_tokenizer)
  assert result == '\n\nHuman: one two\n\nAssistant:'


def test_other_prompts_are_not_cut(byte_tokenizer):
  with pytest.raises(ValueError, match='13 tokens is over the limit of 5'):
    truncate_query('just any text', 5, byte_tokenizer)
  with pytest.raises(ValueError, match='f: row 7: its prompt of 13 tokens'):
    truncate_query('just any text', 5, byte_tokenizer, 'f: row 7')


@pytest.mark.parametrize(
  ('limit', 'expected'),
  [(99, 'a b\nc d'), (6, 'a b'), (3, 'a b'), (2, 'a'), (0, '')],
)
def test_shorten(limit, expected):
  text = 'a b\nc d'
  assert truncation.shorten(text, lambda t: len(t) <= limit) == expected


def test_shorten_gives_up():
  assert truncation.shorten('a b', lambda t: False) is None


def test_real_posts_fit_and_keep_their_frame(shared_data):
  from rlaif_jax.data import datasets
  from rlaif_jax.data.tokenizer import load_tokenizer

  tokenizer = load_tokenizer(shared_data / 'tokenizers/gpt2')
  rows = datasets.load_dataset(
    'tldr',
    str(shared_data / 'summarize-from-feedback'),
    'valid',
    kind='posts',
    size=60,
  )
  cut = 0
  for row in rows:
    result = truncate_query(row.prompt, 200, tokenizer)
    cut += result != row.prompt
    assert len(tokenizer.encode(result)) <= 200
    assert result.endswith(END)
    frame = row.prompt.partition('\n\nPOST: ')[0]
    assert result.startswith(frame)
    if result != row.prompt:
      assert not result.removesuffix(END)[-1].isspace()
      assert row.prompt.startswith(result.removesuffix(END))
  assert cut > 10
