"""Plots as inline SVG: lines, points with intervals, bars, reliability curves.

No library and no fixed colours: a style is a class that takes its colour from
the page, so one plot serves on white, on black and on paper. `svg.py` draws
the axes and the pieces.
"""

import dataclasses
import html
import math
from collections.abc import Sequence

from rlaif_jax.report import axes, svg
from rlaif_jax.report.blocks import Style, percent, plain

_BAR = 13  # height
_FEW = 15  # points of a line, up to which each is marked
_FIRST = Style()


@dataclasses.dataclass(frozen=True)
class Series:
  """A line.

  Attributes:
    name: in the legend.
    x, y: its points; it is broken where one is not finite.
    low, high: a band around it, or nothing.
    raw: values it was smoothed from, drawn faintly, or nothing.
    style: its looks.
  """

  name: str
  x: Sequence[float]
  y: Sequence[float]
  low: Sequence[float] = ()
  high: Sequence[float] = ()
  raw: Sequence[float] = ()
  style: Style = _FIRST


@dataclasses.dataclass(frozen=True)
class Mark:
  """A value with an interval (NaN ends: none), hollow or filled."""

  name: str
  value: float
  low: float = math.nan
  high: float = math.nan
  style: Style = _FIRST
  hollow: bool = False


@dataclasses.dataclass(frozen=True)
class MarkRow:
  """A named row of marks; one without marks is a heading."""

  name: str
  marks: tuple[Mark, ...] = ()


@dataclasses.dataclass(frozen=True)
class BarRow:
  """A named row of bars end to end: (name, length, style) each."""

  name: str
  parts: tuple[tuple[str, float, Style], ...]


# -- lines --------------------------------------------------------------------


def line(
  series: Sequence[Series],
  *,
  x_label: str,
  label: str,
  as_percent: bool = False,
  include: Sequence[float] = (),
  readout: bool = True,
  whole: bool = True,
) -> str:
  """Lines over a common x axis.

  Args:
    series: what is drawn.
    x_label: what x is.
    label: what the plot shows, for those who do not see it.
    as_percent: whether y is a share.
    include: values that the y axis must have.
    readout: whether the page shows values at the pointer; x must not go back.
    whole: whether x counts something.
  """
  shown = [v for s in series for v in (*s.y, *s.low, *s.high)]
  # Single raw values may be far off; they do not set the scale.
  shown += [v for s in series for v in _without_extremes(s.raw)]
  frame = svg.Frame(
    axes.domain([v for s in series for v in s.x], pad=not whole),
    axes.domain(shown, include),
    x_label=x_label,
    y_percent=as_percent,
    x_whole=whole,
  )
  parts = [frame.grid()]
  for s in series:
    parts.append(svg.open_series(s.name, s.style))
    parts.append(_band(frame, s))
    if s.raw:
      parts.append(_polyline(frame, s.x, s.raw, 'raw'))
    parts.append(_polyline(frame, s.x, s.y, 'line'))
    if len(s.x) <= _FEW:
      parts += [
        svg.marker(*frame.place(x, y), s.style.dash, False)
        for x, y in zip(s.x, s.y, strict=True)
        if math.isfinite(x) and math.isfinite(y)
      ]
    parts.append('</g>')
  ends = (*frame.ends(), int(as_percent)) if readout else ()
  return svg.document(label, svg.HEIGHT, parts, ends)


def _without_extremes(values: Sequence[float]) -> list[float]:
  found = sorted(v for v in values if math.isfinite(v))
  cut = len(found) // 50
  return found[cut : len(found) - cut]


def _band(frame: svg.Frame, s: Series) -> str:
  rows = [
    row
    for row in zip(s.x, s.low, s.high, strict=False)
    if all(map(math.isfinite, row))
  ]
  if len(rows) < 2:
    return ''
  points = [frame.at(x, high) for x, _, high in rows]
  points += [frame.at(x, low) for x, low, _ in reversed(rows)]
  return f'<polygon class="band" points="{" ".join(points)}"/>'


def _polyline(frame: svg.Frame, x, y, kind: str) -> str:
  """The line in unbroken pieces; a piece of one point is a dot."""
  pieces: list[list[str]] = [[]]
  for a, b in zip(x, y, strict=True):
    if math.isfinite(a) and math.isfinite(b):
      pieces[-1].append(frame.at(a, b))
    elif pieces[-1]:
      pieces.append([])
  drawn = []
  for piece in filter(None, pieces):
    if len(piece) == 1:
      cx, cy = piece[0].split(',')
      drawn.append(f'<circle class="{kind}-dot" cx="{cx}" cy="{cy}" r="3"/>')
    else:
      drawn.append(f'<polyline class="{kind}" points="{" ".join(piece)}"/>')
  return ''.join(drawn)


# -- points -------------------------------------------------------------------


