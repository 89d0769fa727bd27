"""SVG: where things stand, and that whatever is drawn is well-formed."""

import math
import re
import xml.etree.ElementTree as ET

import pytest

from rlaif_jax.report import plots, svg
from rlaif_jax.report.blocks import Style

_HOSTILE = '<script>alert("1")</script> & \'co\''


def parsed(text):
  return ET.fromstring(text)  # raises where it is not well-formed


def texts(root):
  return [e.text for e in root.iter('text')]


def points(root, kind='line'):
  return [
    [tuple(map(float, pair.split(','))) for pair in e.get('points').split()]
    for e in root.iter('polyline')
    if e.get('class') == kind
  ]


def test_line_stands_where_its_values_are():
  series = plots.Series('a', [0, 50, 100], [0.0, 1.0, 0.5])
  root = parsed(plots.line([series], x_label='step', label='what'))
  ((a, b, c),) = points(root)
  x0, x1, left, right, y0, y1, bottom, top, is_percent = map(
    float, root.get('data-ends').split()
  )
  assert (x0, x1, is_percent) == (0, 100, 0)
  assert (a[0], c[0]) == pytest.approx((left, right), abs=0.06)
  assert b[0] == pytest.approx((left + right) / 2, abs=0.06)
  for point, value in ((a, 0), (b, 1), (c, 0.5)):
    expected = bottom + (value - y0) / (y1 - y0) * (top - bottom)
    assert point[1] == pytest.approx(expected, abs=0.06)
  assert {'0', '100', '0.00', '1.00', 'step'} <= set(texts(root))
  assert root.get('aria-label') == 'what'


def test_a_line_breaks_where_a_value_is_not_finite():
  y = [1.0, 2.0, math.nan, 3.0, math.inf, 5.0, 6.0]
  series = plots.Series('a', range(7), y)
  root = parsed(plots.line([series], x_label='step', label=''))
  assert [len(piece) for piece in points(root)] == [2, 2]
  dots = [e for e in root.iter('circle') if e.get('class') == 'line-dot']
  assert len(dots) == 1  # the 3.0 between two breaks


@pytest.mark.parametrize(
  ('x', 'y'),
  [([], []), ([1], [2.0]), ([1, 2], [3.0, 3.0]), ([1, 2], [math.nan] * 2),
   ([1, 2], [1e38, -1e38]), ([1, 2], [1e-30, 2e-30])],
)  # fmt: skip
def test_degenerate_lines(x, y):
  drawn = plots.line([plots.Series('a', x, y)], x_label='step', label='')
  parsed(drawn)
  assert 'nan' not in drawn and 'inf' not in drawn


def test_bands_and_raw_values():
  series = plots.Series('a', [1, 2], [1, 2], (0, 1), (2, 3), (5, 6))
  root = parsed(plots.line([series], x_label='step', label=''))
  bands = [e for e in root.iter('polygon') if e.get('class') == 'band']
  assert len(bands) == 1 and len(bands[0].get('points').split()) == 4
  assert len(points(root, 'raw')) == 1


def test_names_are_escaped():
  style = Style(1, 1)
  mark = plots.Mark(_HOSTILE, 0.5, 0.4, 0.6, style)
  series = plots.Series(_HOSTILE, [0.6, 0.8], [0.6, 0.7], style=style)
  for drawn in (
    plots.line([series], x_label=_HOSTILE, label=_HOSTILE),
    plots.scatter([(1, mark)], x_label=_HOSTILE, label=_HOSTILE),
    plots.forest([plots.MarkRow(_HOSTILE, (mark,))], label=_HOSTILE),
    plots.bars(
      [plots.BarRow(_HOSTILE, ((_HOSTILE, 1.0, style),))], label=_HOSTILE
    ),
    plots.reliability([(series, [3, 4])], label=_HOSTILE),
  ):
    root = parsed(drawn)
    assert '<script' not in drawn
    assert root.get('aria-label') == _HOSTILE
    names = {e.get('data-series') for e in root.iter('g')}
    assert names == {_HOSTILE}


