import types

import numpy as np
import pytest

from rlaif_jax.data import transforms
from rlaif_jax.data.datasets import Example

EOS = 256


def example(prompt='ab:', response='c', **kwargs):
  return Example(id='row7', prompt=prompt, response=response, **kwargs)


def test_left_and_right_pad():
  rows = [[1, 2], [3], []]
  tokens, mask = transforms.left_pad(rows, 3, 9)
  np.testing.assert_array_equal(tokens, [[9, 1, 2], [9, 9, 3], [9, 9, 9]])
  np.testing.assert_array_equal(mask, [[0, 1, 1], [0, 0, 1], [0, 0, 0]])
  assert (tokens.dtype, mask.dtype) == (np.int32, bool)
  tokens, mask = transforms.right_pad(rows, 3, 9)
  np.testing.assert_array_equal(tokens, [[1, 2, 9], [3, 9, 9], [9, 9, 9]])
  np.testing.assert_array_equal(mask, [[1, 1, 0], [1, 0, 0], [0, 0, 0]])


def test_padding_to_a_bucket():
  tokens, _ = transforms.right_pad([[1, 2, 3], [4]], (8, 4, 2), 0)
  assert tokens.shape == (2, 4)
  assert transforms.bucket_length(4, (2, 4, 8)) == 4
  assert transforms.bucket_length(5, (8, 4, 2)) == 8
  with pytest.raises(ValueError, match='9 tokens fit in none'):
    transforms.bucket_length(9, (2, 4, 8))


def test_power_buckets():
  assert transforms.power_buckets(40) == (16, 20, 24, 28, 32, 40)
  assert transforms.power_buckets(20) == (16, 20)
  assert transforms.power_buckets(50, 16, 2) == (16, 24, 32, 48, 50)
  assert transforms.fine_buckets(70) == (32, 64, 70)
  assert transforms.fine_buckets(330)[-5:] == (224, 256, 288, 320, 330)
  assert transforms.power_buckets(8) == (8,)


@pytest.mark.parametrize('pad', [transforms.left_pad, transforms.right_pad])
def test_too_long_is_an_error_with_name_and_lengths(pad):
  with pytest.raises(ValueError, match='post-3: 4 tokens, more than the 3'):
    pad([[1], [1, 2, 3, 4]], 3, 0, names=['post-2', 'post-3'])
  with pytest.raises(ValueError, match='row 1: 4 tokens'):
    pad([[1], [1, 2, 3, 4]], (2, 3), 0)


def test_chosen_truncation():
  tokens, _ = transforms.left_pad([[1, 2, 3]], 2, 0, overflow='truncate')
  np.testing.assert_array_equal(tokens, [[2, 3]])
  tokens, _ = transforms.right_pad([[1, 2, 3]], 2, 0, overflow='truncate')
  np.testing.assert_array_equal(tokens, [[1, 2]])


def test_response_ids(byte_tokenizer):
  encode = byte_tokenizer.encode
  ids = transforms.response_ids('ab:', 'c', byte_tokenizer)
  assert ids == [*encode('ab: c'), EOS]
  assert transforms.response_ids('ab:', '', byte_tokenizer) == [
    *encode('ab:'),
    EOS,
  ]


def test_sft_batch_learns_response_and_eos(byte_tokenizer):
  rows = [example(), example('a:', 'bcd')]
  batch = transforms.sft_batch(rows, byte_tokenizer, 4, 6)
  assert batch.tokens.shape == (2, 10)
  first = [*byte_tokenizer.encode('ab: c'), EOS]
  np.testing.assert_array_equal(batch.tokens[0, :6], first)
  # 'ab:' is the prompt; ' ', 'c' and EOS are learnt; the rest is padding.
  np.testing.assert_array_equal(batch.mask[0], [1] * 6 + [0] * 4)
  np.testing.assert_array_equal(
    batch.loss_mask[0], [0, 0, 0, 1, 1, 1, 0, 0, 0, 0]
  )
  np.testing.assert_array_equal(
    batch.loss_mask[1], [0, 0, 1, 1, 1, 1, 1, 0, 0, 0]
  )
  assert batch.tokens.dtype == np.int32
  assert batch.loss_mask.dtype == bool


def test_sft_batch_filler_rows_give_no_loss(byte_tokenizer):
  batch = transforms.sft_batch(
    [example(), example()],
    byte_tokenizer,
    4,
    6,
    row_weights=np.array([1.0, 0.0]),
  )
  assert batch.loss_mask[0].any()
  assert not batch.loss_mask[1].any()


def test_sft_batch_errors_name_the_row(byte_tokenizer):
  with pytest.raises(ValueError, match='row7: its prompt has 3 tokens.*=2'):
    transforms.sft_batch([example()], byte_tokenizer, 2, 6)
  with pytest.raises(ValueError, match='row7: its response has 3 tokens.*=2'):
    transforms.sft_batch([example()], byte_tokenizer, 4, 2)
  with pytest.raises(ValueError, match='row7: has no response'):
    transforms.sft_batch([example(response=None)], byte_tokenizer, 4, 2)


