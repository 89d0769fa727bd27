"""Asking a labeler: a rationale first where the prompt wants one, then labels.

Chain of thought takes two calls (Lee et al., arXiv 2309.00267, 2.1.2): the
labeler writes a rationale, and its label is scored after it. Self-consistency
(Table 8) samples several rationales, whose distributions are averaged later.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rlaif_jax.data import truncation
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.labeler import Labeler, template
from rlaif_jax.labeler.prompts import LabelPrompt

_GREEDY = SamplingConfig(greedy=True)


@dataclasses.dataclass(frozen=True)
class Thinking:
  """How rationales are written.

  Attributes:
    max_tokens: of a rationale; the paper's 512.
    samples: rationales for each text.
    sampling: greedy, or for several samples T and top-k (the paper's k is 40).
    seed: of the draws.

  Raises:
    ValueError: several samples of a greedy rationale, which would be one.
  """

  max_tokens: int = 512
  samples: int = 1
  sampling: SamplingConfig = _GREEDY
  seed: int = 0

  def __post_init__(self):
    if self.samples < 1 or self.max_tokens < 1:
      raise ValueError(
        f'thinking: samples={self.samples} and max_tokens={self.max_tokens} '
        'must be at least 1'
      )
    if self.samples > 1 and self.sampling.greedy:
      raise ValueError(
        f'thinking: {self.samples} samples of a greedy rationale are all the '
        'same; set a temperature above 0'
      )


@dataclasses.dataclass(frozen=True)
class Answers:
  """What a labeler said of n texts.

  Attributes:
    logprobs: [n, S, N] of N labels after each of S rationales (S = 1 where
      the prompt wants none).
    rationales: S for each text; none where the prompt wants none.
  """

  logprobs: np.ndarray
  rationales: list[tuple[str, ...]]


def num_samples(prompt: LabelPrompt, thinking: Thinking) -> int:
  """S of `Answers`: how often a text is answered."""
  return 1 if prompt.chain_of_thought is None else thinking.samples


def fits(labeler: Labeler, prompt: LabelPrompt, thinking: Thinking):
  """fits(rendered prompt), with room for its rationale and ending."""
  if prompt.chain_of_thought is None:
    return labeler.fits
  ending = f'\n\n{prompt.ending}'
  return lambda text: labeler.fits(text + ending, room=thinking.max_tokens)


def answer(
  labeler: Labeler,
  prompt: LabelPrompt,
  texts: Sequence[str],
  ids: Sequence[str],
  thinking: Thinking,
) -> Answers:
  """Scores the labels of `prompt` after each text.

  Args:
    labeler: who is asked.
    prompt: what the texts were rendered from.
    texts: n rendered prompts that fit; see `fits`.
    ids: names of their rows.
    thinking: how rationales are written, if the prompt asks for them.
  """
  if prompt.chain_of_thought is None:
    logprobs = labeler.score_texts(texts, prompt.labels, ids=ids)
    return Answers(logprobs[:, None], [()] * len(texts))
  count = thinking.samples
  asked = [text for text in texts for _ in range(count)]
  names = [name for name in ids for _ in range(count)]
  written = labeler.write(
    asked,
    max_tokens=thinking.max_tokens,
    sampling=thinking.sampling,
    seed=thinking.seed,
    # Samples of one text differ by their name.
    ids=[f'{name} #{i % count}' for i, name in enumerate(names)],
  )
  said = [
    _that_fits(labeler, prompt, text, rationale)
    for text, rationale in zip(asked, written, strict=True)
  ]
  full = [
    template.with_rationale(prompt, text, rationale)
    for text, rationale in zip(asked, said, strict=True)
  ]
  logprobs = labeler.score_texts(full, prompt.labels, ids=names)
  return Answers(
    logprobs.reshape(len(texts), count, len(prompt.labels)),
    [tuple(said[i : i + count]) for i in range(0, len(said), count)],
  )


def _that_fits(
  labeler: Labeler, prompt: LabelPrompt, text: str, written: str
) -> str:
  """The rationale up to its verdict; cut where it reads back as too long."""
  said = template.rationale_of(prompt, written)

  def fit(rationale: str) -> bool:
    return labeler.fits(template.with_rationale(prompt, text, rationale))

  return said if fit(said) else truncation.shorten(said, fit) or ''
