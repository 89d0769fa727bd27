"""Labelers: agreement with humans, position bias, calibration."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rlaif_jax.evaluators import alignment, statistics
from rlaif_jax.report import blocks, looks, plots
from rlaif_jax.report.blocks import (
  Cell,
  Figure,
  Figures,
  Section,
  Style,
  estimate,
  filled,
  is_number,
  plain,
)
from rlaif_jax.report.disk import Labels
from rlaif_jax.report.policies import evaluations
from rlaif_jax.report.runs import Run, Step, numbers

BIAS = 'labeler/position_bias'
_PARTS = ('first slot twice', 'second slot twice', 'same response twice')
_PART_STYLES = (Style(1), Style(4), Style(7))
_CURVE_BINS, _SHARE_BINS = 5, 10
_FEWEST = 10  # pairs that a point of the reliability curve needs


def sections(runs: Sequence[Run]) -> Iterator[Section]:
  """One section, where anything was labelled."""
  labelers = found_labelers(runs)
  rows = {key: _cells(values) for key, values in labelers.items()}
  if any(rows.values()):
    yield Section(
      'labelers',
      'Labelers and position bias',
      'Every pair is shown in both orders. A labeler that prefers the same '
      'slot twice has answered to the place of a response, not to the '
      'response; averaging both orders makes such labels 50/50.',
      (
        blocks.table(
          'labels',
          [(looks.title(*key), cells) for key, cells in rows.items() if cells],
          caption='Flips: of the pairs with a verdict in both orders, those '
          'where it changed with the order. Agreement: with the labels of the '
          'data, or of the simulated human.',
        ),
        *_figures(runs, labelers),
      ),
    )


def found_labelers(
  runs: Sequence[Run],
) -> dict[tuple[str, str], Mapping[str, Any]]:
  """(run, name) -> numbers of each label stage.

  Of one that is not finished, what its rows say so far; those of an
  evaluation only where the run has no label stages.
  """
  found: dict[tuple[str, str], Mapping[str, Any]] = {}
  for run in runs:
    groups = run.groups('label')
    for label, steps in groups.items():
      values = numbers(steps) or _so_far(steps)
      if values:
        found[looks.source(run, runs), label] = values
  known = {run for run, _ in found}
  for evaluation in evaluations(runs):
    if not known & {evaluation.source, evaluation.source.split(' · ')[0]}:
      for name, values in (evaluation.summary.get('labelers') or {}).items():
        shown = {k: v for k, v in values.items() if is_number(v)}
        if shown not in found.values():
          found[evaluation.source, name] = values
  return found


def _so_far(steps: Sequence[Step]) -> dict[str, float]:
  """What can be said of labels before their stage has finished."""
  labels = next((s.labels for s in steps if s.labels is not None), None)
  if labels is None:
    return {}
  found = {'pairs': len(labels.p_first)}
  human = _human(labels)
  if human is not None:
    found |= alignment.alignment(labels.p_first[human], labels.human[human])
  both = np.isfinite(labels.slot_12) & np.isfinite(labels.slot_21)
  if both.any():
    pairs = [
      np.stack([slot[both], np.zeros(both.sum())], 1)
      for slot in (labels.slot_12, labels.slot_21)
    ]
    bias = alignment.position_bias(*pairs)
    # Which slot it favours depends on what the prompt's labels name.
    found |= {k: bias[k] for k in (BIAS, 'labeler/flip_rate')}
  return found


def _human(labels: Labels) -> np.ndarray | None:
  """Rows with a human's label beside a labeler's; None if there are none."""
  rows = np.isfinite(labels.human) & np.isfinite(labels.slot_12)
  return rows if rows.any() else None


def _cells(values: Mapping[str, Any]) -> dict[str, Cell | str]:
  pairs = values.get('pairs')
  return filled(
    {
      'pairs': plain(round(pairs)) if is_number(pairs) else None,
      'agreement': estimate(values, 'labeler/alignment'),
      'kappa': estimate(values, 'labeler/kappa', '{:.2f}'.format),
      'flips': estimate(values, 'labeler/flip_rate'),
      'same position twice': estimate(values, BIAS),
      'favoured slot': _favoured(values),
      'longer preferred': estimate(values, 'labeler/longer_rate'),
      'first shown preferred': estimate(values, 'labeler/first_shown_rate'),
      'pairs/s': estimate(values, 'perf/pairs_per_second', plain),
    }
  )


def _favoured(values: Mapping[str, Any]) -> Cell | None:
  """The slot, its share of same-position pairs, and whether that is chance."""
  slot = values.get('labeler/favoured_slot')
  first = values.get(f'{BIAS}_first')
  if not is_number(slot) or not is_number(first):
    return None
  name = {1: 'first', 2: 'second', 0: 'neither'}.get(slot, 'differs')
  notes = [f'{blocks.percent(max(first, 1 - first))} of those']
  p = values.get(f'{BIAS}_p_value')
  if is_number(p) and f'{BIAS}_p_value_std' not in values:
    notes.append(f'p {blocks.p_value(p)}')
  return Cell(name, ', '.join(notes))


# -- figures ------------------------------------------------------------------


def _figures(runs: Sequence[Run], labelers) -> list[Figures]:
  made = []
  bars = [
    plots.BarRow(
      looks.title(*key), tuple(zip(_PARTS, parts, _PART_STYLES, strict=True))
    )
    for key, values in labelers.items()
    if (parts := position_parts(values)) is not None
  ]
  if bars:
    figure = Figure(
      'Both orders of a pair',
      plots.bars(bars, label='verdicts over both orders', as_percent=True),
      'Grey holds the pairs with a tie in one of the orders, too.',
    )
    legend = tuple(zip(_PARTS, _PART_STYLES, strict=True))
    made.append(Figures((figure,), legend, bars=True))
  labels = {
    (looks.source(run, runs), label): found
    for run in runs
    for label, steps in run.groups('label').items()
    if (found := next((s.labels for s in steps if s.labels), None))
    and np.isfinite(found.slot_12).any()
  }
  styles = looks.styles(labels)
  figures = []
  if labels:
    figures.append(_shares(labels, styles))
  curves = [
    curve
    for key, found in labels.items()
    if (curve := reliability(found, looks.title(*key), styles[key]))
  ]
  if curves:
    figures.append(
      Figure(
        "Reliability: agreement by the labels' confidence",
        plots.reliability(curves, label='agreement against confidence'),
        'Confidence: the probability of the likelier response. Bars are 95% '
        'intervals; larger dots hold more pairs, and at least '
        f'{_FEWEST}.',
      )
    )
  if figures:
    legend = tuple((looks.title(*key), styles[key]) for key in labels)
    made.append(Figures(tuple(figures), legend))
  return made


def position_parts(values: Mapping[str, Any]) -> tuple[float, ...] | None:
  """Shares of pairs: first slot twice, second slot twice, all others."""
  same, first = values.get(BIAS), values.get(f'{BIAS}_first')
  if not is_number(same) or not is_number(first):
    return None
  return same * first, same * (1 - first), 1 - same


def _shares(labels: Mapping[Any, Labels], styles) -> Figure:
  edges = np.linspace(0, 1, _SHARE_BINS + 1)
  series = []
  for key, found in labels.items():
    counts, _ = np.histogram(np.clip(found.p_first, 0, 1), edges)
    x, y = (edges[:-1] + edges[1:]) / 2, counts / counts.sum()
    title = looks.title(*key)
    series.append(
      plots.Series(title, x.tolist(), y.tolist(), style=styles[key])
    )
  return Figure(
    'How soft the labels are',
    plots.line(
      series,
      x_label='probability of the first response',
      label='share of labels by their value',
      as_percent=True,
      include=(0,),
      whole=False,
    ),
    'Share of labels in each tenth.',
  )


def reliability(
  labels: Labels, title: str, style: Style
) -> tuple[plots.Series, list[int]] | None:
  """Agreement with the human in bins of the labels' confidence.

  Confidence is the probability of the likelier response, so from 50% on.
  None where no bin has enough pairs.
  """
  rows = _human(labels)
  if rows is None:
    return None
  p, human = labels.p_first[rows], labels.human[rows]
  agreed = statistics.agreement(p - 0.5, human - 0.5)
  confidence = np.maximum(p, 1 - p)
  bins = np.minimum(
    ((confidence - 0.5) * 2 * _CURVE_BINS).astype(int), _CURVE_BINS - 1
  )
  columns, counts = [], []
  for member in (bins == b for b in np.unique(bins)):
    if member.sum() < _FEWEST:
      continue
    ci = statistics.bootstrap_ci(agreed[member], num_samples=500)
    columns.append((confidence[member].mean(), agreed[member].mean(), *ci))
    counts.append(int(member.sum()))
  if not counts:
    return None
  x, y, low, high = ([float(v) for v in c] for c in zip(*columns, strict=True))
  return plots.Series(title, x, y, low, high, style=style), counts
