"""Pieces of SVG: axes, markers, lines and texts; names are escaped here.

Classes c0..c7 are the page's colours and d0..d3 its dashes
(templates/page.css). Drawn for the width of a phone; a wide page shows several
plots side by side.
"""

import dataclasses
import html
from collections.abc import Sequence

from rlaif_jax.report import axes
from rlaif_jax.report.axes import Axis
from rlaif_jax.report.blocks import Style

COLOURS = 8
DASHES = 4

WIDTH, HEIGHT = 400, 240
TOP, RIGHT, BOTTOM = 10, 14, 36
ROW = 30  # height of a row in plots of rows
_CHAR = 6.2  # width of a character of the labels
_NAME_CHARS = 23  # a line of a row's name


# -- frames -------------------------------------------------------------------


class Frame:
  """A plot's area with both axes."""

  def __init__(
    self,
    x: tuple[float, float],
    y: tuple[float, float],
    *,
    x_label: str,
    y_percent: bool = False,
    x_percent: bool = False,
    x_whole: bool = False,
  ):
    self.x_ticks = axes.ticks(*x, count=5, whole=x_whole)
    self.y_ticks = axes.ticks(*y, count=5)
    self.x_texts = axes.tick_labels(self.x_ticks, x_percent)
    self.y_texts = axes.tick_labels(self.y_ticks, y_percent)
    left = 12 + _CHAR * max(map(len, self.y_texts), default=1)
    self.x = Axis(*x, left, WIDTH - RIGHT)
    self.y = Axis(*y, HEIGHT - BOTTOM, TOP)
    self.x_label = x_label

  def place(self, x: float, y: float) -> tuple[float, float]:
    """Where a point stands."""
    return self.x.place(x), self.y.place(y)

  def at(self, x: float, y: float) -> str:
    """The same as the 'x,y' of a list of points."""
    return f'{self.x.place(x):.1f},{self.y.place(y):.1f}'

  def ends(self) -> tuple[float, ...]:
    """What the page needs to read values off the plot."""
    return tuple(v for a in (self.x, self.y) for v in dataclasses.astuple(a))

  def grid(self) -> str:
    """Both axes, their ticks and the lines at those of y."""
    x, y = self.x, self.y
    parts = []
    for value, text in zip(self.y_ticks, self.y_texts, strict=True):
      at = y.place(value)
      parts.append(stroke('grid', x.start, at, x.end, at))
      parts.append(words(x.start - 6, at + 4, text, 'end'))
    for value, text in zip(self.x_ticks, self.x_texts, strict=True):
      at = x.place(value)
      parts.append(stroke('tick', at, y.start, at, y.start + 4))
      parts.append(words(at, y.start + 16, text, 'middle'))
    parts.append(stroke('axis', x.start, y.start, x.end, y.start))
    parts.append(words(x.end, y.start + 31, self.x_label, 'end'))
    return ''.join(parts)


class Rows:
  """An area of named rows over a horizontal axis."""

  def __init__(
    self,
    names: Sequence[str],
    low: float,
    high: float,
    as_percent: bool,
    row: float = ROW,
  ):
    self.row = row
    self.names = [_wrap(name) for name in names]
    widest = max((len(x) for name in self.names for x in name), default=1)
    self.bottom = TOP + row * len(names)
    self.height = self.bottom + 24
    self.ticks = axes.ticks(low, high, count=4)
    self.texts = axes.tick_labels(self.ticks, as_percent)
    self.x = Axis(low, high, 12 + _CHAR * widest, WIDTH - RIGHT - 4)

  def middle(self, row: int) -> float:
    """Height of the middle of a row."""
    return TOP + self.row * (row + 0.5)

  def grid(self) -> str:
    """Lines at the ticks, and their labels."""
    parts = []
    for value, text in zip(self.ticks, self.texts, strict=True):
      at = self.x.place(value)
      parts.append(stroke('grid', at, TOP, at, self.bottom))
      parts.append(words(at, self.bottom + 16, text, 'middle'))
    return ''.join(parts)

  def name(self, row: int, heading: bool = False) -> str:
    """The name of a row, beside it; a heading starts at the edge."""
    lines = self.names[row]
    if heading:
      return words(0, self.middle(row) + 4, lines[0], 'start', 'heading')
    top = self.middle(row) + 4 - 6.5 * (len(lines) - 1)
    return ''.join(
      words(self.x.start - 8, top + 13 * i, text, 'end')
      for i, text in enumerate(lines)
    )


def _wrap(name: str) -> list[str]:
  """A name in at most two lines, cut where that is not enough."""
  lines = ['']
  for word in name.split():
    joined = f'{lines[-1]} {word}'.strip()
    if len(joined) > _NAME_CHARS and lines[-1] and len(lines) < 2:
      lines.append(word)
    else:
      lines[-1] = joined
  return [
    x if len(x) <= _NAME_CHARS else x[: _NAME_CHARS - 1] + '…' for x in lines
  ]


# -- pieces -------------------------------------------------------------------


def document(
  label: str, height: float, parts: Sequence[str], ends: Sequence[float] = ()
) -> str:
  """A whole plot; `ends` are what `Frame.ends` gives."""
  data = f' data-ends="{" ".join(f"{v:.9g}" for v in ends)}"' if ends else ''
  return (
    f'<svg class="plot" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
    f'aria-label="{html.escape(label)}"{data}>{"".join(parts)}</svg>'
  )


def open_series(name: str, style: Style) -> str:
  """Start of the group of a series, for its looks and the legend's switch."""
  return f'<g class="{classes(style)}" data-series="{html.escape(name)}">'


def classes(style: Style) -> str:
  """The CSS classes of a style."""
  return f'c{style.colour % COLOURS} d{style.dash % DASHES}'


def swatch(style: Style, bar: bool = False) -> str:
  """What a legend shows of a style: its line with its marker, or its bar."""
  start = (
    f'<svg class="swatch {classes(style)}" viewBox="0 0 26 12" '
    'aria-hidden="true">'
  )
  if bar:
    return f'{start}<rect class="fill" x="2" width="22" height="12"/></svg>'
  return (
    f'{start}'
    f'{stroke("line", 0, 6, 26, 6)}{marker(13, 6, style.dash, False)}</svg>'
  )


def stroke(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
  """A straight line."""
  return (
    f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" '
    f'y2="{y2:.1f}"/>'
  )


def words(x: float, y: float, text: str, anchor: str, kind: str = '') -> str:
  """A text at (x, y), escaped."""
  name = f' class="{kind}"' if kind else ''
  return (
    f'<text{name} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
    f'{html.escape(text)}</text>'
  )


def marker(x: float, y: float, shape: int, hollow: bool) -> str:
  """A dot; its shape says which of the dashes it goes with."""
  kind = 'dot hollow' if hollow else 'dot'
  at = shape % DASHES
  if at == 0:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
  corners = (
    (),
    ((-3.6, -3.6), (3.6, -3.6), (3.6, 3.6), (-3.6, 3.6)),
    ((0, -4.6), (4.4, 3.6), (-4.4, 3.6)),
    ((0, -5), (5, 0), (0, 5), (-5, 0)),
  )[at]
  points = ' '.join(f'{x + dx:.1f},{y + dy:.1f}' for dx, dy in corners)
  return f'<polygon class="{kind}" points="{points}"/>'