def test_sft_batch_truncated_response_has_no_eos(byte_tokenizer):
  batch = transforms.sft_batch(
    [example(response='cdefg')], byte_tokenizer, 4, 3, overflow='truncate'
  )
  text = byte_tokenizer.decode(batch.tokens[0][batch.mask[0]])
  assert text == 'ab: cd'
  assert EOS not in batch.tokens[0][batch.mask[0]]


def test_prompt_batch_is_left_padded(byte_tokenizer):
  rows = [example('ab:'), example('a:')]
  batch = transforms.prompt_batch(rows, byte_tokenizer, 4)
  np.testing.assert_array_equal(batch.mask, [[0, 1, 1, 1], [0, 0, 1, 1]])
  assert byte_tokenizer.decode(batch.tokens[1][batch.mask[1]]) == 'a:'
  with pytest.raises(ValueError, match='row7: its prompt has 3 tokens'):
    transforms.prompt_batch(rows, byte_tokenizer, 2)


def test_texts_are_as_wide_as_the_longest_of_all_hosts(byte_tokenizer):
  rows = [example('a' * n, response='b' * n) for n in (4, 20)]

  def width(among, limit=200):
    batch = transforms.sft_batch(
      rows[:1], byte_tokenizer, limit, limit, among=among
    )
    assert batch.mask.sum() == 10  # with a space and the end
    return batch.tokens.shape[1]

  assert width(None) == 400
  assert width([]) == width(rows[:1]) == 16
  assert width(rows) == 48
  assert width(rows, limit=22) == 44  # 42 tokens


def test_prompts_are_as_wide_as_the_longest_of_all_hosts(byte_tokenizer):
  rows = [example('a' * n) for n in (5, 90, 130)]

  def width(count, among, limit=500):
    batch = transforms.prompt_batch(
      rows[:count], byte_tokenizer, limit, among=among
    )
    assert batch.tokens.shape == batch.mask.shape
    assert batch.mask.sum() == sum((5, 90, 130)[:count])
    return batch.tokens.shape[1]

  assert width(1, None) == 500
  assert width(1, rows[:1]) == width(1, []) == 64
  assert width(1, rows[:2]) == width(2, rows[:1]) == 96
  assert width(1, rows) == 192
  assert width(1, rows, limit=150) == 150
  assert transforms.prompt_buckets(50) == (50,)


def test_prompt_batch_truncates_when_told(byte_tokenizer):
  rows = [example('POST: one\ntwo three\n\nTL;DR:')]
  batch = transforms.prompt_batch(rows, byte_tokenizer, 20, overflow='truncate')
  text = byte_tokenizer.decode(batch.tokens[0][batch.mask[0]])
  assert text == 'POST: one\n\nTL;DR:'


def test_pair_batch(byte_tokenizer):
  rows = [
    example(pair=('x', 'yz'), p_first=0.75),
    example('b:', pair=('long', ''), p_first=0.0),
  ]
  batch = transforms.pair_batch(rows, byte_tokenizer, 3, 6)
  assert batch.tokens_1.shape == batch.tokens_2.shape == (2, 9)
  texts = [
    byte_tokenizer.decode(t[m], skip_special=False)
    for t, m in zip(
      [*batch.tokens_1, *batch.tokens_2],
      [*batch.mask_1, *batch.mask_2],
      strict=True,
    )
  ]
  assert texts == ['ab: x<eos>', 'b: long<eos>', 'ab: yz<eos>', 'b:<eos>']
  np.testing.assert_array_equal(batch.p_first, np.float32([0.75, 0]))
  np.testing.assert_array_equal(batch.weight, np.float32([1, 1]))


def test_pair_batch_takes_records_and_weights(byte_tokenizer):
  row = types.SimpleNamespace(id='r', prompt='a:', pair=('x', 'y'), p_first=1)
  batch = transforms.pair_batch(
    [row, row], byte_tokenizer, 30, 4, row_weights=[1, 0]
  )
  assert batch.tokens_1.shape == (2, 34)
  np.testing.assert_array_equal(batch.weight, np.float32([1, 0]))


def test_pair_batch_truncation_keeps_the_eos(byte_tokenizer):
  row = example(pair=('abcdef', 'b'), p_first=1.0)
  batch = transforms.pair_batch(
    [row], byte_tokenizer, 3, 3, overflow='truncate'
  )
  tokens = batch.tokens_1[0][batch.mask_1[0]]
  assert byte_tokenizer.decode(tokens, skip_special=False) == 'ab: a<eos>'


def test_pair_batch_wants_labels(byte_tokenizer):
  with pytest.raises(ValueError, match='row7: has no pair'):
    transforms.pair_batch([example()], byte_tokenizer, 3, 3)
  unlabelled = example(pair=('a', 'b'))
  with pytest.raises(ValueError, match='row7: has no pair .* preference'):
    transforms.pair_batch([unlabelled], byte_tokenizer, 3, 3)
