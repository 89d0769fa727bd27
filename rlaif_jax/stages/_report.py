"""The tables that an evaluation ends with."""

from collections.abc import Mapping

import rich.console
import rich.table


def show(summary: Mapping, title: str) -> None:
  """Prints the summary as tables."""
  console = rich.console.Console(width=140, highlight=False)
  console.print(_table(title, policy_rows(summary)))
  for block, columns in (
    (
      'labelers',
      ('labeler/alignment', 'labeler/flip_rate', 'labeler/position_bias'),
    ),
    (
      'reward_models',
      (
        'eval_rewards/accuracies/model',
        'eval_rewards/accuracies/longer',
        'eval_rewards/ece/model',
      ),
    ),
  ):
    if summary.get(block):
      rows = {
        name: {_short(c): f'{row[c]:.1%}' for c in columns if c in row}
        for name, row in summary[block].items()
      }
      console.print(_table(block.replace('_', ' '), rows))


def policy_rows(summary: Mapping) -> dict[str, dict[str, str]]:
  """The headline table: one row a policy, then the head-to-head rows."""
  metrics, rows = summary['metrics'], {}
  names = list(summary['policies'])
  prefix = 'eval_win_rate/'
  names += [
    key.removeprefix(prefix)
    for key in metrics
    if key.startswith(prefix) and key.endswith('_p_value') and '_vs_' in key
  ]
  for name in names:
    name = name.removesuffix('_p_value')
    cells = {}
    for column, key, form in _COLUMNS:
      values = [metrics.get(k.format(name)) for k in key]
      if None not in values:
        cells[column] = form.format(*values)
    rows[name.replace('_vs_', ' vs ')] = cells
  return rows


_COLUMNS = (
  ('win rate', ('eval_win_rate/{}',), '{:.1%}'),
  (
    '95% CI',
    ('eval_win_rate/{}_ci_low', 'eval_win_rate/{}_ci_high'),
    '{:.1%} to {:.1%}',
  ),
  ('length-corrected', ('eval_win_rate_lc/{}',), '{:.1%}'),
  ('Elo', ('eval_elo/{}',), '{:.0f}'),
  ('harmless', ('eval_harmless_rate/{}',), '{:.1%}'),
  ('over-refusal', ('eval_over_refusal/{}',), '{:.1%}'),
  ('KL to SFT', ('objective/kl/{}',), '{:.2f}'),
  ('words', ('text/words/{}',), '{:.1f}'),
  ('repeated 3-grams', ('text/repeated_3grams/{}',), '{:.1%}'),
  ('labels', ('cost/labels/{}',), '{:,.0f}'),
  ('labeler tokens', ('cost/labeler_tokens/{}',), '{:,.0f}'),
  ('seconds', ('cost/seconds/{}',), '{:,.0f}'),
)


def _short(key: str) -> str:
  """'eval_rewards/accuracies/model' -> 'accuracies'; 'longer' stays."""
  return key.removesuffix('/model').split('/')[-1].replace('_', ' ')


def _table(title: str, rows: Mapping[str, Mapping[str, str]]):
  """A rich table; columns that no row fills are left out."""
  table = rich.table.Table(title=title)
  # The fullest row first: it has them in order.
  ordered = sorted(rows.values(), key=len, reverse=True)
  columns = dict.fromkeys(c for row in ordered for c in row)
  table.add_column('')
  for column in columns:
    table.add_column(column, justify='right')
  for name, row in rows.items():
    table.add_row(name, *(row.get(c, '') for c in columns))
  return table
