"""Tiny forum posts to summarize, with a known oracle.

A post holds three or four facts, one sentence each, and some filler; a summary
holds one clause for each fact that it covers. The oracle scores the four axes
of the rater guide that the paper prompts with (arXiv 2309.00267, Table 16):
coverage, accuracy, coherence, and length in place of overall quality. The
simulated human agrees with the oracle about 75% of the time, as the paper's
humans do with each other (73-77%).

Labelers train on `LABELER_SUBREDDITS`, everything else uses
`POLICY_SUBREDDITS`; combinations of facts of the test splits occur nowhere
else.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from rlaif_jax.data.datasets import Example
from rlaif_jax.data.datasets import _tiny as tiny
from rlaif_jax.data.datasets import _tiny_tldr_words as words

LABELER_SUBREDDITS = words.LABELER_SUBREDDITS
POLICY_SUBREDDITS = words.POLICY_SUBREDDITS
VALUES = words.VALUES

# Weights of the axes in the oracle. Coverage leads: it is what most sets
# summaries of this world apart, and what a policy can improve on most.
WEIGHTS = {'coverage': 0.45, 'accuracy': 0.3, 'coherence': 0.15, 'length': 0.1}
WORD_BUDGET = 16
HUMAN_TEMPERATURE = 0.16
LABELER_TEMPERATURE = 0.05
# Oracle values that map to grades 1 and 10; graded summaries span them.
GRADE_RANGE = (0.3, 1.0)

SIZES = {
  'train': 8192,
  'preferences': 8192,
  'rl': 4096,
  'test': 512,
  'test_preferences': 1024,
  'labeler': 8192,
}

GRAMMAR = tiny.Grammar(VALUES, words.CLAUSES, words.OPENERS)


@dataclasses.dataclass(frozen=True)
class Quality:
  """How a summary is written; every field is a probability.

  Attributes:
    coverage: that a fact of the post is covered.
    wrong: that a covered fact gets another value of its slot.
    invented: that a fact is added which the post does not speak of.
    wordy: that one clause gets an opener that says nothing.
    repeated: that one clause is said twice.
    truncated: that the text breaks off within its last clause.
    shuffled: that the words of one clause are out of order.
  """

  coverage: float = 0.55
  wrong: float = 0.12
  invented: float = 0.05
  wordy: float = 0.2
  repeated: float = 0.1
  truncated: float = 0.04
  shuffled: float = 0.04


REFERENCE = Quality()
PERFECT = Quality(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def graded_quality(rng: np.random.Generator) -> Quality:
  """Draws a quality from very good to very bad, as labelers train on."""
  badness = rng.random()
  return Quality(
    coverage=rng.random() ** 0.6,
    wrong=0.8 * rng.random() * badness,
    invented=0.4 * badness,
    wordy=0.3,
    repeated=0.4 * badness,
    truncated=0.2 * badness,
    shuffled=0.2 * badness,
  )


def load(
  path: str | None = None,
  split: str = 'train',
  *,
  size: int | None = None,
  seed: int = 0,
) -> list[Example]:
  """Generates a split; the same arguments always give the same rows.

  Args:
    path: must be None, since nothing is read.
    split: 'train' (reference summaries), 'preferences' and
      'test_preferences' (pairs from the reference distribution with a simulated
      human choice), 'rl' and 'test' (prompts), or 'labeler' (widely graded
      pairs without a choice, on other subreddits).
    size: number of rows; default by split.
    seed: another seed gives other rows.

  Raises:
    ValueError: unknown split, or a path was given.
  """
  tiny.check_arguments('tiny_tldr', path, split, SIZES)
  count = SIZES[split] if size is None else size
  return [_example(split, seed, index) for index in range(count)]


def _example(split: str, seed: int, index: int) -> Example:
  rng = tiny.stream(seed, 'tiny_tldr', split, index)
  subreddits = LABELER_SUBREDDITS if split == 'labeler' else POLICY_SUBREDDITS
  subreddit = tiny.pick(rng, subreddits)
  facts = draw_facts(subreddit, rng)
  while (tiny.group(facts) == 'test') != split.startswith('test'):
    facts = draw_facts(subreddit, rng)
  text = (
    f'SUBREDDIT: r/{subreddit}\n\nTITLE: {tiny.pick(rng, words.TITLES)}\n\n'
    f'POST: {write_post(facts, rng)}'
  )
  example = Example(
    id=f'{split}-{seed}-{index}',
    prompt=f'{text}\n\nTL;DR:',
    response=write_summary(facts, rng),
    fields={'text': text},
    meta={'facts': facts, 'subreddit': subreddit},
  )
  if split == 'labeler':
    return dataclasses.replace(example, pair=graded_pair(example, rng))
  if split in ('preferences', 'test_preferences'):
    pair = _different_pair(facts, rng, REFERENCE, REFERENCE)
    p_first = float(human_prefers(example, *pair, rng))
    return dataclasses.replace(example, pair=pair, p_first=p_first)
  return example


def draw_facts(subreddit: str, rng: np.random.Generator) -> dict[str, str]:
  """Draws three or four facts; each subreddit has its favourite values."""
  slots = tiny.shuffled(rng, VALUES)[: tiny.pick(rng, (3, 4))]
  offset = 3 * (LABELER_SUBREDDITS + POLICY_SUBREDDITS).index(subreddit)
  facts = {}
  for slot in slots:
    values = VALUES[slot]
    # A quarter of the values is three times as likely: half of all draws.
    favourites = values[(offset + len(slot)) % 4 :: 4]
    facts[slot] = tiny.pick(rng, values + favourites + favourites)
  return facts


def write_post(facts: Mapping[str, str], rng: np.random.Generator) -> str:
  """Writes a sentence for each fact and fillers, 18 to 32 words in all."""
  sentences = write_facts(facts, rng)
  wanted = tiny.pick(rng, (0, 1, 1, 2))
  for index, filler in enumerate(tiny.shuffled(rng, words.FILLERS)):
    count = sum(len(s.split()) for s in sentences)
    too_long = count + len(filler.split()) > 32
    if too_long or (index >= wanted and count >= 18):
      break
    sentences.append(filler)
  return ' '.join(tiny.shuffled(rng, sentences))


def write_facts(
  facts: Mapping[str, str], rng: np.random.Generator
) -> list[str]:
  """Writes a sentence for each fact, in their order."""
  return [
    tiny.pick(rng, words.SENTENCES[slot]).format(**facts) for slot in facts
  ]


def write_summary(
  facts: Mapping[str, str],
  rng: np.random.Generator,
  quality: Quality = REFERENCE,
) -> str:
  """Writes a summary of the given quality, clauses in random order."""
  said = [
    _clause(slot, _value(slot, value, rng, quality.wrong), rng)
    for slot, value in facts.items()
    if rng.random() < quality.coverage
  ]
  if not said:
    slot = tiny.pick(rng, list(facts))
    said = [_clause(slot, _value(slot, facts[slot], rng, quality.wrong), rng)]
  if rng.random() < quality.invented:
    slot = tiny.pick(rng, [slot for slot in VALUES if slot not in facts])
    said.append(_clause(slot, tiny.pick(rng, VALUES[slot]), rng))
  if rng.random() < quality.repeated:
    said.append(tiny.pick(rng, said))
  return tiny.write_clauses(
    tiny.shuffled(rng, said),
    rng,
    openers=words.OPENERS,
    wordy=quality.wordy,
    truncated=quality.truncated,
    shuffled_words=quality.shuffled,
  )


def _clause(slot: str, value: str, rng: np.random.Generator) -> str:
  return tiny.pick(rng, words.CLAUSES[slot]).format(**{slot: value})


def _value(
  slot: str, value: str, rng: np.random.Generator, wrong: float
) -> str:
  if rng.random() < wrong:
    return tiny.other(rng, VALUES[slot], value)
  return value


def graded_pair(example: Example, rng: np.random.Generator) -> tuple[str, str]:
  """Writes two different summaries of widely different quality."""
  facts = example.meta['facts']
  return _different_pair(facts, rng, graded_quality(rng), graded_quality(rng))


def _different_pair(
  facts: Mapping[str, str],
  rng: np.random.Generator,
  first: Quality,
  second: Quality,
) -> tuple[str, str]:
  one = two = write_summary(facts, rng, first)
  while one == two:
    two = write_summary(facts, rng, second)
  return one, two


def read(example: Example, response: str) -> tiny.Parse:
  """Reads what a response says; `example` is any row of this data set."""
  del example  # one language for all rows
  return GRAMMAR.parse(response)


def oracle_axes(example: Example, response: str) -> dict[str, float]:
  """Scores any text on the four axes, each in [0, 1].

  coverage: facts stated / facts of the post, where a fact is stated by a
    clause of the grammar with the true value and never with another value.
  accuracy: 1 - wrong or invented values / values mentioned (each counted
    once, inside a clause or not); 0 where none is mentioned.
  coherence: share of words in clauses that follow the grammar and say
    something new, times 0.7 if the text does not end with a period.
  length: 1 up to `WORD_BUDGET` words, falling to 0 at twice that.
  """
  facts = example.meta['facts']
  parse = read(example, response)
  stated = parse.stated()
  covered = sum(stated.get(slot) == value for slot, value in facts.items())
  return {
    'coverage': covered / len(facts),
    'accuracy': tiny.accuracy(parse, facts),
    'coherence': parse.coherence(),
    'length': tiny.length_score(parse.words, WORD_BUDGET),
  }


def oracle(example: Example, response: str) -> float:
  """Returns the true quality in [0, 1]: the axes weighted by `WEIGHTS`."""
  axes = oracle_axes(example, response)
  return sum(WEIGHTS[axis] * value for axis, value in axes.items())


def human_prefers(
  example: Example, response_1: str, response_2: str, rng: tiny.RngOrSeed
) -> bool:
  """Draws the choice of the simulated human: True for the first response."""
  difference = oracle(example, response_1) - oracle(example, response_2)
  return tiny.prefers(difference, rng, HUMAN_TEMPERATURE)


def noisy_verdict(
  example: Example,
  rng: tiny.RngOrSeed,
  *,
  slot_bias: float = 0.0,
  temperature: float = LABELER_TEMPERATURE,
) -> bool:
  """Draws a verdict on `example.pair` to train a labeler on.

  Args:
    example: row with a pair.
    rng: generator or seed.
    slot_bias: log-odds in favour of the first slot, so that a labeler which
      cannot tell the two apart leans to that slot.
    temperature: of the Bradley-Terry choice, in units of the oracle.

  Returns:
    True where the first response of the pair is called better.
  """
  first, second = (oracle(example, response) for response in example.pair)
  return tiny.prefers(first - second, rng, temperature, slot_bias)


def noisy_score(
  example: Example, response: str, rng: tiny.RngOrSeed, *, noise: float = 0.5
) -> int:
  """Draws a grade 1..10 to train a labeler on; `noise` is in grades."""
  low, high = GRADE_RANGE
  quality = oracle(example, response)
  return tiny.grade(quality, rng, low=low, high=high, noise=noise)
