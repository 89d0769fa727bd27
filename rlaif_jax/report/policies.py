"""Evaluations: which there are, and the table of their results."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
  percent,
  plain,
)
from rlaif_jax.report.runs import Run, Step

WIN = 'eval_win_rate'


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """One table of results.

  Attributes:
    source: the run, and the step where it has several; '' for the only one.
    summary: of the evaluation, or its mean over seeds.
    steps: the folders it came from, one a seed.
  """

  source: str
  summary: Mapping[str, Any]
  steps: tuple[Step, ...]

  @property
  def metrics(self) -> Mapping[str, Any]:
    """The numbers."""
    return self.summary['metrics']

  def policies(self) -> list[str]:
    """The policies, the baseline first."""
    names = [str(name) for name in self.summary['policies']]
    return sorted(names, key=lambda name: name != self.summary.get('baseline'))

  def comparisons(self) -> list[str]:
    """Names of the head-to-head comparisons, 'a_vs_b'."""
    found = [
      key.removeprefix(f'{WIN}/').removesuffix('_win')
      for key in self.metrics
      if key.startswith(f'{WIN}/') and key.endswith('_win')
    ]
    return [n for n in found if '_vs_' in n and n not in self.policies()]

  def seeds(self) -> bool:
    """Whether it is a mean over seeds."""
    return any(key.endswith('_std') for key in self.metrics)


def evaluations(runs: Sequence[Run]) -> list[Evaluation]:
  """All finished evaluations, those of a pipeline's seeds as their mean."""
  found = []
  for run in runs:
    groups = run.groups('evaluate')
    of_run = []
    if _is_evaluation(run.summary) and run.config.get('stage') == 'pipeline':
      last = list(run.config.get('steps') or ())[-1:]
      steps = [s for name in last for s in groups.pop(name, [])]
      own = (last[0] if groups else '', run.summary, tuple(steps))
      of_run.append(own)
    of_run = [
      (step.name, step.summary, (step,))
      for steps in groups.values()
      for step in steps
      if _is_evaluation(step.summary)
    ] + of_run
    name = looks.source(run, runs)
    for step, summary, steps in of_run:
      parts = [name, step if len(of_run) > 1 and step != name else '']
      found.append(Evaluation(' · '.join(filter(None, parts)), summary, steps))
  return found


def _is_evaluation(summary: Mapping[str, Any] | None) -> bool:
  summary = summary or {}
  return isinstance(summary.get('metrics'), dict) and isinstance(
    summary.get('policies'), list
  )


def sections(runs: Sequence[Run]) -> Iterator[Section]:
  """The results."""
  if found := evaluations(runs):
    yield headline(found, looks.policies(runs))


# -- headline -----------------------------------------------------------------


def headline(found: Sequence[Evaluation], order: Sequence[str]) -> Section:
  """The table that a run is for, and its win rates as a plot."""
  rows = []
  for evaluation in found:
    for name in [*evaluation.policies(), *evaluation.comparisons()]:
      rows.append(
        (names(found, evaluation, name), headline_cells(evaluation, name))
      )
  figures = [
    Figure(
      f'{what}{against(found) if compared else ""}',
      plots.forest(
        _forest_rows(found, prefix, compared, order),
        label=f'{what} of each policy, with intervals',
        reference=0.5 if compared else None,
      ),
    )
    for prefix, what, compared in (
      (WIN, 'Win rate', True),
      ('eval_harmless_rate', 'Harmless rate', False),
    )
    if _forest_rows(found, prefix, compared, order)
  ]
  caption = (
    'Below a number its bootstrap interval over prompts, of 95% unless the '
    'config says otherwise. p: exact sign test of the win rate against 50%, '
    'ties left out.'
  )
  judges = '; '.join(dict.fromkeys(map(_judged_by, found)))
  return Section(
    'headline',
    'Results',
    f'Judge: {judges}.',
    (
      blocks.table(corners(found), rows, caption=caption),
      *([Figures(tuple(figures))] if figures else []),
      *notes(found),
      _all_metrics(found),
    ),
  )


