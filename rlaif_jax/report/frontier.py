"""What a gain cost: KL-reward frontier, and length control."""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from rlaif_jax.evaluators import statistics
from rlaif_jax.report import blocks, looks, plots, policies
from rlaif_jax.report.blocks import (
  Figure,
  Figures,
  Section,
  Style,
  estimate,
  filled,
  is_number,
)
from rlaif_jax.report.policies import WIN, Evaluation, mark
from rlaif_jax.report.runs import Run

_BEST_OF = re.compile(r'eval_best_of/(.+)_(\d+)')


def sections(runs: Sequence[Run]) -> Iterator[Section]:
  """KL and reward, then length."""
  found = policies.evaluations(runs)
  frontier = kl_frontier(found, looks.policies(runs))
  best = best_of_n(found, looks.policies(runs))
  made = [f for f in (frontier, best) if f.figures]
  if made:
    yield Section(
      'frontier',
      'KL and reward',
      'What each policy gained, against how far it went from the reference. '
      'Higher is better; further right it kept less of what the reference '
      'could do.',
      tuple(made),
    )
  length = length_control(found)
  if length is not None:
    yield length


# -- frontier -----------------------------------------------------------------


def kl_frontier(found: Sequence[Evaluation], order: Sequence[str]) -> Figures:
  """What was gained against KL, a figure a measure of gain."""
  keys = [(e.source, name) for e in found for name in e.policies()]
  looks_of = looks.styles(keys, order)
  figures, shown = [], {}
  for what, value, reference in (
    (f'Win rate{policies.against(found)}', _win_mark, 0.5),
    ('Harmless rate', _harmless_mark, None),
    ("The judge's mean score", _score_mark, None),
  ):
    points = []
    for evaluation in found:
      for name in evaluation.policies():
        kl = evaluation.metrics.get(f'objective/kl/{name}')
        title = looks.title(evaluation.source, name)
        style = looks_of[evaluation.source, name]
        point = value(evaluation, name)
        if is_number(kl) and point is not None:
          point = dataclasses.replace(point, name=title, style=style)
          points.append((kl, point))
          shown[title] = style
    if len(points) > 1:
      figures.append(
        Figure(
          what,
          plots.scatter(
            points,
            x_label='KL to the reference (nats a response)',
            label=f'{what} against KL',
            as_percent=what[0] in 'WH',
            reference=reference,
          ),
        )
      )
  return Figures(tuple(figures), tuple(shown.items()))


def _win_mark(evaluation: Evaluation, name: str) -> plots.Mark | None:
  if name == evaluation.summary.get('baseline'):
    return plots.Mark(name, 0.5)  # against itself
  return mark(evaluation.metrics, f'{WIN}/{name}', name)


def _harmless_mark(evaluation: Evaluation, name: str) -> plots.Mark | None:
  return mark(evaluation.metrics, f'eval_harmless_rate/{name}', name)


def _score_mark(evaluation: Evaluation, name: str) -> plots.Mark | None:
  """Mean of the scores of samples.jsonl, its interval clustered by prompt."""
  rows = [
    (row.get('prompt', ''), row['scores'][name])
    for step in evaluation.steps
    for row in step.samples
    if is_number((row.get('scores') or {}).get(name))
  ]
  if not rows:
    return None
  prompts, scores = zip(*rows, strict=True)
  clusters = np.unique([str(p) for p in prompts], return_inverse=True)[1]
  ci = statistics.bootstrap_ci(scores, clusters=clusters, num_samples=1000)
  return plots.Mark(name, float(np.mean(scores)), ci.low, ci.high)


