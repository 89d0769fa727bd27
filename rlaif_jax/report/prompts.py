"""Alignment by labeling prompt."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlaif_jax.report import blocks, looks, plots
from rlaif_jax.report.blocks import (
  Figure,
  Figures,
  Section,
  Style,
  estimate,
  filled,
  is_number,
)
from rlaif_jax.report.policies import mark
from rlaif_jax.report.runs import Run, numbers

# Summary key: {labeler: {task: {variant: {alignment, ci_low, ci_high,
# flip_rate}}}}.
ALIGNMENT_TABLE = 'alignment_table'


def sections(runs: Sequence[Run]) -> Iterator[Section]:
  """One section, where several prompts were tried."""
  table = alignment_table(runs)
  if table:
    yield by_prompt(table)


def alignment_table(runs: Sequence[Run]) -> list[tuple[tuple[str, ...], dict]]:
  """((labeler, task, variant), numbers) of all prompts that were tried.

  From tables in the summaries, and from label stages where there are stages
  with several prompts.
  """
  rows, stages = [], []
  for run in runs:
    source = looks.source(run, runs)
    for summary in (run.summary, *(step.summary for step in run.steps)):
      rows += _flat((summary or {}).get(ALIGNMENT_TABLE), source)
    for steps in run.groups('label').values():
      values, block = numbers(steps), steps[0].config.get('labeler') or {}
      if is_number(values.get('labeler/alignment')):
        names = (
          looks.title(source, pathlib.Path(str(block.get('path'))).name),
          str((steps[0].config.get('data') or {}).get('name', '')),
          pathlib.Path(str(block.get('prompt'))).stem,
        )
        stages.append((names, _as_variant(values)))
  if len({names[2] for names, _ in stages}) > 1:
    rows += stages
  return list({(names, str(v)): (names, v) for names, v in rows}.values())


def _flat(table: Any, source: str) -> Iterator[tuple[tuple[str, ...], dict]]:
  for labeler, tasks in table.items() if isinstance(table, dict) else ():
    for task, variants in tasks.items() if isinstance(tasks, dict) else ():
      for variant, values in (
        variants.items() if isinstance(variants, dict) else ()
      ):
        if isinstance(values, dict):
          yield (looks.title(source, labeler), task, variant), values


def _as_variant(values: Mapping[str, Any]) -> dict[str, Any]:
  keys = {
    'alignment': 'labeler/alignment',
    'ci_low': 'labeler/alignment_ci_low',
    'ci_high': 'labeler/alignment_ci_high',
    'flip_rate': 'labeler/flip_rate',
  }
  return {name: values.get(key) for name, key in keys.items()}


def by_prompt(rows: Sequence[tuple[tuple[str, ...], dict]]) -> Section:
  """A table, and a figure a task with all labelers in it."""
  rows = [
    (
      names,
      {
        **values,
        'alignment_ci_low': values.get('ci_low'),
        'alignment_ci_high': values.get('ci_high'),
      },
    )
    for names, values in rows
  ]
  labelers = list(dict.fromkeys(names[0] for names, _ in rows))
  styles = {name: Style(i, i) for i, name in enumerate(labelers)}
  figures = []
  for task in dict.fromkeys(names[1] for names, _ in rows):
    marks: dict[str, list[plots.Mark]] = {}
    for (labeler, found, variant), values in rows:
      one = mark(values, 'alignment', labeler, style=styles[labeler])
      if found == task and one is not None:
        marks.setdefault(variant, []).append(one)
    drawn = [plots.MarkRow(name, tuple(found)) for name, found in marks.items()]
    if drawn:
      label = f'alignment by prompt, {task}'
      figures.append(Figure(task, plots.forest(drawn, label=label)))
  cells = [
    (
      names,
      filled(
        {
          'agreement': estimate(values, 'alignment'),
          'flips': estimate(values, 'flip_rate'),
        }
      ),
    )
    for names, values in rows
  ]
  return Section(
    'prompts',
    'Alignment by prompt',
    'Share of pairs where the labeler prefers what the human chose, by '
    'labeling prompt.',
    (
      Figures(tuple(figures), tuple(styles.items())),
      blocks.table(('labeler', 'task', 'prompt'), cells),
    ),
  )
