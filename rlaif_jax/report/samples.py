"""Texts side by side: what policies answered, and what labelers chose from."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlaif_jax.evaluators import statistics
from rlaif_jax.report import looks
from rlaif_jax.report.blocks import (
  Browser,
  Row,
  Section,
  Text,
  is_number,
  percent,
)
from rlaif_jax.report.disk import SHOWN_ROWS
from rlaif_jax.report.policies import Evaluation, evaluations
from rlaif_jax.report.runs import Run, Step

_LONGEST = 20_000  # characters of a text on the page


def sections(runs: Sequence[Run]) -> Iterator[Section]:
  """Samples of the policies, then labelled pairs."""
  for name, title, intro, browser in (
    (
      'samples',
      'Samples',
      'The answers of all policies to the same prompts, with the scores that '
      'the judge gave them.',
      policy_samples(runs),
    ),
    (
      'pairs',
      'Labelled pairs',
      'What the labels were made from. A label is the probability that the '
      'first response is the better one.',
      labelled_pairs(runs),
    ),
  ):
    if browser is not None:
      yield Section(name, title, intro, (browser,))


# -- policies -----------------------------------------------------------------


def policy_samples(runs: Sequence[Run]) -> Browser | None:
  """Responses of all evaluations, those to the same prompt in one row."""
  rows: dict[tuple[str, str], list[Row]] = {}
  total: dict[str, int] = {}
  for evaluation in _with_samples(runs):
    found = evaluation.steps[0].samples
    total[evaluation.source] = len(found)
    for sample in found:
      key = str(sample.get('id', '')), str(sample.get('prompt', ''))
      rows.setdefault(key, []).append(_sample(sample, evaluation))
  if not rows:
    return None
  # Prompts that most of the runs answered come first: they can be compared.
  merged = sorted(map(_merge, rows.values()), key=lambda row: -len(row.texts))
  caption = _limit(len(merged), 'prompts')
  if any(len(e.steps) > 1 for e in _with_samples(runs)):
    caption += ' Of several seeds, the first.'
  return Browser('samples', tuple(merged[:SHOWN_ROWS]), caption.strip())


def _with_samples(runs: Sequence[Run]) -> list[Evaluation]:
  """Evaluations with samples, those without a summary too."""
  found = [e for e in evaluations(runs) if e.steps and e.steps[0].samples]
  known = {step.path for e in evaluations(runs) for step in e.steps}
  for run in runs:
    for steps in run.groups('evaluate').values():
      step = steps[0]
      if step.path not in known and step.samples:
        summary = {'baseline': step.config.get('baseline')}
        source = looks.source(run, runs)
        found.append(Evaluation(source, summary, (step,)))
  return found


def _sample(sample: Mapping[str, Any], evaluation: Evaluation) -> Row:
  responses = sample.get('responses') or {}
  scores = sample.get('scores') or {}
  texts = [
    Text(
      looks.title(evaluation.source, name),
      cut(text),
      scores[name] if is_number(scores.get(name)) else None,
    )
    for name, text in responses.items()
  ]
  if sample.get('reference'):
    texts.append(Text('reference', cut(sample['reference'])))
  return Row(
    id=str(sample.get('id', '')),
    prompt=cut(sample.get('prompt', '')).strip(),
    texts=tuple(texts),
    tags=tuple(_outcomes(scores, evaluation)),
  )


def _outcomes(scores: Mapping[str, Any], evaluation: Evaluation):
  """'rlaif beats sft' and the like, for every policy that was scored."""
  baseline = evaluation.summary.get('baseline')
  if not is_number(scores.get(baseline)):
    return
  for name, score in scores.items():
    if name != baseline and is_number(score):
      gain = score - scores[baseline]
      verb = 'ties with' if abs(gain) <= statistics.TIE else (
        'beats' if gain > 0 else 'loses to'
      )  # fmt: skip
      yield f'{looks.title(evaluation.source, name)} {verb} {baseline}'


def _merge(rows: Sequence[Row]) -> Row:
  """One row of what several runs answered to one prompt."""
  texts = {text.name: text for row in rows for text in row.texts}
  if reference := texts.pop('reference', None):
    texts['reference'] = reference  # last
  first = rows[0]
  return Row(
    first.id,
    first.prompt,
    tuple(texts.values()),
    tags=tuple(dict.fromkeys(tag for row in rows for tag in row.tags)),
  )


# -- labels -------------------------------------------------------------------


def labelled_pairs(runs: Sequence[Run]) -> Browser | None:
  """Rows of all label stages, as many of each."""
  steps = [
    (looks.title(looks.source(run, runs), label), found[0])
    for run in runs
    for label, found in run.groups('label').items()
    if found[0].labels is not None
  ]
  if not steps:
    return None
  each = max(1, SHOWN_ROWS // len(steps))
  rows = [row for title, step in steps for row in _pairs(title, step, each)]
  total = sum(len(step.labels.p_first) for _, step in steps)
  return Browser('pairs', tuple(rows), _limit(total, 'pairs', len(rows)))


def _pairs(source: str, step: Step, count: int) -> Iterator[Row]:
  for i, row in enumerate(step.labels.shown[:count]):
    p, human = float(step.labels.p_first[i]), float(step.labels.human[i])
    judged = math.isfinite(step.labels.slot_12[i])
    known = math.isfinite(human)
    tags = list(_pair_tags(step, i, judged and known))
    texts = (
      Text('response 1', cut(row.get('response_1', '')), p),
      Text('response 2', cut(row.get('response_2', '')), 1 - p),
    )
    notes = [f'label {percent(p)} for the first']
    if known:
      notes.append(f'the data says {percent(human)}')
    yield Row(
      id=str(row.get('id', '')),
      prompt=cut(row.get('prompt', '')).strip(),
      texts=texts,
      source=source,
      tags=tuple(tags),
      note='; '.join(notes),
    )


def _pair_tags(step: Step, i: int, comparable: bool) -> Iterator[str]:
  labels = step.labels
  p = labels.p_first[i]
  if comparable:
    agreed = statistics.agreement(
      [p - 0.5], [labels.human[i] - 0.5]
    )[0]  # fmt: skip
    yield {1: 'agrees', 0: 'disagrees'}.get(agreed, 'ties') + ' with the data'
  slots = labels.slot_12[i], labels.slot_21[i]
  if all(map(math.isfinite, slots)):
    flips = slots[0] * slots[1] > 0  # the same slot twice
    yield 'flips with the order' if flips else 'same in both orders'
  if max(p, 1 - p) >= 0.9:
    yield 'confident (90% or more)'


# -- texts --------------------------------------------------------------------


def cut(text: Any) -> str:
  """Text of at most 20,000 characters; the rest would only slow the page."""
  text = str(text)
  if len(text) <= _LONGEST:
    return text
  return f'{text[:_LONGEST]}… ({len(text) - _LONGEST} more characters)'


def _limit(total: int, what: str, shown: int = SHOWN_ROWS) -> str:
  return f'{shown} of {total} {what}.' if total > shown else ''
