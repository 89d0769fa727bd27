"""How good labels are, by what the label and alignment stages have measured.

Both leave the whole of evaluators/label_report.py in their summaries: this
shows what the numbers of a stage alone do not.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlaif_jax.report import blocks, looks, plots
from rlaif_jax.report.blocks import (
  Cell,
  Figure,
  Figures,
  Section,
  filled,
  is_number,
  percent,
  plain,
)
from rlaif_jax.report.runs import Run

Reports = Mapping[tuple[str, str], Mapping[str, Any]]

_FEWEST = 10  # pairs that a point of the curve needs
_ORDERS = {
  'averaged': 'both, averaged',
  'order_12': 'own order',
  'order_21': 'swapped',
  'over_single': 'averaging gains',
}


def sections(runs: Sequence[Run]) -> Iterator[Section]:
  """One section, where any stage has left such a report."""
  reports = found_reports(runs, 'label', 'alignment')
  if not reports:
    return
  # The section on labelers has the curves of label stages.
  others = found_reports(runs, 'alignment')
  styles = looks.styles(reports)
  figures = tuple(filter(None, (_confidence(reports, styles),
                                _curve(others, styles))))  # fmt: skip
  legend = tuple((looks.title(*key), styles[key]) for key in reports)
  made = (
    _table(reports, 'Agreement by confidence', _by_confidence),
    *_group_tables(reports),
    _table(reports, 'What averaging both orders is worth', _debiasing),
    _table(reports, 'By where the human choice was shown', _by_order),
    _table(reports, 'Calibration and length', _calibration),
    _table(reports, 'Cost of a label', _cost),
  )
  yield Section(
    'label-quality',
    'Label quality',
    'Agreement with the humans of the data, by how sure the labeler is and by '
    'how it was asked; intervals are over prompts.',
    (
      *([Figures(figures, legend)] if figures else []),
      *(table for table in made if table is not None),
    ),
  )


def found_reports(runs: Sequence[Run], *stages: str) -> Reports:
  """(run, name) -> report: of label stages, or of an alignment's labelers.

  Of several seeds the first. Reports without a human label are left out, for
  they hold nothing that is shown here.
  """
  found = {}
  for run in runs:
    source = looks.source(run, runs)
    for label, steps in run.groups(*stages).items():
      summary = next((s.summary for s in steps if s.summary), {})
      named = {label: summary.get('report')}
      if steps[0].stage == 'alignment':
        named = summary.get('labelers') or {}
      for name, report in named.items():
        if isinstance(report, dict) and report.get('human_labels'):
          found[source, name] = report
  return found


# -- figures ------------------------------------------------------------------


def _confidence(reports: Reports, styles) -> Figure | None:
  """Agreement with intervals in each bin of confidence."""
  rows: dict[str, list[plots.Mark]] = {}
  for key, report in reports.items():
    for part in report.get('by_confidence') or ():
      mark = plots.Mark(
        looks.title(*key),
        part['rate'],
        part['ci_low'],
        part['ci_high'],
        style=styles[key],
      )
      rows.setdefault(_bin(part), []).append(mark)
  if not rows:
    return None
  drawn = [plots.MarkRow(name, tuple(rows[name])) for name in sorted(rows)]
  return Figure(
    'Agreement by confidence',
    plots.forest(drawn, label='agreement by confidence', reference=0.5),
    'Confidence is |2p - 1|: 0 of a 50/50 label, 1 of a certain one.',
  )


def _curve(reports: Reports, styles) -> Figure | None:
  """Agreement against the confidence that was promised."""
  lines = []
  for key, report in reports.items():
    curve = [
      part
      for part in (report.get('calibration') or {}).get('curve') or ()
      if part['count'] >= _FEWEST
    ]
    if not curve:
      continue
    columns = [
      [float(part[name]) for part in curve]
      for name in ('confidence', 'rate', 'ci_low', 'ci_high')
    ]
    series = plots.Series(looks.title(*key), *columns, style=styles[key])
    lines.append((series, [int(part['count']) for part in curve]))
  if not lines:
    return None
  return Figure(
    'Calibration',
    plots.reliability(lines, label='agreement against confidence'),
    'On the diagonal, a label of 80% is right in 80%.',
  )


# -- tables -------------------------------------------------------------------


def _table(reports: Reports, title: str, cells) -> blocks.Table | None:
  rows = [
    (looks.title(*key), found)
    for key, report in reports.items()
    if (found := filled(cells(report)))
  ]
  return blocks.table('labels', rows, title=title) if rows else None


def _group_tables(reports: Reports) -> Iterator[blocks.Table]:
  """Agreement by prompt, task and labeler, where there are several."""
  groups = dict.fromkeys(
    group for report in reports.values() for group in report.get('by') or ()
  )
  for group in groups:
    table = _table(
      reports,
      f'Agreement by {group.replace("_", " ")}',
      lambda report, group=group: {
        name: _share(part)
        for name, part in ((report.get('by') or {}).get(group) or {}).items()
      },
    )
    if table is not None:
      yield table


def _by_confidence(report) -> dict[str, Cell | None]:
  return {
    _bin(part): _share(part) for part in report.get('by_confidence') or ()
  }


def _debiasing(report) -> dict[str, Cell | None]:
  found = report.get('debiasing') or {}
  return {title: _share(found.get(key)) for key, title in _ORDERS.items()}


def _by_order(report) -> dict[str, Cell | None]:
  found = report.get('order') or {}
  return {
    'shown first': _share(found.get('shown_first')),
    'shown second': _share(found.get('shown_second')),
    'first over second': _share(found.get('first_over_second')),
  }


def _calibration(report) -> dict[str, Cell | str | None]:
  found, length = report.get('calibration') or {}, report.get('length') or {}
  shown = {
    'calibration error': 'ece',
    'Brier score': 'brier',
    'nats a label': 'nll',
    'mean confidence': 'mean_confidence',
  }
  cells: dict[str, Any] = {
    title: f'{found[key]:.3f}' if is_number(found.get(key)) else None
    for title, key in shown.items()
  }
  cells['longer preferred'] = _share(length)
  cells['by humans'] = _share(length.get('human'))
  return cells


def _cost(report) -> dict[str, str | None]:
  return {
    name.replace('_', ' '): plain(value)
    for name, value in (report.get('cost') or {}).items()
    if is_number(value)
  }


def _share(part: Any) -> Cell | None:
  """A share or a difference with its interval, and its count or p-value."""
  if not isinstance(part, dict):
    return None
  sign = '' if 'rate' in part else '+'
  value = part.get('rate', part.get('difference'))
  if not is_number(value):
    return None
  ends = f'{part["ci_low"]:{sign}.1%} to {part["ci_high"]:{sign}.1%}'
  more = f'{part["count"]} pairs'
  if sign and is_number(part.get('p_value')):
    more = f'p {blocks.p_value(part["p_value"])}'
  text = f'{value:{sign}.1%}' if sign else percent(value)
  return Cell(text, f'{ends}, {more}')


def _bin(part: Mapping[str, Any]) -> str:
  return f'{part["low"]:.1f} to {part["high"]:.1f}'
