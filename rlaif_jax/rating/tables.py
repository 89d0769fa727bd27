"""The numbers of ratings, in the terminal."""

from collections.abc import Mapping, Sequence

import rich.box
import rich.console
import rich.markup
import rich.table

from rlaif_jax.rating import sheet as sheet_lib
from rlaif_jax.rating.results import Ratings


def show(
  key: sheet_lib.Key,
  ratings: Sequence[Ratings],
  metrics: Mapping[str, float],
  console: rich.console.Console,
) -> None:
  """Prints tables of `numbers.metrics`, and who rated how much."""
  raters = ', '.join(
    f'{r.rater} {len(r.values)}'
    + (f' ({r.left_out} left out)' if r.left_out else '')
    for r in ratings
  )
  console.print(
    f'{len(key.items)} items; rated by {rich.markup.escape(raters)}'
  )
  for metric, title in (
    ('eval_win_rate', 'win rate'),
    ('eval_harmless_rate', 'harmless'),
    ('eval_harmless_difference', 'harmless, difference'),
    ('eval_elo', 'Elo'),
  ):
    names = [
      name.removeprefix(f'{metric}/').removesuffix('_ci_low')
      for name in metrics
      if name.startswith(f'{metric}/') and name.endswith('_ci_low')
    ]
    if names:
      console.print(_table(metric, title, names, metrics))
  for line in _agreement_lines(metrics):
    console.print(line)


def _table(
  metric: str, title: str, names: Sequence[str], metrics: Mapping[str, float]
) -> rich.table.Table:
  columns = {
    '_win': 'won', '_tie': 'tied', '_loss': 'lost', '_p_value': 'p',
    '_ratings': 'n',
  }  # fmt: skip
  present = [
    suffix for suffix in columns if f'{metric}/{names[0]}{suffix}' in metrics
  ]
  table = rich.table.Table(box=rich.box.SIMPLE)
  for column in ('', title, *(columns[s] for s in present)):
    table.add_column(column, no_wrap=bool(column), overflow='fold')
  for name in names:
    base = f'{metric}/{name}'
    form = _points if metric == 'eval_elo' else _percent
    low, high = (
      form(metrics[f'{base}_ci_{end}']).rstrip('%') for end in ('low', 'high')
    )
    cells = [
      str(metrics[f'{base}{suffix}'])
      if suffix == '_ratings'
      else _p(metrics[f'{base}{suffix}'])
      if suffix == '_p_value'
      else f'{100 * metrics[f"{base}{suffix}"]:.0f}%'
      for suffix in present
    ]
    value = f'{form(metrics[base])} ({low} to {high})'
    table.add_row(
      rich.markup.escape(name.replace('_vs_', ' vs ')), value, *cells
    )
  return table


def _agreement_lines(metrics: Mapping[str, float]) -> list[str]:
  lines = []
  if (w := metrics.get('rating/kendall_w')) is not None:
    lines.append(
      f"Kendall's W between raters {w:.2f} "
      f'({metrics["rating/kendall_w_ci_low"]:.2f} to '
      f'{metrics["rating/kendall_w_ci_high"]:.2f}), '
      f'{metrics["rating/kendall_w_items"]} items with several raters'
    )
  if (kappa := metrics.get('rating/kappa')) is not None:
    lines.append(
      f"Fleiss' kappa between raters {kappa:z.2f}, the same said in "
      f'{_percent(metrics["rating/agreement"])}, '
      f'{metrics["rating/kappa_items"]} items with several raters'
    )
  if (first := metrics.get('rating/first_chosen')) is not None:
    lines.append(
      f'A, whoever it was, chosen in {_percent(first)} '
      f'(p {_p(metrics["rating/first_chosen_p_value"])})'
    )
  return lines


def _percent(value: float) -> str:
  return f'{100 * value:z.1f}%'


def _points(value: float) -> str:
  return f'{value:z.0f}'


def _p(value: float) -> str:
  return '<0.001' if value < 0.001 else f'{value:.3f}'