def test_forest_shows_value_and_interval():
  rows = [
    plots.MarkRow('a run'),
    plots.MarkRow('a policy', (plots.Mark('m', 0.6, 0.5, 0.7),)),
    plots.MarkRow('another', (plots.Mark('m', 0.4),)),
  ]
  root = parsed(plots.forest(rows, label='', reference=0.5))
  assert [t.text for t in root.iter('title')] == [
    'm: 60.0% (50.0% to 70.0%), a policy', 'm: 40.0%, another',
  ]  # fmt: skip
  (bar,) = [e for e in root.iter('line') if e.get('class') == 'bar']
  circles = list(root.iter('circle'))
  (reference,) = [e for e in root.iter('line') if e.get('class') == 'reference']
  ends = float(bar.get('x1')), float(bar.get('x2'))
  assert float(circles[0].get('cx')) == pytest.approx(sum(ends) / 2, abs=0.06)
  assert float(reference.get('x1')) == pytest.approx(ends[0], abs=0.06)
  heading = [e for e in root.iter('text') if e.get('class') == 'heading']
  assert [e.text for e in heading] == ['a run']


def test_bars_are_as_long_as_their_values():
  rows = [
    plots.BarRow('a', (('x', 0.25, Style(0)), ('y', 0.75, Style(1)))),
    plots.BarRow('b', (('x', 0.5, Style(0)),)),
  ]
  root = parsed(plots.bars(rows, label='', as_percent=True))
  bars = [float(e.get('width')) for e in root.iter('rect')]
  assert bars[1] == pytest.approx(3 * bars[0], rel=0.01)
  assert bars[2] == pytest.approx(2 * bars[0], rel=0.01)
  assert 'a: y 75.0%' in [t.text for t in root.iter('title')]


def test_reliability_has_the_diagonal_and_counts():
  series = plots.Series('a', [0.6, 0.9], [0.5, 0.8], [0.4, 0.7], [0.6, 0.9])
  root = parsed(plots.reliability([(series, [10, 90])], label=''))
  (diagonal,) = [e for e in root.iter('line') if e.get('class') == 'reference']
  x1, y1, x2, y2 = (float(diagonal.get(k)) for k in ('x1', 'y1', 'x2', 'y2'))
  assert x1 < x2 and y1 > y2
  small, large = (float(e.get('r')) for e in root.iter('circle'))
  assert small < large
  assert 'a: 50.0% where 60.0% was said (10 of them)' in (
    [t.text for t in root.iter('title')]
  )


def test_scatter():
  marks = [(0.0, plots.Mark('a', 0.5)), (2.0, plots.Mark('b', 0.7, 0.6, 0.8))]
  root = parsed(
    plots.scatter(marks, x_label='KL', label='', as_percent=True, reference=0.5)
  )
  titles = [t.text for t in root.iter('title')]
  assert titles == ['a: 50.0%, KL 0', 'b: 70.0% (60.0% to 80.0%), KL 2']
  a, b = ((float(e.get('cx')), float(e.get('cy'))) for e in root.iter('circle'))
  assert a[0] < b[0] and a[1] > b[1]


def test_long_names_take_two_lines_and_are_cut():
  names = ['direct_rlaif vs rlaif_same_size', 'x' * 60]
  rows = svg.Rows(names, 0, 1, True)
  assert rows.names[0] == ['direct_rlaif vs', 'rlaif_same_size']
  assert rows.names[1] == ['x' * 22 + '…']
  assert rows.x.start < svg.WIDTH / 2


def test_every_style_is_in_the_style_sheet(repo):
  css = (repo / 'rlaif_jax/report/templates/page.css').read_text()
  for colour in range(svg.COLOURS):
    # On white, on black and on paper.
    assert len(re.findall(rf'--c{colour}: #', css)) == 3
    assert f'.c{colour} ' in css
  for dash in range(1, svg.DASHES):
    assert f'.d{dash} .line' in css
  assert svg.classes(Style(9, 5)) == 'c1 d1'
