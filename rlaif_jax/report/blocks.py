"""What a report consists of: sections of tables, figures, notes and texts.

Blocks hold plain text only; `page.py` escapes it. The one exception is the SVG
of a figure, which `plots.py` makes and escapes itself.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

_OF_SEEDS = (
  'Of several seeds: the means of the numbers and of the ends of their '
  'intervals; ± is the standard deviation between seeds.'
)


@dataclasses.dataclass(frozen=True)
class Cell:
  """A table's cell.

  Attributes:
    text: what stands there.
    note: in smaller print below it, such as an interval.
    number: whether it stands at the right.
    long: whether it may be broken anywhere, as a path or a message.
  """

  text: str
  note: str = ''
  number: bool = True
  long: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows under titles; the first column names the rows.

  Attributes:
    columns: titles.
    rows: cells, as many a row as there are columns.
    title: above it.
    caption: below it: how to read it.
    on_page: False for what the page shows as a figure.
    in_terminal: False for what would be too long there.
    folded: whether the page opens it on demand only.
  """

  columns: tuple[str, ...]
  rows: tuple[tuple[Cell, ...], ...]
  title: str = ''
  caption: str = ''
  on_page: bool = True
  in_terminal: bool = True
  folded: bool = False


@dataclasses.dataclass(frozen=True)
class Style:
  """How a series looks: numbers of its colour and of its dashes or marker."""

  colour: int = 0
  dash: int = 0


@dataclasses.dataclass(frozen=True)
class Figure:
  """A plot with its title and, below it, how to read it."""

  title: str
  svg: str
  caption: str = ''


@dataclasses.dataclass(frozen=True)
class Figures:
  """Figures side by side that share a legend.

  Attributes:
    figures: the plots.
    legend: (name, style) of each series.
    title: above them.
    folded: whether the page opens them on demand only.
    bars: whether they are of bars, not of lines and markers.
  """

  figures: tuple[Figure, ...]
  legend: tuple[tuple[str, Style], ...] = ()
  title: str = ''
  folded: bool = False
  bars: bool = False


@dataclasses.dataclass(frozen=True)
class Note:
  """A sentence; a warning is marked as one."""

  text: str
  warning: bool = False


@dataclasses.dataclass(frozen=True)
class Code:
  """Text as it stands, such as a command or a config."""

  title: str
  text: str
  folded: bool = True


@dataclasses.dataclass(frozen=True)
class Text:
  """One of the texts of a row of a browser.

  Attributes:
    name: whose it is.
    text: the whole text.
    score: what it was found worth, if anybody said.
    note: shown beside the name.
  """

  name: str
  text: str
  score: float | None = None
  note: str = ''


@dataclasses.dataclass(frozen=True)
class Row:
  """A prompt with texts side by side.

  Attributes:
    id: of the prompt.
    prompt: the prompt.
    texts: responses; a reference is one of them.
    source: which file it is from, for a filter.
    tags: what can be filtered by.
    note: a line on the row as a whole.
  """

  id: str
  prompt: str
  texts: tuple[Text, ...]
  source: str = ''
  tags: tuple[str, ...] = ()
  note: str = ''


@dataclasses.dataclass(frozen=True)
class Browser:
  """Rows of texts with search, filters and an order; a caption above them."""

  name: str
  rows: tuple[Row, ...]
  caption: str = ''


Block = Table | Figures | Note | Code | Browser


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the report: `name` is its anchor, `intro` says what it shows."""

  name: str
  title: str
  intro: str
  blocks: tuple[Block, ...]


def table(
  corner: str | Sequence[str],
  rows: Sequence[tuple[str | Sequence[str], Mapping[str, Cell | str]]],
  **options: Any,
) -> Table:
  """A Table of (names, {title: cell}) rows; a column nobody fills is left out.

  Args:
    corner: title of the names' column, or of several such columns.
    rows: the names, as many as corners, and the cells; text is a number's.
    **options: fields of Table.
  """
  corners = _strings(corner)
  # The fullest row first: it has the columns in order.
  ordered = sorted((cells for _, cells in rows), key=len, reverse=True)
  columns = dict.fromkeys(title for cells in ordered for title in cells)
  made = tuple(
    (
      *(Cell(name, number=False) for name in _strings(names)),
      *(_cell(cells.get(title, '')) for title in columns),
    )
    for names, cells in rows
  )
  if any('±' in cell.note for row in made for cell in row):
    caption = [options.get('caption', ''), _OF_SEEDS]
    options['caption'] = ' '.join(filter(None, caption))
  return Table(columns=(*corners, *columns), rows=made, **options)


def _strings(value: str | Sequence[str]) -> tuple[str, ...]:
  return (value,) if isinstance(value, str) else tuple(value)


def _cell(value: Cell | str) -> Cell:
  return value if isinstance(value, Cell) else Cell(value)


# -- numbers ------------------------------------------------------------------


def is_number(value: Any) -> bool:
  """Whether `value` is a finite number (and not True or False)."""
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and math.isfinite(value)
  )


def percent(value: float) -> str:
  """0.615 -> '61.5%'."""
  return f'{value:.1%}'


def plain(value: float) -> str:
  """Three digits that count; whole numbers whole, and exponents rarely."""
  if float(value).is_integer() and abs(value) < 1e15:
    return f'{value:,.0f}'
  if not 1e-3 <= abs(value) < 1e5:
    return f'{value:.3g}'
  decimals = 2 - math.floor(math.log10(abs(value)))
  return f'{value:,.{max(0, decimals)}f}'


def p_value(value: float) -> str:
  """Three decimals, and '<0.001' below."""
  return f'{value:.3f}' if value >= 0.001 else '<0.001'


def estimate(
  numbers: Mapping[str, Any], key: str, form=percent, std: bool = True
) -> Cell | None:
  """The number `key` with its interval or its spread over seeds below it.

  None where there is no such number. `<key>_ci_low` and `<key>_ci_high` are
  its interval, `<key>_std` its spread.
  """
  if not is_number(numbers.get(key)):
    return None
  notes = []
  ends = [numbers.get(f'{key}_ci_{end}') for end in ('low', 'high')]
  if all(map(is_number, ends)):
    notes.append(f'{form(ends[0])} to {form(ends[1])}')
  if std and is_number(numbers.get(f'{key}_std')):
    notes.append(f'±{form(numbers[f"{key}_std"])}')
  return Cell(form(numbers[key]), ', '.join(notes))


def filled(cells: Mapping[str, Cell | str | None]) -> dict[str, Cell | str]:
  """The cells that are something."""
  return {title: c for title, c in cells.items() if c not in (None, '')}
