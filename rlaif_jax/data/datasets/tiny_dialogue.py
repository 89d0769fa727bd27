"""Tiny helpful and harmless turns, with a known oracle.

helpful: a request names a job and two to four details; a good reply takes up
the job and all details rightly, adds a tip that fits the kind of job, and is
polite. harmless: some requests ask to do harm; a good reply refuses those,
best with an alternative, and answers the benign ones. Which replies are
harmful is known, so the harmless rate (arXiv 2309.00267, section 3.3) needs no
rater.

Splits as in `tiny_tldr`; in place of subreddits, the combinations of details
are divided among labelers, policies and the test splits.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from rlaif_jax.data.datasets import Example
from rlaif_jax.data.datasets import _tiny as tiny
from rlaif_jax.data.datasets import _tiny_dialogue_oracle as judge
from rlaif_jax.data.datasets import _tiny_dialogue_words as words

WEIGHTS = judge.WEIGHTS
oracle = judge.oracle
read = judge.read
oracle_axes = judge.oracle_axes
is_harmful = judge.is_harmful

TASKS = ('helpful', 'harmless')
HUMAN_TEMPERATURE = {'helpful': 0.14, 'harmless': 0.2}
LABELER_TEMPERATURE = 0.05
# Oracle values that map to grades 1 and 10; graded replies span them.
GRADE_RANGE = (0.2, 1.0)

SIZES = {
  'train': 8192,
  'preferences': 8192,
  'rl': 4096,
  'test': 512,
  'test_preferences': 1024,
  'labeler': 8192,
}


@dataclasses.dataclass(frozen=True)
class Quality:
  """How a reply is written; every field is a probability.

  Attributes:
    coverage: that a detail (helpful), a step or an alternative (harmless) is
      taken up.
    wrong: that a detail gets another value.
    fitting: that the tip fits (helpful), that a benign request is answered
      (harmless).
    complies: that a harmful request is answered.
    rude: that the reply is rude or insulting.
    wordy, repeated, truncated, shuffled: as in `tiny_tldr`.
  """

  coverage: float = 0.6
  wrong: float = 0.12
  fitting: float = 0.7
  complies: float = 0.35
  rude: float = 0.06
  wordy: float = 0.15
  repeated: float = 0.08
  truncated: float = 0.04
  shuffled: float = 0.04


REFERENCE = Quality()
PERFECT = Quality(1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def graded_quality(rng: np.random.Generator) -> Quality:
  """Draws a quality from very good to very bad, as labelers train on."""
  badness = rng.random()
  return Quality(
    coverage=rng.random() ** 0.6,
    wrong=0.8 * rng.random() * badness,
    fitting=1.0 - 0.8 * badness,
    complies=rng.random(),
    rude=0.3 * badness,
    wordy=0.25,
    repeated=0.3 * badness,
    truncated=0.2 * badness,
    shuffled=0.2 * badness,
  )


def load(
  path: str | None = None,
  split: str = 'train',
  *,
  task: str = 'helpful',
  size: int | None = None,
  seed: int = 0,
) -> list[Example]:
  """Generates a split; the same arguments always give the same rows.

  Args:
    path: must be None, since nothing is read.
    split: as in `tiny_tldr.load`.
    task: 'helpful' or 'harmless'.
    size: number of rows; default by split.
    seed: another seed gives other rows.

  Raises:
    ValueError: unknown split or task, or a path was given.
  """
  tiny.check_arguments('tiny_dialogue', path, split, SIZES)
  if task not in TASKS:
    raise ValueError(
      f'tiny_dialogue has no task {task!r}; choose one of {", ".join(TASKS)}.'
    )
  count = SIZES[split] if size is None else size
  return [_example(task, split, seed, index) for index in range(count)]


def _example(task: str, split: str, seed: int, index: int) -> Example:
  rng = tiny.stream(seed, 'tiny_dialogue', task, split, index)
  group = 'test' if split.startswith('test') else 'policy'
  group = 'labeler' if split == 'labeler' else group
  facts = draw_facts(task, rng)
  while tiny.group(facts) != group:
    facts = draw_facts(task, rng)
  context = f'{_small_talk(rng)}Human: {write_request(task, facts, rng)}'
  example = Example(
    id=f'{task}-{split}-{seed}-{index}',
    prompt=f'\n\n{context}\n\nAssistant:',
    response=write_reply(task, facts, rng),
    fields={'context': context},
    meta={
      'task': task,
      'facts': facts,
      'harmful': facts.get('act') in words.HARMFUL_ACTS,
    },
  )
  if split == 'labeler':
    return dataclasses.replace(example, pair=graded_pair(example, rng))
  if split in ('preferences', 'test_preferences'):
    pair = _different_pair(example, rng, REFERENCE, REFERENCE)
    p_first = float(human_prefers(example, *pair, rng))
    return dataclasses.replace(example, pair=pair, p_first=p_first)
  return example


def draw_facts(task: str, rng: np.random.Generator) -> dict[str, str]:
  """Draws what a request says: slot to value."""
  if task == 'helpful':
    kind = words.KINDS[tiny.pick(rng, list(words.KINDS))]
    details = [slot for slot in words.HELPFUL_VALUES if slot != 'job']
    details = tiny.shuffled(rng, details)[: tiny.pick(rng, (2, 3, 4))]
    facts = {'job': tiny.pick(rng, kind['job'])}
    for slot in details:
      values = kind['tool'] if slot == 'tool' else words.HELPFUL_VALUES[slot]
      facts[slot] = tiny.pick(rng, values)
    return facts
  return {
    slot: tiny.pick(rng, words.HARMLESS_VALUES[slot])
    for slot in ('act', 'object', 'owner', 'mood')
  }


def _small_talk(rng: np.random.Generator) -> str:
  """Returns an earlier exchange for three requests in ten, else nothing."""
  if rng.random() < 0.7:
    return ''
  human, assistant = tiny.pick(rng, words.SMALL_TALK)
  return f'Human: {human}\n\nAssistant: {assistant}\n\n'


def write_request(
  task: str, facts: Mapping[str, str], rng: np.random.Generator
) -> str:
  """Writes the last human turn."""
  if task == 'helpful':
    values = {**facts, 'verb': words.KINDS[words.kind_of(facts['job'])]['verb']}
    sentences = [words.HELPFUL_SENTENCES[slot] for slot in facts]
  else:
    values = facts
    sentences = [words.HARMLESS_SENTENCES['request']]
    sentences.append(words.HARMLESS_SENTENCES['mood'])
    if rng.random() < 0.6:
      sentences.append(words.HARMLESS_FILLERS)
  lines = [tiny.pick(rng, s).format(**values) for s in sentences]
  return ' '.join(tiny.shuffled(rng, lines))


def write_reply(
  task: str,
  facts: Mapping[str, str],
  rng: np.random.Generator,
  quality: Quality = REFERENCE,
) -> str:
  """Writes a reply of the given quality."""
  if task == 'helpful':
    said = _helpful_clauses(facts, rng, quality)
  else:
    said = _harmless_clauses(facts, rng, quality)
  if rng.random() < quality.repeated:
    said.append(tiny.pick(rng, said))
  return tiny.write_clauses(
    said,
    rng,
    openers=words.OPENERS,
    wordy=quality.wordy,
    truncated=quality.truncated,
    shuffled_words=quality.shuffled,
  )


def _told(
  values: Mapping[str, tuple[str, ...]],
  facts: Mapping[str, str],
  rng: np.random.Generator,
  wrong: float,
) -> dict[str, str]:
  """Returns the facts, each exchanged with probability `wrong`."""
  return {
    slot: tiny.other(rng, values[slot], value)
    if rng.random() < wrong
    else value
    for slot, value in facts.items()
  }


def _helpful_clauses(
  facts: Mapping[str, str], rng: np.random.Generator, quality: Quality
) -> list[str]:
  clauses = words.HELPFUL_CLAUSES
  told = _told(words.HELPFUL_VALUES, facts, rng, quality.wrong)
  said = [
    tiny.pick(rng, clauses[slot]).format(**told)
    for slot in tiny.shuffled(rng, facts)
    if rng.random() < quality.coverage
  ]
  fits = rng.random() < quality.fitting
  if fits or rng.random() < 0.5:
    kind = (
      words.kind_of(facts['job']) if fits else tiny.pick(rng, list(words.KINDS))
    )
    said.append(tiny.pick(rng, clauses[f'tip_{kind}']))
  if rng.random() < quality.rude:
    said.append(tiny.pick(rng, clauses['rude']))
  return said or [tiny.pick(rng, clauses['vague'])]


def _harmless_clauses(
  facts: Mapping[str, str], rng: np.random.Generator, quality: Quality
) -> list[str]:
  told = _told(words.HARMLESS_VALUES, facts, rng, quality.wrong)
  told['means'] = tiny.pick(rng, words.HARMLESS_VALUES['means'])
  harmful = facts['act'] in words.HARMFUL_ACTS
  answers = rng.random() < (quality.complies if harmful else quality.fitting)
  topics = ['empathy'] if rng.random() < 0.3 else []
  if answers:
    topics.append('answer')
    topics += ['step'] * int(rng.binomial(2, quality.coverage))
  elif harmful or rng.random() < 0.5:
    topics.append('refusal')
    topics += ['alternative'] * (rng.random() < quality.coverage)
  else:
    topics.append('evasion')
  topics += ['insult'] * (rng.random() < quality.rude)
  forms = []
  for topic in topics:
    unused = [f for f in words.HARMLESS_CLAUSES[topic] if f not in forms]
    forms.append(tiny.pick(rng, unused))
  return [form.format(**told) for form in forms]


def graded_pair(example: Example, rng: np.random.Generator) -> tuple[str, str]:
  """Writes two different replies of widely different quality."""
  return _different_pair(example, rng, graded_quality(rng), graded_quality(rng))


def _different_pair(
  example: Example, rng: np.random.Generator, first: Quality, second: Quality
) -> tuple[str, str]:
  task, facts = example.meta['task'], example.meta['facts']
  one = two = write_reply(task, facts, rng, first)
  while one == two:
    two = write_reply(task, facts, rng, second)
  return one, two


def human_prefers(
  example: Example, response_1: str, response_2: str, rng: tiny.RngOrSeed
) -> bool:
  """Draws the choice of the simulated human: True for the first response."""
  difference = oracle(example, response_1) - oracle(example, response_2)
  return tiny.prefers(difference, rng, HUMAN_TEMPERATURE[example.meta['task']])


def noisy_verdict(
  example: Example,
  rng: tiny.RngOrSeed,
  *,
  slot_bias: float = 0.0,
  temperature: float = LABELER_TEMPERATURE,
) -> bool:
  """Draws a verdict on `example.pair`, as `tiny_tldr.noisy_verdict` does."""
  first, second = (oracle(example, response) for response in example.pair)
  return tiny.prefers(first - second, rng, temperature, slot_bias)


def noisy_score(
  example: Example, response: str, rng: tiny.RngOrSeed, *, noise: float = 0.5
) -> int:
  """Draws a grade 1..10 to train a labeler on; `noise` is in grades."""
  low, high = GRADE_RANGE
  quality = oracle(example, response)
  return tiny.grade(quality, rng, low=low, high=high, noise=noise)
