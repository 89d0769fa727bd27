"""From texts to padded NumPy batches.

Tokens are int32, masks bool (True = real token). A sequence that is too long
is an error that names its row, unless the caller chose to cut it: silently
cut prompts and responses are how such systems go wrong unseen.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from rlaif_jax.core.types import PairBatch, PromptBatch, TokenBatch
from rlaif_jax.data.tokenizer import Tokenizer
from rlaif_jax.data.truncation import truncate_query

Overflow = Literal['error', 'truncate']
# One length, or buckets of which the smallest that fits is taken.
Length = int | Sequence[int]


# -- padding ------------------------------------------------------------------


def bucket_length(n: int, buckets: Sequence[int]) -> int:
  """Smallest bucket that holds `n` tokens.

  Raises:
    ValueError: no bucket does.
  """
  fitting = [b for b in buckets if b >= n]
  if not fitting:
    raise ValueError(
      f'{n} tokens fit in none of the lengths {tuple(buckets)}; allow a '
      'longer one'
    )
  return min(fitting)


def power_buckets(
  limit: int, smallest: int = 16, parts: int = 4
) -> tuple[int, ...]:
  """Powers of two from `smallest` in `parts` steps, up to `limit` itself.

  In quarters, since padding to the next power of two wastes a third of the
  work on average and a compilation is paid once.
  """
  sizes = (
    smallest * 2**i * part // parts
    for i in itertools.count()
    for part in range(parts, 2 * parts)
  )
  return (*itertools.takewhile(lambda b: b < limit, sizes), limit)


def fine_buckets(limit: int) -> tuple[int, ...]:
  """Multiples of 32, from 256 on in eighths of a power of two, and `limit`."""
  short = tuple(n for n in range(32, 256, 32) if n < limit)
  return short + power_buckets(limit, 256, 8)


def prompt_buckets(limit: int) -> tuple[int, ...]:
  """64, 96, 128, 192, ... and `limit`: few, since RL compiles much for each."""
  return power_buckets(limit, 64, 2)


def left_pad(
  rows: Sequence[Sequence[int]],
  length: Length,
  pad_id: int,
  *,
  names: Sequence[str] | None = None,
  overflow: Overflow = 'error',
) -> tuple[np.ndarray, np.ndarray]:
  """Pads at the left: (tokens [B, T] int32, mask [B, T] bool).

  Args:
    rows: token ids of each row.
    length: T, or buckets of which the smallest that holds every row is T.
    pad_id: fills the padding.
    names: of the rows, for messages; default 'row 0', 'row 1', ...
    overflow: 'truncate' drops the first tokens of a row that is too long.

  Raises:
    ValueError: a row is too long; names it and both lengths.
  """
  rows, width = _fit(rows, length, names, overflow, slice_from_end=True)
  tokens = np.full((len(rows), width), pad_id, np.int32)
  mask = np.zeros((len(rows), width), bool)
  for i, row in enumerate(rows):
    tokens[i, width - len(row) :] = row
    mask[i, width - len(row) :] = True
  return tokens, mask


def right_pad(
  rows: Sequence[Sequence[int]],
  length: Length,
  pad_id: int,
  *,
  names: Sequence[str] | None = None,
  overflow: Overflow = 'error',
) -> tuple[np.ndarray, np.ndarray]:
  """Pads at the right; as `left_pad`, but 'truncate' drops the last tokens."""
  rows, width = _fit(rows, length, names, overflow, slice_from_end=False)
  tokens = np.full((len(rows), width), pad_id, np.int32)
  mask = np.zeros((len(rows), width), bool)
  for i, row in enumerate(rows):
    tokens[i, : len(row)] = row
    mask[i, : len(row)] = True
  return tokens, mask


def _fit(rows, length: Length, names, overflow: Overflow, slice_from_end: bool):
  """(rows cut or checked, width of the batch)."""
  buckets = (length,) if isinstance(length, int) else tuple(length)
  limit = max(buckets)
  if overflow == 'truncate':
    cut = slice(-limit, None) if slice_from_end else slice(limit)
    rows = [row[cut] for row in rows]
  for i, row in enumerate(rows):
    if len(row) > limit:
      name = names[i] if names is not None else f'row {i}'
      raise ValueError(
        f'{name}: {len(row)} tokens, more than the {limit} allowed; raise the '
        "limit, or choose the overflow policy 'truncate'"
      )
  return rows, bucket_length(max(map(len, rows), default=0), buckets)


# -- batches ------------------------------------------------------------------


def continuation_ids(
  responses: Sequence[str],
  tokenizer: Tokenizer,
  separators: Sequence[str] | None = None,
) -> list[list[int]]:
  """Ids of each response as it stands after a prompt, with its EOS.

  The boundary: `encode_plain(separator + response) + [eos_id]`, the separator
  a space unless `separators` says otherwise; an empty response is the EOS
  alone. See the module docstring of `data.tokenizer`.
  """
  separators = separators or [' '] * len(responses)
  texts = [
    s + r if r else '' for s, r in zip(separators, responses, strict=True)
  ]
  return [
    [*ids, tokenizer.eos_id] for ids in tokenizer.encode_plain_batch(texts)
  ]


def response_ids(prompt: str, response: str, tokenizer: Tokenizer) -> list[int]:
  """Ids of prompt, response and EOS, as training and scoring see them."""
  return [
    *tokenizer.encode(prompt),
    *continuation_ids([response], tokenizer)[0],
  ]


def sft_batch(
  examples: Sequence,
  tokenizer: Tokenizer,
  max_prompt: int,
  max_response: int,
  *,
  row_weights: np.ndarray | None = None,
  among: Sequence | None = None,
  overflow: Overflow = 'error',
) -> TokenBatch:
  """Demonstrations, right-padded; the loss is on the response and its EOS.

  Args:
    examples: B rows with `id`, `prompt`, `response`.
    tokenizer: of the model that learns.
    max_prompt: tokens allowed for a prompt, with BOS.
    max_response: tokens allowed for a response, with EOS.
    row_weights: [B]; rows with 0 (they only fill the batch) give no loss.
    among: rows of which these are a part, such as those of all hosts: T is then
      the smallest of `power_buckets` that holds them all.
    overflow: 'truncate' cuts prompts by `truncate_query` and drops the end of
      a response, which then has no EOS, since it does not end there.

  Raises:
    ValueError: a row without response, or (overflow 'error') one too long.
  """
  for example in examples:
    if example.response is None:
      raise ValueError(f'{example.id}: has no response to learn from')

  limits, size = (max_prompt, max_response), len(examples)
  length: Length = sum(limits)
  if among is not None:
    examples = [*examples, *_without(among, examples)]
    length = power_buckets(sum(limits))
  texts = [e.response for e in examples]
  prompts, responses = _encode_rows(
    examples, texts, tokenizer, limits, overflow
  )
  tokens, mask = right_pad(
    [p + r for p, r in zip(prompts, responses, strict=True)],
    length,
    tokenizer.pad_id,
    names=[e.id for e in examples],
  )
  tokens, mask, prompts = tokens[:size], mask[:size], prompts[:size]
  starts = np.array([len(p) for p in prompts], np.int32)
  loss_mask = mask & (np.arange(tokens.shape[1]) >= starts[:, None])
  if row_weights is not None:
    loss_mask &= np.asarray(row_weights)[:, None] > 0
  return TokenBatch(tokens=tokens, mask=mask, loss_mask=loss_mask)


def prompt_batch(
  examples: Sequence,
  tokenizer: Tokenizer,
  max_prompt: int,
  *,
  among: Sequence | None = None,
  overflow: Overflow = 'error',
) -> PromptBatch:
  """Prompts, left-padded to `max_prompt` (or a bucket), for decoding.

  Args:
    examples: B rows with `id` and `prompt`.
    tokenizer: of the model that decodes.
    max_prompt: tokens allowed for a prompt, with BOS.
    among: rows of which these are a part, such as those of all hosts: P is then
      the smallest of `prompt_buckets` that holds them all.
    overflow: 'truncate' cuts prompts by `truncate_query`.

  Raises:
    ValueError: a prompt is too long, or cannot be cut.
  """
  length: Length = max_prompt
  size = len(examples)
  if among is not None:
    examples = [*examples, *_without(among, examples)]
    length = prompt_buckets(max_prompt)
  ids = _encode_prompts(examples, tokenizer, max_prompt, overflow)
  tokens, mask = left_pad(
    ids, length, tokenizer.pad_id, names=[e.id for e in examples]
  )
  return PromptBatch(tokens=tokens[:size], mask=mask[:size])


def pair_batch(
  rows: Sequence,
  tokenizer: Tokenizer,
  max_prompt: int,
  max_response: int,
  *,
  row_weights: np.ndarray | None = None,
  overflow: Overflow = 'error',
) -> PairBatch:
  """Preference pairs, right-padded, both texts to the same width.

  Args:
    rows: B rows with `id`, `prompt`, `pair` and `p_first` (Example or
      PreferenceRecord).
    tokenizer: of the reward model.
    max_prompt: tokens allowed for a prompt, with BOS.
    max_response: tokens allowed for a response, with EOS.
    row_weights: [B] float, default 1; 0 for rows that only fill the batch.
    overflow: as in `sft_batch`, except that the EOS stays: a reward model
      reads its score there.

  Raises:
    ValueError: a row without pair or label, or one too long.
  """
  for row in rows:
    if row.pair is None or row.p_first is None:
      raise ValueError(
        f'{row.id}: has no pair of responses with a preference; label it '
        'first, or leave such rows out'
      )
  limits = (max_prompt, max_response)
  names = [row.id for row in rows]
  sequences = []
  for side in (0, 1):
    prompts, responses = _encode_rows(
      rows, [r.pair[side] for r in rows], tokenizer, limits, overflow
    )
    if overflow == 'truncate':
      responses = [[*r[:-1], tokenizer.eos_id] for r in responses]
    sequences += [p + r for p, r in zip(prompts, responses, strict=True)]
  tokens, mask = right_pad(
    sequences, sum(limits), tokenizer.pad_id, names=names + names
  )
  size = len(rows)
  weight = np.ones(size) if row_weights is None else row_weights
  return PairBatch(
    tokens_1=tokens[:size],
    mask_1=mask[:size],
    tokens_2=tokens[size:],
    mask_2=mask[size:],
    p_first=np.array([r.p_first for r in rows], np.float32),
    weight=np.asarray(weight, np.float32),
  )


def _without(rows: Sequence, others: Sequence) -> list:
  """The rows that are not the very same as one of the others."""
  known = set(map(id, others))
  return [row for row in rows if id(row) not in known]


def _encode_prompts(
  examples, tokenizer: Tokenizer, max_prompt: int, overflow: Overflow
) -> list[list[int]]:
  encoded = tokenizer.encode_batch([e.prompt for e in examples])
  for i, ids in enumerate(encoded):
    if len(ids) <= max_prompt:
      continue
    if overflow == 'error':
      raise ValueError(
        f'{examples[i].id}: its prompt has {len(ids)} tokens, more than '
        f'max_prompt={max_prompt}; raise it, or cut prompts with '
        'truncate_query'
      )
    text = truncate_query(examples[i].prompt, max_prompt, tokenizer)
    encoded[i] = tokenizer.encode(text)
  return encoded


def _encode_rows(
  examples,
  responses: Sequence[str],
  tokenizer: Tokenizer,
  limits: tuple[int, int],
  overflow: Overflow,
) -> tuple[list[list[int]], list[list[int]]]:
  """(prompt ids, response ids with EOS) within (max_prompt, max_response)."""
  prompts = _encode_prompts(examples, tokenizer, limits[0], overflow)
  separators = [getattr(e, 'separator', ' ') for e in examples]
  encoded = continuation_ids(responses, tokenizer, separators)
  for i, ids in enumerate(encoded):
    if len(ids) <= limits[1]:
      continue
    if overflow == 'error':
      raise ValueError(
        f'{examples[i].id}: its response has {len(ids)} tokens with EOS, more '
        f'than max_response={limits[1]}; raise it, or leave the row out'
      )
    encoded[i] = ids[: limits[1]]
  return prompts, encoded
