"""Scores by conversational context."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlaif_jax.report import blocks, looks, plots
from rlaif_jax.report.blocks import (
  Cell,
  Figure,
  Figures,
  Section,
  estimate,
  filled,
  is_number,
  plain,
)
from rlaif_jax.report.policies import (
  Evaluation,
  corners,
  evaluations,
  mark,
  names,
)
from rlaif_jax.report.runs import Run

_KEY = re.compile(r'context/([^/]+)/([^/]+)/(.+)')


def sections(runs: Sequence[Run]) -> Iterator[Section]:
  """One section, where an evaluation scored any axis."""
  found = [e for e in evaluations(runs) if places(e.metrics)]
  if not found:
    return
  axes = _in_order(axis for e in found for _, axis in places(e.metrics))
  styles = looks.styles(
    [(e.source, name) for e in found for name in e.policies()],
    looks.policies(runs),
  )
  judges = _in_order(
    f'{axis}: {said}'
    for e in found
    for axis, said in (e.summary.get('axes') or {}).items()
  )
  yield Section(
    'contexts',
    'Scores by context',
    'Mean scores by what a conversation is about, with 95% intervals over '
    f'prompts. Who scored: {"; ".join(judges)}.',
    (
      Figures(
        tuple(_figure(axis, found, styles) for axis in axes),
        tuple((looks.title(*key), style) for key, style in styles.items()),
      ),
      *(_table(axis, found) for axis in axes),
    ),
  )


def places(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
  """(context, axis) of all scores, in order; 'all' comes last."""
  found = _in_order(
    (match[1], match[2]) for key in metrics if (match := _KEY.fullmatch(key))
  )
  return sorted(found, key=lambda place: place[0] == 'all')


def _figure(axis: str, found: Sequence[Evaluation], styles) -> Figure:
  contexts = _in_order(c for e in found for c, _ in places(e.metrics))
  rows = []
  for context in contexts:
    marks = [
      mark(
        e.metrics,
        f'context/{context}/{axis}/{name}',
        looks.title(e.source, name),
        style=styles[e.source, name],
      )
      for e in found
      for name in e.policies()
    ]
    marks = tuple(m for m in marks if m is not None)
    if marks:
      rows.append(plots.MarkRow(_words(context), marks))
  return Figure(
    _words(axis),
    plots.forest(
      rows,
      label=f'{axis} by context, with intervals',
      as_percent=_are_shares(axis, found),
      reference=None,
    ),
  )


def _table(axis: str, found: Sequence[Evaluation]) -> blocks.Table:
  rows = []
  form = blocks.percent if _are_shares(axis, found) else plain
  for e in found:
    contexts = [c for c, a in places(e.metrics) if a == axis]
    rows += [
      (
        names(found, e, name),
        filled(
          {_column(e, c): _cell(e, c, axis, name, form) for c in contexts}
        ),
      )
      for name in e.policies()
    ]
  return blocks.table(
    corners(found),
    rows,
    title=_words(axis),
    caption='Below a mean its interval. ▲ and ▼: higher or lower than the '
    'baseline on the same prompts, by an interval that leaves zero out.',
    folded=len(found) > 1,
  )


def _are_shares(axis: str, found: Sequence[Evaluation]) -> bool:
  """Whether all means are within 0 and 1; scores of 1 to 10 are not."""
  values = [
    e.metrics.get(f'context/{context}/{axis}/{name}', 0)
    for e in found
    for context, _ in places(e.metrics)
    for name in e.policies()
  ]
  return all(0 <= value <= 1 for value in values)


def _cell(
  e: Evaluation, context: str, axis: str, name: str, form
) -> Cell | None:
  cell = estimate(e.metrics, f'context/{context}/{axis}/{name}', form)
  gain = f'context_gain/{context}/{axis}/{name}'
  low, high = (e.metrics.get(f'{gain}_ci_{end}') for end in ('low', 'high'))
  if cell is None or not (is_number(low) and is_number(high)):
    return cell
  sign = ' ▲' if low > 0 else ' ▼' if high < 0 else ''
  return Cell(cell.text + sign, cell.note)


def _column(e: Evaluation, context: str) -> str:
  count = e.metrics.get(f'context/{context}/prompts')
  return f'{_words(context)} ({count:.0f})' if is_number(count) else context


def _words(name: str) -> str:
  return name.replace('_', ' ')


def _in_order(values) -> list:
  return list(dict.fromkeys(values))
