"""Training over steps: reward, KL, length, entropy, losses."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rlaif_jax.report import blocks, looks, plots
from rlaif_jax.report.blocks import (
  Figure,
  Figures,
  Section,
  Style,
  is_number,
  plain,
)
from rlaif_jax.report.runs import Run, Step

# Metric -> title, in the order of the page.
_RL = {
  'objective/scores': 'Reward',
  'objective/kl': 'KL to the reference (nats a response)',
  'val/response_length': 'Response length (tokens)',
  'objective/entropy': 'Entropy (nats a token)',
  'objective/rlhf_reward': 'Reward less the KL penalty',
}
_DULL = ('time/eta_s', 'learning_rate')  # ends of names nobody looks at
_POINTS = 240  # of a line
_SMOOTH = 25  # a line is smoothed over this part of it
_SPARKS = '▁▂▃▄▅▆▇█'


def sections(runs: Sequence[Run]) -> Iterator[Section]:
  """All RL steps, laid over one another."""
  groups = _groups(runs, 'rl')
  if any(step.metrics for steps in groups.values() for step in steps):
    yield rl(groups, looks.policies(runs))


def other_sections(runs: Sequence[Run]) -> Iterator[Section]:
  """All other training."""
  stages = {step.stage for run in runs for step in run.steps} - {'rl'}
  groups = _groups(runs, *sorted(stages))
  groups = {
    key: steps
    for key, steps in groups.items()
    if any(step.metrics for step in steps)
  }
  if groups:
    yield Section(
      'training',
      'Other training',
      'What SFT and reward models went through.',
      _others(groups, looks.styles(groups)),
    )


def _groups(
  runs: Sequence[Run], *stages: str
) -> dict[tuple[str, str], list[Step]]:
  """(run, label) -> steps, one a seed."""
  return {
    (looks.source(run, runs), label): steps
    for run in runs
    for label, steps in run.groups(*stages).items()
  }


def rl(
  groups: Mapping[tuple[str, str], Sequence[Step]], order: Sequence[str]
) -> Section:
  """All RL steps laid over one another."""
  styles = looks.styles(groups, order)
  figures = figures_of(groups, styles, _RL)
  path = _path(groups, styles)
  if path is not None:
    figures.append(path)
  legend = tuple(
    (looks.title(*key), styles[key])
    for key in groups
    if any(step.metrics for step in groups[key])
  )
  rest = [
    key
    for key in _metric_names(groups)
    if key not in _RL and not key.endswith(_DULL)
  ]
  others = figures_of(groups, styles, {key: key for key in rest})
  made = [Figures(tuple(figures), legend), _ends(groups), _course(groups)]
  if others:
    made.append(Figures(tuple(others), legend, 'All other metrics', True))
  return Section(
    'rl',
    'Reinforcement learning',
    'Lines are running means over a 25th of the run, faint ones the steps '
    'themselves; of several seeds, the mean and the range. Rewards of '
    'different reward models are on scales of their own: compare their '
    'course, not their height.',
    tuple(made),
  )


def _others(groups, styles) -> tuple[Figures, ...]:
  names = _metric_names(groups)
  main = [
    n
    for n in names
    if n.startswith(('loss/', 'eval/')) and n != 'eval/perplexity'
  ]
  rest = [
    n
    for n in names
    if n not in main and not n.endswith((*_DULL, '_ci_low', '_ci_high'))
  ]
  legend = tuple((looks.title(*key), styles[key]) for key in groups)
  made = []
  for title, keys, folded in (
    ('', main, False),
    ('All other metrics', rest, True),
  ):
    figures = figures_of(groups, styles, {key: key for key in keys})
    if figures:
      made.append(Figures(tuple(figures), legend, title, folded))
  return tuple(made)


def _metric_names(groups) -> list[str]:
  """All metrics with a number in them, in the order of the files."""
  return list(
    dict.fromkeys(
      key
      for steps in groups.values()
      for step in steps
      for row in step.metrics
      for key, value in row.items()
      if key != 'step' and is_number(value)
    )
  )


def figures_of(
  groups: Mapping[tuple[str, str], Sequence[Step]],
  styles: Mapping[tuple[str, str], Style],
  titles: Mapping[str, str],
  as_percent: bool = False,
) -> list[Figure]:
  """A figure a metric, each with all steps that know it."""
  figures = []
  for key, title in titles.items():
    series = [
      found
      for name, steps in groups.items()
      if (found := series_of(steps, key, looks.title(*name), styles[name]))
    ]
    if series:
      figures.append(
        Figure(
          title,
          plots.line(
            series,
            x_label='step',
            label=f'{title} over steps',
            as_percent=as_percent,
          ),
        )
      )
  return figures


def series_of(
  steps: Sequence[Step], key: str, name: str, style: Style
) -> plots.Series | None:
  """The metric `key` over steps; None where nobody wrote it.

  Of one step folder the running mean with the values behind it, of several
  seeds the mean with the range around it. The interval of a metric that has
  one, in `<key>_ci_low` and `<key>_ci_high`, is its band.
  """
  x, values = _columns(steps, key)
  if not len(x):
    return None
  band, raw = (), ()
  if len(values) > 1:
    smooth = np.array([running_mean(v) for v in values])
    band = (_quietly(np.nanmin, smooth), _quietly(np.nanmax, smooth))
    y = _quietly(np.nanmean, smooth)
  else:
    y = running_mean(values[0])
    raw = values[0] if _window(len(x)) > 1 else ()
    ends = [_columns(steps, f'{key}_ci_{end}') for end in ('low', 'high')]
    if all(len(e[0]) == len(x) for e in ends):
      band, raw = tuple(e[1][0] for e in ends), ()
  columns = [thin(column) for column in (x, y, *band)]
  return plots.Series(
    name,
    *columns[:2],
    low=columns[2] if band else (),
    high=columns[3] if band else (),
    raw=thin(raw) if len(raw) else (),
    style=style,
  )


def _columns(steps: Sequence[Step], key: str) -> tuple[np.ndarray, np.ndarray]:
  """Steps [n] and the values of each seed [seeds, n], NaN where none."""
  seeds = [
    {row['step']: row[key] for row in step.metrics if _is_value(row.get(key))}
    for step in steps
  ]
  seeds = [seed for seed in seeds if seed]
  x = sorted({at for seed in seeds for at in seed})
  values = [[seed.get(at, math.nan) for at in x] for seed in seeds]
  return np.array(x, float), np.array(values, float)


def _is_value(value) -> bool:
  """A number, finite or not: where training broke the line breaks."""
  return isinstance(value, int | float) and not isinstance(value, bool)


def _window(count: int) -> int:
  return round(count / _SMOOTH) | 1  # odd, so that means are centred


def running_mean(values: np.ndarray) -> np.ndarray:
  """Centred means over a 25th of the values; NaN stays NaN."""
  width = _window(len(values))
  good = np.isfinite(values)
  kernel = np.ones(width)
  total = np.convolve(np.where(good, values, 0.0), kernel, 'same')
  count = np.convolve(good.astype(float), kernel, 'same')
  return np.where(good, total / np.maximum(count, 1), math.nan)


def thin(values: np.ndarray) -> list[float]:
  """Means of neighbours, so that few enough points are left to draw."""
  size = math.ceil(len(values) / _POINTS)
  if size <= 1:
    return np.asarray(values, float).tolist()
  padded = np.pad(
    np.asarray(values, float),
    (0, -len(values) % size),
    constant_values=math.nan,
  )
  return _quietly(np.nanmean, padded.reshape(-1, size).T).tolist()


def _quietly(function, values: np.ndarray) -> np.ndarray:
  """function over the first axis; all NaN is NaN, without a warning."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', RuntimeWarning)
    with np.errstate(all='ignore'):
      return function(np.where(np.isfinite(values), values, np.nan), axis=0)


