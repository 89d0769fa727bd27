"""Axes: domains, sensible ticks and their labels. Plain numbers, no drawing."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence

_STEPS = (1, 2, 2.5, 5, 10)
_PADDING = 0.05  # of the range, on either side
_DECIMALS = 6  # at most, of a label
_LARGE = 1e5  # from here on, and below what decimals show, with exponents
_UNITS = ((1e9, 'G'), (1e6, 'M'), (1e3, 'k'))


@dataclasses.dataclass(frozen=True)
class Axis:
  """Maps values from `low` to `high` to the places `start` to `end`."""

  low: float
  high: float
  start: float
  end: float

  def place(self, value: float) -> float:
    """Where `value` stands; values outside are put at the ends."""
    share = (value - self.low) / (self.high - self.low)
    return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)


def domain(
  values: Iterable[float],
  include: Iterable[float] = (),
  limits: tuple[float, float] = (-math.inf, math.inf),
  pad: bool = True,
) -> tuple[float, float]:
  """Range of the finite `values` with a little space around.

  Args:
    values: what is drawn; (0, 1) where none is finite.
    include: further values that have to be on the axis.
    limits: the range never goes beyond these, unless values do.
    pad: whether to leave space at both ends.
  """
  found = [v for v in (*values, *include) if math.isfinite(v)]
  if not found:
    return 0.0, 1.0
  low, high = min(found), max(found)
  if high - low <= 1e-12 * max(abs(low), abs(high)):  # all alike
    space = 0.1 * abs(low) or 0.5
  else:
    space = _PADDING * (high - low) if pad else 0.0
  return (
    max(low - space, min(limits[0], low)),
    min(high + space, max(limits[1], high)),
  )


def tick_step(low: float, high: float, count: int) -> float:
  """The least of 1, 2, 2.5, 5 times a power of 10 that gives <= count steps."""
  raw = (high - low) / count
  power = 10.0 ** math.floor(math.log10(raw))
  # Rounding must not make of an exact step the next one.
  return next(s * power for s in _STEPS if s * power >= raw * (1 - 1e-9))


def ticks(
  low: float, high: float, count: int = 5, whole: bool = False
) -> list[float]:
  """Round values from `low` to `high`, at most `count` + 1 of them.

  With `whole` only whole numbers, as for training steps.
  """
  step = tick_step(low, high, count)
  if whole and step != round(step):
    step = max(1.0, math.ceil(step))
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  return [i * step for i in range(first, last + 1)]


def tick_labels(values: Sequence[float], percent: bool = False) -> list[str]:
  """Labels with as many decimals as tell them apart, and no more."""
  if not values:
    return []
  unit, sign = (0.01, '%') if percent else _unit(values)
  scaled = [v / unit for v in values]
  if max(map(abs, scaled)) < _LARGE:
    for decimals in range(_DECIMALS):
      labels = [f'{round(v, decimals) + 0.0:.{decimals}f}' for v in scaled]
      # Not only unlike: a tick at 2.5 must not read 2. (+ 0.0: no -0)
      if _same([float(label) for label in labels], scaled):
        return [f'{label}{sign}' for label in labels]
  for digits in range(2, 17):
    labels = [f'{v:.{digits}g}' for v in values]
    if _same([float(label) for label in labels], values):
      break
  return labels


def _same(a: Sequence[float], b: Sequence[float]) -> bool:
  """Whether the values differ by far less than they do among one another."""
  steps = [abs(y - x) for x, y in itertools.pairwise(b)]
  space = 1e-3 * min(steps, default=abs(b[0]))
  return all(abs(x - y) <= space for x, y in zip(a, b, strict=True))


def _unit(values: Sequence[float]) -> tuple[float, str]:
  size = max(map(abs, values))
  for unit, sign in _UNITS:
    if size >= 10 * unit or (size >= unit and unit > 1e3):
      return unit, sign
  return 1.0, ''