def scatter(
  points: Sequence[tuple[float, Mark]],
  *,
  x_label: str,
  label: str,
  as_percent: bool = False,
  reference: float | None = None,
) -> str:
  """Points (x, mark) with vertical intervals, and a line at `reference`."""
  ends = [v for _, m in points for v in (m.value, m.low, m.high)]
  frame = svg.Frame(
    axes.domain([x for x, _ in points], include=(0,)),
    axes.domain(ends, () if reference is None else (reference,)),
    x_label=x_label,
    y_percent=as_percent,
  )
  parts = [frame.grid()]
  if reference is not None:
    y = frame.y.place(reference)
    parts.append(svg.stroke('reference', frame.x.start, y, frame.x.end, y))
  for x, mark in points:
    place = frame.x.place(x)
    parts.append(svg.open_series(mark.name, mark.style))
    parts.append(_title(mark, as_percent, f'{x_label} {plain(x)}'))
    if math.isfinite(mark.low) and math.isfinite(mark.high):
      low, high = frame.y.place(mark.low), frame.y.place(mark.high)
      parts.append(svg.stroke('bar', place, low, place, high))
    parts.append(
      svg.marker(place, frame.y.place(mark.value), mark.style.dash, mark.hollow)
    )
    parts.append('</g>')
  return svg.document(label, svg.HEIGHT, parts)


def forest(
  rows: Sequence[MarkRow],
  *,
  label: str,
  as_percent: bool = True,
  reference: float | None = 0.5,
) -> str:
  """Named rows of values with horizontal intervals."""
  ends = [v for r in rows for m in r.marks for v in (m.value, m.low, m.high)]
  low, high = axes.domain(
    ends,
    () if reference is None else (reference,),
    (0.0, 1.0) if as_percent else (-math.inf, math.inf),
  )
  most = max((len(r.marks) for r in rows), default=1)
  frame = svg.Rows(
    [r.name for r in rows], low, high, as_percent, max(svg.ROW, 8 + 9 * most)
  )
  parts = [frame.grid()]
  if reference is not None:
    x = frame.x.place(reference)
    parts.append(svg.stroke('reference', x, svg.TOP, x, frame.bottom))
  for i, row in enumerate(rows):
    parts.append(frame.name(i, heading=not row.marks))
    for j, mark in enumerate(row.marks):
      y = frame.middle(i) + 9 * (j - (len(row.marks) - 1) / 2)
      parts.append(svg.open_series(mark.name, mark.style))
      parts.append(_title(mark, as_percent, row.name))
      if math.isfinite(mark.low) and math.isfinite(mark.high):
        ends = frame.x.place(mark.low), frame.x.place(mark.high)
        parts.append(svg.stroke('bar', ends[0], y, ends[1], y))
      parts.append(
        svg.marker(frame.x.place(mark.value), y, mark.style.dash, mark.hollow)
      )
      parts.append('</g>')
  return svg.document(label, frame.height, parts)


def reliability(
  curves: Sequence[tuple[Series, Sequence[int]]], *, label: str
) -> str:
  """What happened against what was said, with the diagonal; dots by count."""
  x = axes.domain([v for s, _ in curves for v in s.x], (0.5, 1), pad=False)
  ends = [v for s, _ in curves for v in (*s.y, *s.low, *s.high)]
  y = axes.domain(ends, (0.5, 1), pad=False)
  frame = svg.Frame(x, y, x_label='confidence', y_percent=True, x_percent=True)
  diagonal = [frame.place(v, v) for v in (max(x[0], y[0]), min(x[1], y[1]))]
  parts = [frame.grid(), svg.stroke('reference', *diagonal[0], *diagonal[1])]
  most = max((c for _, counts in curves for c in counts), default=1)
  for s, counts in curves:
    parts.append(svg.open_series(s.name, s.style))
    parts.append(_polyline(frame, s.x, s.y, 'line'))
    for i, count in enumerate(counts):
      if s.low:
        a, b = (frame.place(s.x[i], end[i]) for end in (s.low, s.high))
        parts.append(svg.stroke('bar thin', *a, *b))
      x, y = frame.place(s.x[i], s.y[i])
      text = (
        f'{s.name}: {percent(s.y[i])} where {percent(s.x[i])} was said '
        f'({count} of them)'
      )
      radius = 2 + 4 * math.sqrt(count / most)
      parts.append(
        f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
        f'<title>{html.escape(text)}</title></circle>'
      )
    parts.append('</g>')
  return svg.document(label, svg.HEIGHT, parts)


# -- bars ---------------------------------------------------------------------


def bars(
  rows: Sequence[BarRow], *, label: str, as_percent: bool = False
) -> str:
  """Named rows of bars end to end, from zero."""
  totals = [sum(part[1] for part in row.parts) for row in rows]
  high = 1.0 if as_percent else max([*totals, 1e-12]) * 1.02
  frame = svg.Rows([r.name for r in rows], 0.0, high, as_percent)
  parts = [frame.grid()]
  for i, row in enumerate(rows):
    parts.append(frame.name(i))
    start = 0.0
    for name, length, style in row.parts:
      a, b = frame.x.place(start), frame.x.place(start + length)
      shown = percent(length) if as_percent else plain(length)
      text = html.escape(f'{row.name}: {name} {shown}')
      parts.append(
        f'{svg.open_series(name, style)}<rect class="fill" x="{a:.1f}" '
        f'y="{frame.middle(i) - _BAR / 2:.1f}" '
        f'width="{max(b - a, 0.5):.1f}" '
        f'height="{_BAR}"><title>{text}</title></rect></g>'
      )
      start += length
  return svg.document(label, frame.height, parts)


def _title(mark: Mark, as_percent: bool, where: str) -> str:
  form = percent if as_percent else plain
  text = f'{mark.name}: {form(mark.value)}'
  if math.isfinite(mark.low) and math.isfinite(mark.high):
    text += f' ({form(mark.low)} to {form(mark.high)})'
  return f'<title>{html.escape(f"{text}, {where}")}</title>'
