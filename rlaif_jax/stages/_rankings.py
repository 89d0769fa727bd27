"""Rankings of K responses to a prompt, for the reward model's loss 'kway'.

InstructGPT (arXiv 2203.02155, section 3.5): all C(K,2) comparisons of a prompt
are one element of the batch, so a response is read once, not K - 1 times, and
is not learned again and again within an epoch. A row of a data set, for which
data/datasets/jsonl.py reads such files, has

  prompt, responses: [...], and ranking: [...] (1 is the best) or scores: [...]
  (the higher the better)

where equal numbers are a tie. Rows with one response and its `score`, as the
sample stage leaves them, are a ranking for each prompt, and a labelled pair is
a ranking of two.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from rlaif_jax.core import losses
from rlaif_jax.data import transforms
from rlaif_jax.data.datasets import Example
from rlaif_jax.stages import common


class Rankings(NamedTuple):
  """A batch of prompts with K responses each."""

  tokens: Int[Array, 'B K T']  # prompt and response, right-padded
  mask: Bool[Array, 'B K T']
  ranks: Float[Array, 'B K']  # the smaller the better; equal ones are a tie
  there: Bool[Array, 'B K']  # False: the prompt has fewer responses


def ranking_of(
  example: Example, source: str
) -> tuple[list[str], list[float]] | None:
  """(responses, ranks, the smaller the better) of a row; None if it has none.

  Raises:
    ValueError: the row's lists are not what they should be; names it.
  """
  given = example.meta
  if 'responses' not in given:
    if example.pair is None or example.p_first is None:
      return None
    return list(example.pair), [0.5 - example.p_first, example.p_first - 0.5]
  place = f'{source}: row {example.id}'
  responses = given['responses']
  if not isinstance(responses, list | tuple) or not all(
    isinstance(text, str) for text in responses
  ):
    raise ValueError(f'{place}: responses should be a list of texts')
  key = 'ranking' if 'ranking' in given else 'scores'
  numbers = given.get(key)
  if not isinstance(numbers, list | tuple) or len(numbers) != len(responses):
    raise ValueError(
      f"{place}: column 'ranking' or 'scores' should have a number for each of "
      f'its {len(responses)} responses but is {numbers!r}'
    )
  if not all(_finite(number) for number in numbers):
    raise ValueError(f'{place}: {key} should be numbers but is {numbers!r}')
  responses = [text.strip() for text in responses]
  for (one, a), (other, b) in itertools.combinations(
    zip(responses, numbers, strict=True), 2
  ):
    if one == other and a != b:
      raise ValueError(
        f'{place}: two of its responses are identical, so neither can be '
        'preferred; give them the same number, or leave one out'
      )
  sign = 1.0 if key == 'ranking' else -1.0
  return responses, [sign * number for number in numbers]


def fit(
  s: common.Session, loaded, examples: Sequence[Example], overflow, source: str
) -> list[Example]:
  """Rows whose ranking says something and whose prompt fits.

  They all have their ranking as `ranking_of` gives it in `meta['responses']`
  and `meta['ranking']`. `overflow` as in `common.fit_prompts`.

  Raises:
    ValueError: there is none, or one is not what it should be.
  """
  rows = []
  for example in grouped(examples):
    found = ranking_of(example, source)
    if found is not None and len(set(found[1])) > 1:
      meta = {**example.meta, 'responses': found[0], 'ranking': found[1]}
      rows.append(dataclasses.replace(example, meta=meta))
  if not rows:
    raise ValueError(
      f'{source}: the reward model needs rankings that are not only ties; '
      'there are none'
    )
  return common.fit_prompts(
    rows, loaded.tokenizer, s.config.max_prompt, overflow, source
  )


def grouped(examples: Sequence[Example]) -> list[Example]:
  """Rows of one scored response each put together, prompt by prompt.

  A response that a prompt has twice counts once. Other rows stay as they are.
  """
  rows, scores = [], {}
  for example in examples:
    of_prompt = None
    if example.response is not None and 'score' in example.meta:
      of_prompt = scores.setdefault(example.prompt, {})
    if not of_prompt:  # the first of a prompt, or another kind of row
      rows.append((example, of_prompt))
    if of_prompt is not None:
      of_prompt.setdefault(example.response, example.meta['score'])
  return [
    example
    if found is None
    else dataclasses.replace(
      example,
      meta={'responses': list(found), 'scores': list(found.values())},
    )
    for example, found in rows
  ]


def largest(rows: Sequence[Example]) -> int:
  """K: responses of the longest of the fitted rankings, made even."""
  most = max(len(row.meta['responses']) for row in rows)
  return most + most % 2


def as_pairs(rows: Sequence[Example], size: int) -> list[Example]:
  """Fitted rankings as size / 2 unlabelled pairs each, row by row.

  One that is shorter repeats its first response.
  """
  pairs = []
  for row in rows:
    texts = row.meta['responses']
    texts = [*texts, *[texts[0]] * (size - len(texts))]
    pairs += [
      dataclasses.replace(row, pair=(one, other), p_first=0.5)
      for one, other in zip(texts[::2], texts[1::2], strict=True)
    ]
  return pairs


def make_batch(
  config: ConfigDict, loaded: common.Loaded, rows: Sequence[Example], size: int
) -> Rankings:
  """Rankings of fitted rows with K = `size`; a long response is cut."""
  pairs = transforms.pair_batch(
    as_pairs(rows, size),
    loaded.tokenizer,
    config.max_prompt,
    config.max_response,
    overflow='truncate',
  )

  def woven(one, other):
    both = np.stack([one, other], axis=1)
    return both.reshape(len(rows), size, -1)

  ranks = np.zeros((len(rows), size), np.float32)
  there = np.zeros((len(rows), size), bool)
  for i, row in enumerate(rows):
    found = row.meta['ranking']
    ranks[i, : len(found)], there[i, : len(found)] = found, True
  return Rankings(
    woven(pairs.tokens_1, pairs.tokens_2),
    woven(pairs.mask_1, pairs.mask_2),
    ranks,
    there,
  )


def make_loss(model):
  """loss(params, Rankings, key) -> (InstructGPT's equation 1, metrics)."""

  def loss_fn(params, batch: Rankings, key):
    del key
    length = batch.tokens.shape[-1]
    scores = model.apply(
      params,
      batch.tokens.reshape(-1, length),
      mask=batch.mask.reshape(-1, length),
    )
    loss, metrics = losses.ranking_preference(
      scores.reshape(batch.ranks.shape), batch.ranks, batch.there
    )
    return loss, {'loss/reward': loss, **metrics}

  return loss_fn


def _finite(value: Any) -> bool:
  number = isinstance(value, int | float) and not isinstance(value, bool)
  return number and math.isfinite(value)