def best_of_n(found: Sequence[Evaluation], order: Sequence[str]) -> Figures:
  """Score of the best of n samples over sqrt(KL), and the policies' own.

  The classic picture of over-optimisation (arXiv 2210.10760).
  """
  keys = [(e.source, name) for e in found for name in e.policies()]
  looks_of = looks.styles(keys, order)
  series = []
  for evaluation in found:
    curves = _best_curves(evaluation)
    for name, rows in curves.items():
      title = looks.title(evaluation.source, f'{name}, best of n')
      style = looks_of[evaluation.source, name]
      columns = zip(*rows, strict=True)
      series.append(plots.Series(title, *columns, style=style))
    for name in evaluation.policies() if curves else ():
      kl = evaluation.metrics.get(f'objective/kl/{name}')
      score = _score_mark(evaluation, name)
      if is_number(kl) and score is not None:
        title = looks.title(evaluation.source, name)
        x, y = (math.sqrt(max(kl, 0.0)),), (score.value,)
        style = looks_of[evaluation.source, name]
        series.append(plots.Series(title, x, y, style=style))
  if not series:
    return Figures(())
  svg = plots.line(
    series,
    x_label='√KL',
    label='score of the best of n samples and of the policies against √KL',
    readout=False,
    whole=False,
  )
  title = "The judge's mean score, and the best of n samples"
  return Figures(
    (Figure(title, svg),), tuple((s.name, s.style) for s in series)
  )


def _best_curves(
  evaluation: Evaluation,
) -> dict[str, list[tuple[float, ...]]]:
  """Policy -> (sqrt(KL), score, low end, high end) of its best of n, by n."""
  curves: dict[str, list[tuple[float, ...]]] = {}
  for key in evaluation.metrics:
    match = _BEST_OF.fullmatch(key)
    point = mark(evaluation.metrics, key, '')
    kl = evaluation.metrics.get(f'{key}_kl')
    if match and point is not None and is_number(kl):
      row = (math.sqrt(kl), point.value, point.low, point.high)
      curves.setdefault(match[1], []).append(row)
  known = evaluation.policies()
  return {name: sorted(rows) for name, rows in curves.items() if name in known}


# -- length -------------------------------------------------------------------

_FORMS = (
  (WIN, 'as judged', False),
  ('eval_win_rate_lc', 'at equal length (ratio)', True),
  ('eval_win_rate_lc_log', 'at equal length (log ratio)', True),
)


def length_control(found: Sequence[Evaluation]) -> Section | None:
  """Win rates beside what they would be at equal length."""
  rows, drawn = [], []
  for evaluation in found:
    of_one = []
    for name in [*evaluation.policies(), *evaluation.comparisons()]:
      m = evaluation.metrics
      if f'eval_win_rate_lc/{name}' not in m:
        continue
      marks = [
        mark(m, f'{key}/{name}', what, style=Style(i, i), hollow=hollow)
        for i, (key, what, hollow) in enumerate(_FORMS)
      ]
      of_one.append(
        plots.MarkRow(policies.shown(name), tuple(filter(None, marks)))
      )
      cells = {what: estimate(m, f'{key}/{name}') for key, what, _ in _FORMS}
      ratio = estimate(m, f'eval_length_ratio/{name}', '{:.2f}'.format)
      cells = filled(cells | {'length ratio': ratio})
      rows.append((policies.names(found, evaluation, name), cells))
    if of_one and policies.several(found):
      drawn.append(plots.MarkRow(evaluation.source))
    drawn += of_one
  if not rows:
    return None
  legend = tuple((w, Style(i, i)) for i, (_, w, _) in enumerate(_FORMS))
  figure = Figure(
    'Win rate before and after',
    plots.forest(drawn, label='win rates as judged and at equal length'),
  )
  return Section(
    'length',
    'Length control',
    'Judges like longer responses. Where the win rate falls to 50% at equal '
    'length, length is what was learned.',
    (
      Figures((figure,), legend),
      blocks.table(
        policies.corners(found),
        rows,
        caption='Length ratio: mean characters of the policy over those of '
        'what it is compared with. Far from 1, the corrected rates are '
        'extrapolations.',
      ),
    ),
  )
