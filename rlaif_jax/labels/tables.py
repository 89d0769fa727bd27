"""What `lint` and `report` print."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import rich.console
import rich.table
import rich.text

from rlaif_jax.data.lint import Finding

_STYLES = {'error': 'red', 'warning': 'yellow', 'info': 'default'}
_NAMED = 3  # rows of a finding in the table; the JSON file has more
Line = tuple[str, str, str, str, str]  # measure, value, interval, pairs, note


def p_text(p_value: float) -> str:
  """A p-value for people, 'p = 0.03' or 'p < 0.001'."""
  return 'p < 0.001' if p_value < 0.001 else f'p = {p_value:.2g}'


def show_findings(findings: Sequence[Finding], file: str, rows: int) -> None:
  """Prints what was found in the `rows` rows of `file`."""
  console = _console()
  if findings:
    table = rich.table.Table(title=rich.text.Text(file), show_lines=True)
    for title in ('', 'check', 'rows', 'what it means', 'where'):
      table.add_column(title, justify='right' if title == 'rows' else 'left')
    for found in findings:
      table.add_row(
        rich.text.Text(found.severity, style=_STYLES[found.severity]),
        found.code,
        str(found.count),
        rich.text.Text(found.message),
        rich.text.Text(_where(found, file)),
      )
    console.print(table)
  count = {
    name: sum(f.severity == name for f in findings)
    for name in ('error', 'warning')
  }
  console.print(
    rich.text.Text(
      f'{file}: {_plural(rows, "row")} read, '
      f'{_plural(count["error"], "error")}, '
      f'{_plural(count["warning"], "warning")}'
    ),
    soft_wrap=True,
  )


def _where(found: Finding, file: str) -> str:
  lines = []
  for place, name, note in found.rows[:_NAMED]:
    text = _short(place, file) + (f' ({name})' if name else '')
    kind, _, other = note.partition(' ')
    if kind in ('as', 'against'):  # another row, at its place
      text += f' {kind} {_short(other, file)}'
    elif note:
      text += f': {note}'
    lines.append(text)
  if lines and found.count > len(lines):
    lines.append(f'and {found.count - len(lines)} more')
  return '\n'.join(lines)


def _short(place: str, file: str) -> str:
  """'line 7' or 'row 7' of `file` itself, 'other.jsonl:7' of another one."""
  own = f'{pathlib.Path(file)}:'
  if not place.startswith(own):
    return pathlib.Path(place).name
  rest = place.removeprefix(own).strip()
  return f'line {rest}' if rest[:1].isdigit() else rest


def show_report(found: Mapping[str, Any], file: str) -> None:
  """Prints a label report."""
  console = _console()
  _show(
    console,
    f'{file}: {_plural(found["labels"], "label")}, '
    f'{found["human_labels"]} with a human one',
    ('', '', '95% interval', 'pairs', ''),
    headline(found),
    words=(0, 4),
  )
  if bins := found.get('by_confidence'):
    _show(
      console,
      'agreement by confidence |2p - 1|',
      ('confidence', 'agreement', '95% interval', 'pairs'),
      [(f'{b["low"]:g} to {b["high"]:g}', *_cells(b)) for b in bins],
    )
  if 'calibration' in found:
    _show(
      console,
      'reliability: probability of the likelier response, and its agreement',
      ('', 'mean', 'agreement', '95% interval', 'pairs'),
      [
        (
          f'{b["low"]:g} to {b["high"]:g}',
          f'{b["confidence"]:.1%}',
          *_cells(b),
        )
        for b in found['calibration']['curve']
      ],
    )
  for key, groups in found.get('by', {}).items():
    _show(
      console,
      f'agreement by {key}',
      (key, 'agreement', '95% interval', 'pairs'),
      [(name or '–', *_cells(share)) for name, share in groups.items()],
    )


def headline(found: Mapping[str, Any]) -> list[Line]:
  """The lines of the first table, as far as they are known."""
  return [
    *_agreement(found),
    *_position(found),
    *_calibration(found.get('calibration')),
    *_length(found.get('length')),
    *_cost(found.get('cost', {})),
  ]


def _agreement(found: Mapping[str, Any]) -> Iterator[Line]:
  if of := found.get('alignment'):
    yield _share('agreement with humans', of)
    yield _number('kappa', f'{of["kappa"]:.3f}')
    yield _number('50/50 labels', f'{of["ties"]:.1%}')
    yield _number('entropy of a label', f'{of["entropy"]:.3f}', 'nats')
  if of := found.get('order'):
    yield _share('  asked in order 1, 2 only', of['order_12'])
    yield _share('  asked in order 2, 1 only', of['order_21'])
    if 'shown_first' in of:
      yield _share("  human's choice shown first", of['shown_first'])
      yield _share("  human's choice shown second", of['shown_second'])
  if of := found.get('debiasing'):
    for name, key in (
      ('averaging over order 1, 2', 'over_order_12'),
      ('averaging over order 2, 1', 'over_order_21'),
      ('averaging over one order', 'over_single'),
    ):
      yield _difference(name, of[key])


def _position(found: Mapping[str, Any]) -> Iterator[Line]:
  if of := found.get('position'):
    note = ''
    if 'favoured_slot' in of:
      slot = {1: 'first', 2: 'second', 0: 'neither'}[of['favoured_slot']]
      note = f'{slot} ({of["favoured_share"]:.0%}), {p_text(of["p_value"])}'
    yield _share('same position preferred', of['same_position'], note)
    if 'flip_rate' in of:
      yield _number('verdicts that flip', f'{of["flip_rate"]:.1%}')
    yield _share('first slot preferred', of['first_slot'])
  if of := found.get('first_shown'):
    yield _share('first shown preferred', of, p_text(of['p_value']))


def _calibration(of: Mapping[str, Any] | None) -> Iterator[Line]:
  if of:
    yield _number('calibration error (ECE)', f'{of["ece"]:.3f}')
    yield _number('Brier score', f'{of["brier"]:.3f}', '0.25 for all 50/50')
    yield _number('log loss', f'{of["nll"]:.3f}', 'nats; 0.693 for all 50/50')


def _length(of: Mapping[str, Any] | None) -> Iterator[Line]:
  if of:
    note = p_text(of['p_value'])
    if 'correlation' in of:
      note += f', correlation {of["correlation"]:+.2f}'
    yield _share('longer preferred', of, note)
    if 'human' in of:
      yield _share('  by humans', of['human'])


def _cost(of: Mapping[str, float]) -> Iterator[Line]:
  for key, name in (
    ('tokens', 'tokens per label'),
    ('tokens_in', 'tokens read per label'),
    ('tokens_out', 'tokens written per label'),
  ):
    if key in of:
      yield _number(name, f'{of[key]:,.0f}')
  if 'seconds' in of:
    yield _number('seconds per label', f'{of["seconds"]:.3g}')
  if 'dollars' in of:
    yield _number('dollars per label', f'{of["dollars"]:.3g}')


# -- parts --------------------------------------------------------------------


def _cells(of: Mapping[str, Any]) -> tuple[str, str, str]:
  interval = f'{of["ci_low"]:.1%} to {of["ci_high"]:.1%}'
  return f'{of["rate"]:.1%}', interval, str(of['count'])


def _share(name: str, of: Mapping[str, Any], note: str = '') -> Line:
  return name, *_cells(of), note


def _number(name: str, value: str, note: str = '') -> Line:
  return name, value, '', '', note


def _difference(name: str, of: Mapping[str, Any]) -> Line:
  return (
    name,
    f'{100 * of["difference"]:+.1f} points',
    f'{100 * of["ci_low"]:+.1f} to {100 * of["ci_high"]:+.1f}',
    str(of['count']),
    f'{of["better"]} better, {of["worse"]} worse, {p_text(of["p_value"])}',
  )


def _show(
  console: rich.console.Console,
  title: str,
  columns: Sequence[str],
  rows: Sequence[Sequence[str]],
  *,
  words: Sequence[int] = (0,),
) -> None:
  """Prints a table whose columns `words` stand at the left."""
  # Names come from files: as Text, their brackets are no markup.
  table = rich.table.Table(title=rich.text.Text(title))
  for i, column in enumerate(columns):
    table.add_column(
      rich.text.Text(column), justify='left' if i in words else 'right'
    )
  for row in rows:
    table.add_row(*map(rich.text.Text, row))
  console.print(table)


def _plural(count: int, noun: str) -> str:
  return f'{count} {noun}' + ('' if count == 1 else 's')


def _console() -> rich.console.Console:
  return rich.console.Console(width=110, highlight=False)
