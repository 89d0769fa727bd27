"""The report as text, for the terminal. Figures and texts stay on the page."""

from collections.abc import Iterator, Sequence
from typing import Any

import rich.console
import rich.table
import rich.text

from rlaif_jax.report import blocks, build
from rlaif_jax.report.runs import Run


def show(runs: Sequence[Run], console: rich.console.Console) -> None:
  """Prints all tables and notes."""
  console.rule(rich.text.Text(build.title(runs)))
  for section in build.sections(runs):
    printed = [p for block in section.blocks for p in _printed(block)]
    if printed:
      console.print()
      console.print(rich.text.Text(section.title, style='bold'))
      if section.intro:
        console.print(rich.text.Text(section.intro, style='dim'))
      for block in printed:
        console.print(block)


def _printed(block: blocks.Block) -> Iterator[Any]:
  """What rich prints; nothing of what is for a page only."""
  if isinstance(block, blocks.Table) and block.rows and block.in_terminal:
    yield _table(block)
    if block.caption:
      yield rich.text.Text(block.caption, style='dim')
  if isinstance(block, blocks.Note):
    sign, style = ('!', 'yellow') if block.warning else ('-', '')
    yield rich.text.Text(f'{sign} {block.text}', style)


def _table(block: blocks.Table) -> rich.table.Table:
  """Cells hold texts of other people: none of it is markup."""
  table = rich.table.Table(
    title=rich.text.Text(block.title) if block.title else None,
    title_justify='left',
  )
  for column, cell in zip(block.columns, block.rows[0], strict=True):
    table.add_column(
      rich.text.Text(column),
      justify='right' if cell.number else 'left',
      overflow='fold',
    )
  for row in block.rows:
    table.add_row(*(_cell(cell) for cell in row))
  return table


def _cell(cell: blocks.Cell) -> rich.text.Text:
  text = rich.text.Text(cell.text)
  if cell.note:
    text.append(f'\n{cell.note}', style='dim')
  return text
