"""What the tiny world's labelers learn from: texts of many kinds, by share."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rlaif_jax.data import datasets
from rlaif_jax.data.datasets import Example
from rlaif_jax.labeler import prompts, template

# Share of the training texts of each kind: a labeling prompt by its name,
# '*_text' for responses, '*_marks' for responses with each statement marked
# right or wrong, '*_rated' for responses with their readers' grade. 'short' is
# a summary of a post of two sentences.
LOOKUP_MIX = {'short_text': 0.3, 'short_marks': 0.7}
JUDGE_MIX = {'short_marks': 0.3, 'short_score': 0.4, 'short_base': 0.3}
BASE_MIX = {'summary_text': 0.55, 'dialogue_text': 0.25, 'summary_marks': 0.2}
EARLY_MIX = {
  'summary_base': 0.34,
  'summary_score': 0.24,
  'summary_marks': 0.12,
  'summary_detailed': 0.03,
  'summary_text': 0.06,
  'helpful_base': 0.05,
  'helpful_score': 0.03,
  'helpful_marks': 0.02,
  'harmless_base': 0.05,
  'harmless_score': 0.03,
  'dialogue_text': 0.03,
}
LABELER_MIX = {
  'summary_base': 0.32,
  'summary_score': 0.18,
  'summary_rated': 0.13,
  'summary_marks': 0.10,
  'summary_detailed': 0.04,
  'summary_text': 0.06,
  'helpful_base': 0.04,
  'helpful_score': 0.02,
  'helpful_marks': 0.02,
  'harmless_base': 0.04,
  'harmless_score': 0.02,
  'dialogue_text': 0.03,
}
# All eleven ways of asking, for each task; what was learned is kept up.
_ASKED = {
  'base': 0.2,
  'detailed': 0.16,
  'base_1shot': 0.07,
  'detailed_1shot': 0.07,
  'base_2shot': 0.06,
  'detailed_2shot': 0.06,
  'detailed_8shot': 0.01,
  'base_cot': 0.16,
  'detailed_cot': 0.11,
  'detailed_cot_1shot': 0.06,
  'detailed_cot_2shot': 0.04,
}
ASKED_MIX = {kind: 0.3 * share for kind, share in LABELER_MIX.items()}
for _task, _share in {'summary': 0.3, 'helpful': 0.2, 'harmless': 0.2}.items():
  for _name, _part in _ASKED.items():
    # Eight exemplars of dialogues are more than these models read.
    _kind = f'{_task}_{_name}'
    if _task != 'summary':
      _kind = _kind.replace('8shot', '5shot')
    ASKED_MIX[_kind] = ASKED_MIX.get(_kind, 0.0) + _share * _part
# In an order that stays as it is: a kind's place seeds its rows.
KINDS = tuple(
  dict.fromkeys((*EARLY_MIX, *LOOKUP_MIX, *JUDGE_MIX, *LABELER_MIX))
)
ALL_KINDS = tuple(dict.fromkeys((*KINDS, *ASKED_MIX)))

_MARKS = (
  'Read the text, then mark what is said as right or wrong.\n\n{}\n\nSAID:'
)


def make_texts(
  mix: Mapping[str, float], count: int, seed: int, slot_bias: float
) -> list[Example]:
  """Training texts in the shares of `mix`, in a fixed random order."""
  texts, kinds = [], KINDS if mix.keys() <= set(KINDS) else ALL_KINDS
  for kind, share in mix.items():
    texts += _texts_of(kind, int(share * count), seed, slot_bias, kinds)
  order = np.random.default_rng(seed).permutation(len(texts))
  return [texts[i] for i in order]


def _texts_of(
  kind: str, count: int, seed: int, slot_bias: float, kinds: Sequence[str]
) -> list[Example]:
  task, _, form = kind.partition('_')
  dialogue = task in ('helpful', 'harmless', 'dialogue')
  module = datasets.load_module('tiny_dialogue' if dialogue else 'tiny_tldr')
  # Every kind has rows of its own: no post is seen twice.
  row_seed = seed * len(kinds) + kinds.index(kind)
  rng = np.random.default_rng([seed, row_seed])
  make = _maker(kind, form, module, slot_bias, rng)
  rows = _rows(module, task, count, row_seed)
  if task == 'short':
    rows = (_shortened(row, module, rng) for row in rows)
  return [
    dataclasses.replace(make(row), id=f'{kind}-{i}')
    for i, row in enumerate(rows)
  ]


def _rows(module, task: str, count: int, seed: int) -> Sequence[Example]:
  parts = {'dialogue': ('helpful', 'harmless')}.get(task, (task,))
  rows = []
  for part in parts:
    options = {'task': part} if part in ('helpful', 'harmless') else {}
    rows += module.load(
      None, 'labeler', size=count // len(parts), seed=seed, **options
    )
  return rows


def _shortened(row: Example, module, rng) -> Example:
  """The same kind of row, with two facts and nothing else in its post.

  Looking words up is learned from these in a tenth of the time that posts of
  full length take, and carries over to them.
  """
  slots = sorted(row.meta['facts'])
  slots = [slots[i] for i in rng.permutation(len(slots))[:2]]
  facts = {slot: row.meta['facts'][slot] for slot in slots}
  text = ' '.join(module.write_facts(facts, rng))
  plain = module.Quality(0.8, 0.4, 0.2, 0.0, 0.0, 0.0, 0.0)
  one = two = module.write_summary(facts, rng, plain)
  while one == two:
    two = module.write_summary(facts, rng, plain)
  return dataclasses.replace(
    row,
    prompt=f'{text}\n\nTL;DR:',
    response=module.write_summary(facts, rng),
    pair=(one, two),
    fields={'text': text},
    meta={**row.meta, 'facts': facts},
  )


def _maker(
  kind: str, form: str, module, slot_bias: float, rng
) -> Callable[[Example], Example]:
  """Turns a labeler row into a training text of one kind."""
  if form == 'text':
    return lambda row: row
  if form == 'marks':
    return lambda row: marked(row, row.pair[int(rng.random() < 0.5)], module)
  if form == 'rated':
    return lambda row: rated(row, module, rng)
  name, shots = _split_shots(kind.replace('short', 'summary'))
  prompt = prompts.load_prompt(name)
  examples = _worked_examples(prompt, module, shots, rng) if shots else None

  def score(row: Example) -> Example:
    response = row.pair[int(rng.random() < 0.5)]
    grade = module.noisy_score(row, response, rng)
    text = template.render(prompt, row.fields, (response,))
    return Example(
      row.id, text, response=prompt.labels[grade - 1], separator=''
    )

  def compare(row: Example) -> Example:
    asked = prompt
    if examples:
      asked = dataclasses.replace(prompt, exemplars=next(examples))
    verdict = _verdict(row, prompt, module, slot_bias, rng)
    text = template.render(asked, row.fields, row.pair)
    grades = [module.noisy_score(row, response, rng) for response in row.pair]
    if prompt.chain_of_thought is not None:
      thoughts = rationale(row, grades, prompt, module)
      return Example(
        row.id,
        text,
        response=f' {thoughts}\n\n{prompt.ending}{verdict}',
        separator='',
      )
    # The grades come after the verdict, where they cannot give it away; they
    # say far more about the two responses than one verdict does.
    return Example(
      row.id,
      text,
      response=f'{verdict} {grades[0]},{grades[1]}',
      separator='',
    )

  return score if form == 'score' else compare


def _split_shots(kind: str) -> tuple[str, int]:
  """'summary_base_2shot' -> ('summary_base', 2)."""
  name, _, last = kind.rpartition('_')
  if last.endswith('shot'):
    return name, int(last.removesuffix('shot'))
  return kind, 0


def _verdict(row, prompt, module, slot_bias: float, rng) -> str:
  """The label that a noisy rater gives a pair."""
  first = module.noisy_verdict(row, rng, slot_bias=slot_bias)
  if prompt.prefers == 'worse':
    first = not first
  return prompt.labels[0 if first else 1]


def _worked_examples(prompt, module, count: int, rng):
  """Yields `count` exemplars at a time, other ones for every text."""
  task = 'summary' if prompt.task == 'summarization' else prompt.task
  while True:
    rows = _rows(module, task, 64, int(rng.integers(2**31)))
    rows = [exemplar(row, prompt, module, rng) for row in rows]
    for at in range(0, len(rows) - count + 1, count):
      yield tuple(rows[at : at + count])


def exemplar(row: Example, prompt, module, rng) -> prompts.Exemplar:
  """A worked example of `prompt`; posts are cut down to two facts."""
  if prompt.task == 'summarization':
    row = _shortened(row, module, rng)
  grades = [module.noisy_score(row, response, rng) for response in row.pair]
  return prompts.Exemplar(
    fields=row.fields,
    responses=row.pair,
    label=_verdict(row, prompt, module, 0.0, rng),
    rationale=rationale(row, grades, prompt, module),
  )


def rationale(row: Example, grades: Sequence[int], prompt, module) -> str:
  """Each response with its statements marked, and its grade."""
  noun = 'Summary' if prompt.task == 'summarization' else 'Response'
  return ' '.join(
    f'{noun} {i} - {marked(row, response, module).response} {grade}.'
    for i, (response, grade) in enumerate(zip(row.pair, grades, strict=True), 1)
  )


def rated(row: Example, module, rng) -> Example:
  """A response where the forum has it, and the grade that readers gave it."""
  response = row.pair[int(rng.random() < 0.5)]
  grade = module.noisy_score(row, response, rng)
  return Example(
    row.id,
    f'{row.prompt} {response}\n\nSCORE=',
    response=str(grade),
    separator='',
  )


def marked(row: Example, response: str, module) -> Example:
  """The response with 'right' or 'wrong' after each statement of a value.

  Right is what the text says too, so the mark is next to what it is about:
  telling it apart needs no count of statements.
  """
  facts = row.meta['facts']
  parts = []
  for part in re.findall('[^.,]+[.,]?', response):
    said = part.rstrip('.,')
    values = [v for c in module.read(row, said).clauses for v in c.values]
    if values:
      true = all(facts.get(slot) == value for slot, value in values)
      said += ' right' if true else ' wrong'
    parts.append(said.strip() + part[len(part.rstrip('.,')) :])
  (text,) = row.fields.values()
  return Example(row.id, _MARKS.format(text), response=' '.join(parts))
