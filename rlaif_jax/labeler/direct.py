"""Direct scores of one response (Lee et al., arXiv 2309.00267, 2.2.2).

From 1 to 10: the ten score strings are scored by log-probability and
renormalised over the ten; the score is their mean, s = sum_i i P(i). Yes or
no: the score is the log-odds of yes. By a rubric: the weighted mean over its
criteria.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlaif_jax.core import logprobs as logprobs_lib
from rlaif_jax.labeler import Labeler, ask, criteria, template
from rlaif_jax.labeler.ask import Thinking
from rlaif_jax.labeler.prompts import LabelPrompt

_COUNT = 10


def expected_score(
  logprobs: Float[Array, 'B N'], prefers: str = 'better'
) -> Float[Array, ' B']:
  """Mean score in [1, N] under the distribution over the N score labels.

  Args:
    logprobs: of the labels, from the lowest score to the highest.
    prefers: 'worse' if high scores mean worse; the scale is turned over.
  """
  count = logprobs.shape[-1]
  scale = jnp.arange(1, count + 1, dtype=jnp.float32)
  if prefers == 'worse':
    scale = scale[::-1]
  return logprobs_lib.label_distribution(logprobs) @ scale


def to_unit(score: Float[Array, ' B']) -> Float[Array, ' B']:
  """Maps a score from [1, 10] to a reward in [-1, 1]: (s - 5.5) / 4.5."""
  return (score - (1 + _COUNT) / 2) / ((_COUNT - 1) / 2)


def log_odds(
  logprobs: Float[Array, 'B 2'], prefers: str = 'better'
) -> Float[Array, ' B']:
  """Log-odds of the second label ("yes"), or of the first for 'worse'."""
  difference = logprobs[:, 1] - logprobs[:, 0]
  return -difference if prefers == 'worse' else difference


def to_reward(score: Float[Array, ' B'], prompt: LabelPrompt):
  """Reward [B] of what `score_responses` gave: log-odds stay as they are."""
  return score if prompt.kind == 'yes_no' else to_unit(score)


def score_responses(
  labeler: Labeler,
  prompt: LabelPrompt,
  fields: Sequence[Mapping[str, str]],
  responses: Sequence[str],
  *,
  ids: Sequence[str] | None = None,
  thinking: Thinking | None = None,
) -> np.ndarray:
  """Scores [B], float32, one response per row: in [1, 10], or log-odds.

  Args:
    labeler: who scores.
    prompt: a prompt of kind 'score' with ten labels, or of kind 'yes_no'.
    fields: values of the template's fields, one mapping per row.
    responses: what to score.
    ids: names of the rows, for messages; default 'row 0', 'row 1', ...
    thinking: how rationales are written, where the prompt asks for them; its
      seed draws the criteria too.

  Raises:
    ValueError: another kind of prompt, a missing field, a row that does not
      fit the labeler even with its post cut, or log-probs that are not finite;
      names the row.
  """
  thinking = thinking or Thinking()
  check(prompt)
  if ids is None:
    ids = [f'row {i}' for i in range(len(responses))]
  fits = ask.fits(labeler, prompt, thinking)
  asked = []  # (row, weight, text)
  for i, (name, row, response) in enumerate(
    zip(ids, fields, responses, strict=True)
  ):
    for c in criteria.of_row(prompt, name, thinking.seed):
      fitted = template.fit(
        prompt, row, (response,), fits=fits, criterion=c.text
      )
      if fitted is None:
        raise ValueError(
          f'{name}: with its response alone the prompt {prompt.name!r} is over '
          f'{labeler.limit} tokens; allow shorter responses or a longer prompt'
        )
      asked.append((i, c.weight, fitted.texts[0]))
  answers = ask.answer(
    labeler,
    prompt,
    [text for *_, text in asked],
    [ids[i] for i, *_ in asked],
    thinking,
  )
  score = log_odds if prompt.kind == 'yes_no' else expected_score
  each = score(answers.logprobs.reshape(-1, len(prompt.labels)), prompt.prefers)
  mean = np.asarray(each).reshape(answers.logprobs.shape[:2]).mean(-1)
  rows = np.array([i for i, *_ in asked], int)
  weights = np.array([weight for _, weight, _ in asked], np.float64)
  total = np.bincount(rows, weights, len(responses))
  found = np.bincount(rows, weights * mean, len(responses)) / total
  return found.astype(np.float32)


def check(prompt: LabelPrompt) -> None:
  """Raises ValueError for a prompt that scores no single response."""
  ten = prompt.kind == 'score' and len(prompt.labels) == _COUNT
  if not ten and prompt.kind != 'yes_no':
    raise ValueError(
      f'labeling prompt {prompt.name!r} is {prompt.kind} with '
      f'{len(prompt.labels)} labels; choose a score prompt with {_COUNT}, or a '
      'yes_no prompt'
    )
