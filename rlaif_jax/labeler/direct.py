"""Direct scores from 1 to 10 (Lee et al., arXiv 2309.00267, 2.2.2).

The ten score strings are scored by log-probability and renormalised over the
ten; the score is their mean, s = sum_i i P(i).
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlaif_jax.core import logprobs as logprobs_lib
from rlaif_jax.labeler import Labeler, template
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


def score_responses(
  labeler: Labeler,
  prompt: LabelPrompt,
  fields: Sequence[Mapping[str, str]],
  responses: Sequence[str],
  *,
  ids: Sequence[str] | None = None,
) -> np.ndarray:
  """Scores [B] in [1, 10], float32, one response per row.

  Args:
    labeler: who scores.
    prompt: a prompt of kind 'score' with ten labels.
    fields: values of the template's fields, one mapping per row.
    responses: what to score.
    ids: names of the rows, for messages; default 'row 0', 'row 1', ...

  Raises:
    ValueError: another kind of prompt, a missing field, a row that does not
      fit the labeler even with its post cut, or log-probs that are not finite;
      names the row.
  """
  if prompt.kind != 'score' or len(prompt.labels) != _COUNT:
    raise ValueError(
      f'labeling prompt {prompt.name!r} is {prompt.kind} with '
      f'{len(prompt.labels)} labels; choose a score prompt with {_COUNT}'
    )
  labeler.check_prompt(prompt)
  if ids is None:
    ids = [f'row {i}' for i in range(len(responses))]
  texts = []
  for name, row, response in zip(ids, fields, responses, strict=True):
    fitted = template.fit(prompt, row, (response,), fits=labeler.fits)
    if fitted is None:
      raise ValueError(
        f'{name}: with its response alone the prompt {prompt.name!r} is over '
        f'{labeler.limit} tokens; allow shorter responses or a longer prompt'
      )
    texts.append(fitted.texts[0])
  logprobs = labeler.score_texts(texts, prompt.labels, ids=ids)
  return np.asarray(expected_score(logprobs, prompt.prefers))