def headline_cells(evaluation: Evaluation, name: str) -> dict[str, Cell | str]:
  """The row of a policy or comparison."""
  m = evaluation.metrics
  p = m.get(f'{WIN}/{name}_p_value')
  # The mean of several p-values says nothing.
  with_p = is_number(p) and not evaluation.seeds()
  return filled(
    {
      'win rate': estimate(m, f'{WIN}/{name}'),
      'p': blocks.p_value(p) if with_p else None,
      'length-corrected': estimate(m, f'eval_win_rate_lc/{name}'),
      'by mean of orders': estimate(m, f'eval_win_rate_averaged/{name}'),
      'judge flips': estimate(m, f'eval_judge_flip_rate/{name}'),
      'Elo': estimate(m, f'eval_elo/{name}', '{:.0f}'.format),
      'harmless': estimate(m, f'eval_harmless_rate/{name}'),
      'over-refusal': estimate(m, f'eval_over_refusal/{name}'),
      'KL': estimate(m, f'objective/kl/{name}', plain),
      'words': estimate(m, f'text/words/{name}', '{:.1f}'.format),
      'repeated 3-grams': estimate(m, f'text/repeated_3grams/{name}'),
      'copied 3-grams': estimate(m, f'text/copied_3grams/{name}'),
      'ROUGE-L': estimate(m, f'text/rouge_l/{name}'),
      'perplexity': estimate(m, f'text/perplexity/{name}', '{:.1f}'.format),
      'ended by itself': estimate(m, f'text/ended/{name}'),
    }
  )


def notes(found: Sequence[Evaluation]) -> list[blocks.Note]:
  """What a reader should know of policies, as their config says."""
  said = (
    f'{name}: {text}.'
    for e in found
    for name, text in (e.summary.get('notes') or {}).items()
  )
  return [blocks.Note(text) for text in dict.fromkeys(said)]


def _all_metrics(found: Sequence[Evaluation]) -> blocks.Table:
  """Every number of every evaluation, with all its digits."""
  rows = []
  for key in dict.fromkeys(key for e in found for key in e.metrics):
    known = [e for e in found if key in e.metrics]
    cells = {e.source or 'value': str(e.metrics[key]) for e in known}
    rows.append((key, cells))
  return blocks.table(
    'metric', rows, title='All metrics', folded=True, in_terminal=False
  )


def _judged_by(evaluation: Evaluation) -> str:
  """Who judged, and how good that judge is where that is known."""
  judge = evaluation.summary.get('judge') or {}
  text = str(judge.get('name', 'not recorded')).replace('_', ' ')
  if judge.get('of'):
    text += f' {judge["of"]}'
  if judge.get('prompt'):
    text += f' with the prompt {judge["prompt"]}'
  if judge.get('orders') == 'both':
    text += ', in both orders; a win needs both'
  if judge.get('ratings'):
    text += f' ({len(judge["ratings"])} raters)'
  accuracy = judge.get('eval_rewards/accuracies/model')
  longer = judge.get('eval_rewards/accuracies/longer')
  if is_number(accuracy) and is_number(longer):
    text += (
      f' (agrees with {percent(accuracy)} of held-out human choices; the '
      f'longer response with {percent(longer)})'
    )
  return text


def _forest_rows(
  found: Sequence[Evaluation],
  prefix: str,
  comparisons: bool,
  order: Sequence[str],
) -> list[plots.MarkRow]:
  """A row a policy, in its colour; comparisons are grey."""
  styles = looks.styles(
    [(e.source, name) for e in found for name in e.policies()], order
  )
  rows = []
  for evaluation in found:
    of_one = []
    compared = evaluation.comparisons() if comparisons else []
    for name in evaluation.policies() + compared:
      style = styles.get((evaluation.source, name), Style(7))
      found_mark = mark(
        evaluation.metrics, f'{prefix}/{name}', name, style=style
      )
      if found_mark is not None:
        of_one.append(plots.MarkRow(shown(name), (found_mark,)))
    if of_one and several(found):
      rows.append(plots.MarkRow(evaluation.source))
    rows += of_one
  return rows


def mark(
  numbers: Mapping[str, Any], key: str, name: str, **options: Any
) -> plots.Mark | None:
  """The number `key` with its interval as a mark; None where there is none."""
  if not is_number(numbers.get(key)):
    return None
  low, high = (
    numbers[k] if is_number(numbers.get(k)) else math.nan
    for k in (f'{key}_ci_low', f'{key}_ci_high')
  )
  return plots.Mark(name, numbers[key], low, high, **options)


# -- names --------------------------------------------------------------------


def several(found: Sequence[Evaluation]) -> bool:
  """Whether the evaluations need their source beside them."""
  return any(evaluation.source for evaluation in found)


def corners(found: Sequence[Evaluation]) -> tuple[str, ...]:
  """Titles of the columns that `names` fills."""
  return ('run', 'policy') if several(found) else ('policy',)


def names(
  found: Sequence[Evaluation], evaluation: Evaluation, name: str
) -> tuple[str, ...]:
  """What a row of a table is called."""
  return (evaluation.source, shown(name))[not several(found) :]


def shown(name: str) -> str:
  """The name of a policy or comparison for people."""
  return name.replace('_vs_', ' vs ')


def against(found: Sequence[Evaluation]) -> str:
  """' against sft', where all have one baseline."""
  baselines = {e.summary.get('baseline') for e in found} - {None}
  return f' against {baselines.pop()}' if len(baselines) == 1 else ''
