"""Labeler alignment by labeler, task and way of asking (paper Tables 2 and 3).

Every labeler labels the human comparisons of every task with every variant of
the labeling prompt. What each said is kept, as a label stage keeps it; the
summary holds the table, and for each labeler its position bias and what
averaging the two orders is worth, with a paired test. Stopped and started
again, it labels only what is missing.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import rich.console
import rich.table
from ml_collections import ConfigDict

from rlaif_jax.data import records
from rlaif_jax.evaluators import label_report
from rlaif_jax.labeler import prompts
from rlaif_jax.stages import _labelers, _pairs, common, label
from rlaif_jax.training import workdir as workdir_lib


def default_config() -> ConfigDict:
  """All variants; tasks and labelers are for the config file to name."""
  c = common.base_config('alignment')
  c.labelers = ConfigDict(sort_keys=False)  # name -> model path
  # Name, which leads in the names of its prompts -> data block
  c.tasks = ConfigDict(sort_keys=False)
  c.variants = prompts.VARIANTS
  # What all share; its path and prompt are set by the above.
  c.labeler = _labelers.config()
  c.chunk = 256  # pairs between two writes to disk
  c.bootstrap_samples = 1000
  return c


def run(config: ConfigDict, workdir) -> None:
  """Writes `labels/<labeler>/<task>_<variant>.jsonl`, a summary, a table."""
  with common.session(config, workdir) as s:
    if s is not None:
      check(config)
      by_labeler = {
        name: label_everything(s, name, path)
        for name, path in config.labelers.items()
      }
      workdir_lib.finish(s.workdir, summarise(by_labeler, config))
  if jax.process_index() == 0:
    show(workdir_lib.finished(workdir), config)


def check(config: ConfigDict) -> None:
  """Raises for what can be known to be wrong before a labeler is loaded."""
  for key in ('labelers', 'tasks', 'variants'):
    if not config[key]:
      raise ValueError(f'config.{key} is empty: there is nothing to compare')
  for task in config.tasks:
    for variant in config.variants:
      _labelers.check(_block(config, '', task, variant))


def label_everything(
  s: common.Session, name: str, path: str
) -> dict[tuple[str, str], list[records.PreferenceRecord]]:
  """Records of one labeler by (task, variant)."""
  config, found = s.config, {}
  labelers = None
  for task, data in config.tasks.items():
    examples = common.load_examples(data)
    for example in examples:
      _pairs.check_pair(example, common.source(data))
    for variant in config.variants:
      c = label.default_config()
      c.seed, c.chunk, c.data = config.seed, config.chunk, data
      c.labeler = _block(config, path, task, variant)
      cell = dataclasses.replace(s, config=c)
      panel = _labelers.Panel(c.labeler, cell, labelers)
      labelers = panel.labelers  # loaded once for all ways of asking
      file = s.workdir / 'labels' / name / f'{task}_{variant}.jsonl'
      if jax.process_index() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
      label.label_all(
        cell,
        examples,
        lambda rows: [e for _, e in rows],
        label.make_judge(cell, c, panel),
        file,
        panel,
        title=f'{name} {task}_{variant}',
      )
      found[task, variant] = records.read(file)
  jax.clear_caches()
  return found


def _block(config: ConfigDict, path: str, task: str, variant: str):
  """The labeler block of one cell of the table."""
  block = config.labeler.copy_and_resolve_references()
  block.path, block.prompt = path, f'{task}_{variant}'
  return block


# -- summary ------------------------------------------------------------------


def summarise(by_labeler, config: ConfigDict) -> dict[str, Any]:
  """`alignment_table` of all cells, and `labelers` with each over all cells."""
  options = label_report.Config(num_samples=config.bootstrap_samples)
  table: dict[str, Any] = {}
  pooled = {}
  for name, cells in by_labeler.items():
    for (task, variant), rows in cells.items():
      place = table.setdefault(name, {}).setdefault(task, {})
      place[variant] = _cell(rows, options)
    every = [row for rows in cells.values() for row in rows]
    pooled[name] = _report(every, options)
  return {'alignment_table': table, 'labelers': pooled}


def _report(rows: Sequence[records.PreferenceRecord], options):
  data = label_report.from_records(rows, by=('prompt_name',))
  return label_report.report(data, options)


def _cell(rows, options) -> dict[str, float]:
  """What the table and its reports show of one way of asking."""
  found = _report(rows, options)
  position = found.get('position', {})
  aligned = found.get('alignment', {})
  debiasing = found.get('debiasing', {})
  cell = {
    'pairs': found['labels'],
    'alignment': aligned.get('rate'),
    'ci_low': aligned.get('ci_low'),
    'ci_high': aligned.get('ci_high'),
    'one_order': None,
    'flip_rate': position.get('flip_rate'),
    'same_position': position.get('same_position', {}).get('rate'),
    'favoured_slot': position.get('favoured_slot'),
    'ece': found.get('calibration', {}).get('ece'),
    'longer': found['length']['rate'],
    'fewer_exemplars': sum('fewer_exemplars' in r.meta for r in rows),
  }
  if debiasing:
    orders = (debiasing['order_12']['rate'], debiasing['order_21']['rate'])
    cell['one_order'] = sum(orders) / 2
  return {key: value for key, value in cell.items() if value is not None}


def show(summary: dict, config: ConfigDict) -> None:
  """Prints alignment by way of asking, and position bias by labeler."""
  console = rich.console.Console(width=110, highlight=False)
  table = rich.table.Table(title='labeler alignment')
  table.add_column('prompt')
  cells = [(task, name) for task in config.tasks for name in config.labelers]
  for task, name in cells:
    table.add_column(f'{task} {name}', justify='right')
  for variant in config.variants:
    values = [
      summary['alignment_table'][name][task][variant].get('alignment')
      for task, name in cells
    ]
    table.add_row(variant, *('' if v is None else f'{v:.1%}' for v in values))
  console.print(table)
  table = rich.table.Table(title='over all prompts and tasks')
  for column in (
    'labeler',
    'alignment',
    'one order',
    'averaging gains',
    'p',
    'same position',
    'favoured slot',
  ):
    table.add_column(column, justify='right')
  for name, found in summary['labelers'].items():
    table.add_row(name, *_pooled_cells(found))
  console.print(table)


def _pooled_cells(found: dict) -> list[str]:
  if 'debiasing' not in found:
    return [''] * 6
  gain = found['debiasing']['over_single']
  orders = [found['debiasing'][f'order_{o}']['rate'] for o in ('12', '21')]
  position = found['position']
  favoured = str(position.get('favoured_slot', ''))
  if 'favoured_share' in position:
    favoured += f' ({position["favoured_share"]:.0%})'
  return [
    f'{found["alignment"]["rate"]:.1%}',
    f'{sum(orders) / 2:.1%}',
    f'{gain["difference"]:+.1%}',
    f'{gain["p_value"]:.2g}',
    f'{position["same_position"]["rate"]:.1%}',
    favoured,
  ]
