"""Reward models: accuracy on human pairs, and how far to trust the margins."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlaif_jax.report import blocks, curves, looks, plots
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
from rlaif_jax.report.policies import evaluations, mark
from rlaif_jax.report.runs import Run, numbers

ACCURACY = 'eval_rewards/accuracies/model'
LONGER = 'eval_rewards/accuracies/longer'
_ECE = 'eval_rewards/ece/model'
_BIN = re.compile(rf'{ACCURACY}_(\S+\.\.\S+?)(?<!_std)$')
# Summary key: {model: [[confidence, outcome, count], ...]}, a bin each.
RELIABILITY = 'reliability'

_TRAINING = {
  'rewards/accuracies': 'Agreement with the labels, training pairs',
  ACCURACY: 'Accuracy on human pairs, over training',
}


def sections(runs: Sequence[Run]) -> Iterator[Section]:
  """One section, where there are reward models."""
  models = found_models(runs)
  groups = {
    (looks.source(run, runs), label): steps
    for run in runs
    for label, steps in run.groups('reward').items()
  }
  styles = looks.styles([*models, *groups])
  figures = _figures(models, styles)
  figures += curves.figures_of(groups, styles, _TRAINING, as_percent=True)
  figures += curves.figures_of(
    groups, styles, {_ECE: 'Calibration error, over training'}
  )
  if not figures:
    return
  legend = tuple((looks.title(*key), styles[key]) for key in styles)
  yield Section(
    'reward-models',
    'Reward models',
    'Accuracy: the share of human pairs where the preferred response scores '
    'higher, beside what preferring the longer one would get. Calibration '
    'error: how far sigmoid(margin) is from the share that agrees, on average.',
    (
      blocks.table(
        'reward model',
        [(looks.title(*key), _cells(models[key])) for key in models],
      ),
      Figures(tuple(figures), legend),
      *_bins(models),
    ),
  )


def found_models(
  runs: Sequence[Run],
) -> dict[tuple[str, str], Mapping[str, Any]]:
  """(run, name) -> numbers of each reward model.

  From the steps that trained them; those of an evaluation only where they say
  something else, such as of another test set.
  """
  found: dict[tuple[str, str], Mapping[str, Any]] = {}
  for run in runs:
    source = looks.source(run, runs)
    for label, steps in run.groups('reward').items():
      if values := numbers(steps):
        curve = next((s.summary[RELIABILITY] for s in steps
                      if RELIABILITY in (s.summary or {})), {})  # fmt: skip
        found[source, label] = values | {RELIABILITY: curve}
  known = [values.get(ACCURACY) for values in found.values()]
  for evaluation in evaluations(runs):
    models = evaluation.summary.get('reward_models') or {}
    for name, values in models.items():
      accuracy = values.get(ACCURACY)
      if is_number(accuracy) and not _among(accuracy, known):
        found[evaluation.source, f'{name} (evaluation)'] = values
  return found


def _among(value: float, known: Sequence[float | None]) -> bool:
  return any(k is not None and math.isclose(k, value) for k in known)


def _cells(values: Mapping[str, Any]) -> dict[str, Cell | str]:
  pairs = values.get('pairs')
  return filled(
    {
      'trained on pairs': plain(pairs) if is_number(pairs) else None,
      'accuracy': estimate(values, ACCURACY),
      'longer is better': estimate(values, LONGER),
      'calibration error': estimate(values, _ECE),
      'margin': estimate(values, 'eval_rewards/margins/model', plain),
    }
  )


def _figures(models, styles: Mapping[Any, Style]) -> list[Figure]:
  rows, lines = [], []
  for key, values in models.items():
    title = looks.title(*key)
    made = (
      mark(values, ACCURACY, title, style=styles[key]),
      mark(values, LONGER, 'longer is better', style=Style(7), hollow=True),
    )
    if made[0] is not None:
      rows.append(plots.MarkRow(title, tuple(filter(None, made))))
    for bins in (values.get(RELIABILITY) or {}).values():
      lines.append(_reliability_series(title, bins, styles[key]))
  figures = []
  if rows:
    figures.append(
      Figure(
        'Accuracy on human pairs',
        plots.forest(rows, label='accuracy of each reward model'),
        'Hollow: preferring the longer response.',
      )
    )
  if lines:
    figures.append(
      Figure(
        'Reliability',
        plots.reliability(lines, label='agreement against confidence'),
        'On the diagonal, what the margin promises is what humans say.',
      )
    )
  return figures


def _reliability_series(title: str, bins: Sequence, style: Style):
  x, y, counts = zip(*bins, strict=True)
  return plots.Series(title, x, y, style=style), [int(c) for c in counts]


def _bins(models) -> list[blocks.Table]:
  """Accuracy by bin of the humans' confidence, where it was measured."""
  rows = []
  for key, values in models.items():
    cells = {
      match[1]: blocks.percent(value)
      for name, value in values.items()
      if (match := _BIN.match(name)) and is_number(value)
    }
    if cells:
      rows.append((looks.title(*key), cells))
  if not rows:
    return []
  return [blocks.table('reward model', rows, title='Accuracy by bin')]