def _path(groups, styles) -> Figure | None:
  """Reward against KL as training went, each run of RL a path."""
  series = []
  for key, steps in groups.items():
    made = [
      series_of(steps, metric, looks.title(*key), styles[key])
      for metric in ('objective/kl', 'objective/scores')
    ]
    if None in made or len(made[0].x) != len(made[1].x):
      continue
    kl, reward = made
    series.append(plots.Series(kl.name, kl.y, reward.y, style=styles[key]))
  if not series:
    return None
  return Figure(
    'Reward against KL, as training went',
    plots.line(
      series,
      x_label='KL to the reference (nats a response)',
      label='reward against KL over training',
      readout=False,
      whole=False,
    ),
  )


# -- tables -------------------------------------------------------------------


def _ends(groups) -> blocks.Table:
  """Means over the first and the last tenth of the steps."""
  rows = []
  for (source, label), steps in groups.items():
    cells = {}
    for key, title in _RL.items():
      _, values = _columns(steps, key)
      values = values[np.isfinite(values).all(1)] if values.size else values
      if values.size:
        tenth = max(1, values.shape[1] // 10)
        first, last = values[:, :tenth].mean(), values[:, -tenth:].mean()
        cells[title.split(' (')[0]] = f'{plain(first)} → {plain(last)}'
    if cells:
      cells = {'steps': str(_columns(steps, 'objective/kl')[0].size)} | cells
      rows.append((looks.title(source, label), cells))
  return blocks.table(
    'RL step',
    rows,
    caption='First → last tenth of the steps, their means.',
  )


def _course(groups) -> blocks.Table:
  """The lines as characters, for the terminal."""
  rows = []
  for (source, label), steps in groups.items():
    cells = {}
    for key, title in _RL.items():
      _, values = _columns(steps, key)
      if values.size:
        mean = _quietly(np.nanmean, values)
        cells[title.split(' (')[0]] = blocks.Cell(spark(mean), number=False)
    if cells:
      rows.append((looks.title(source, label), cells))
  return blocks.table('RL step', rows, title='Course', on_page=False)


def spark(values: np.ndarray, width: int = 12) -> str:
  """A line of characters as high as the values are."""
  values = values[np.isfinite(values)]
  if not len(values):
    return ''
  parts = np.array_split(values, min(width, len(values)))
  means = np.array([part.mean() for part in parts])
  low, high = means.min(), means.max()
  if high <= low:
    return _SPARKS[0] * len(means)
  places = (means - low) / (high - low) * (len(_SPARKS) - 1)
  return ''.join(_SPARKS[round(p)] for p in places)
