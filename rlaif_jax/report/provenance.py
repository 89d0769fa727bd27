"""Where numbers come from: state of the runs, configs, environment, time."""

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlaif_jax.report import blocks, looks, plots
from rlaif_jax.report.blocks import (
  Cell,
  Code,
  Figure,
  Figures,
  Note,
  Section,
  Style,
  filled,
)
from rlaif_jax.report.runs import ENVIRONMENT_FILE, Run, Step

_ABSENT = '(absent)'
_MOST_ROWS = 300  # of a table of differences


# -- state --------------------------------------------------------------------


def state_sections(runs: Sequence[Run]) -> Iterator[Section]:
  """What the runs are, how far they are, and what could not be read."""
  rows = []
  for run in runs:
    for step in run.steps:
      names = (step.name, step.stage)
      names = (run.name, *names) if len(runs) > 1 else names
      rows.append((names, _state_cells(step)))
  corner = ('step', 'stage')
  notes = [
    Note(f'{run.name}: {problem}', warning=True)
    for run in runs
    for problem in run.problems
  ]
  notes += [
    Note(f'{run.name} is not finished: {_unfinished(run)}.', warning=True)
    for run in runs
    if not run.finished()
  ]
  table = blocks.table(
    ('run', *corner) if len(runs) > 1 else corner, rows, folded=len(rows) > 4
  )
  if table.folded:
    title = f'{len(rows)} steps in {len(runs)} run{"s" * (len(runs) > 1)}'
    table = dataclasses.replace(table, title=title)
  yield Section('runs', 'Runs', '', (*notes, table))


def _state_cells(step: Step) -> dict[str, Cell | str]:
  seconds = step.seconds
  return filled(
    {
      'state': Cell(step.state(), number=False),
      'took': duration(seconds) if seconds is not None else None,
      'error': _long(step.error) if step.error else None,
    }
  )


def _unfinished(run: Run) -> str:
  states = [f'{s.name} {s.state()}' for s in run.steps if s.summary is None]
  if not states:
    return 'all its steps are, but it has no summary.json'
  more = f', and {len(states) - 3} more' if len(states) > 3 else ''
  return ', '.join(states[:3]) + more


def duration(seconds: float) -> str:
  """'45 s', '12 min', '3.4 h'."""
  if seconds < 90:
    return f'{seconds:.0f} s'
  if seconds < 5400:
    return f'{seconds / 60:.0f} min'
  return f'{seconds / 3600:.1f} h'


# -- configs and environment --------------------------------------------------


def sections(runs: Sequence[Run]) -> Iterator[Section]:
  """Config differences, then environment, command, time and whole configs."""
  if tables := _differences(runs):
    yield Section(
      'config',
      'Config differences',
      'Fields that are not the same everywhere.',
      tuple(tables),
    )
  yield Section(
    'environment',
    'Environment and command',
    '',
    (*_environment(runs), *_times(runs), *_configs(runs)),
  )


def config_of(run: Run) -> Mapping[str, Any]:
  """The run's own config; of a folder of runs those of its steps."""
  if run.config:
    return run.config
  return {step.name: step.config for step in run.steps}


def _differences(runs: Sequence[Run]) -> list[blocks.Block]:
  made: list[blocks.Block] = []
  if len(runs) > 1:
    configs = {run.name: config_of(run) for run in runs}
    made += _difference(configs, 'Between the runs')
  for run in runs:
    steps = run.groups('rl')
    if len(steps) > 1:
      configs = {
        label: _inside(group[0].config, f'{run.path}/')
        for label, group in steps.items()
      }
      title = 'Between the RL steps'
      title += f' of {run.name}' if len(runs) > 1 else ''
      made += _difference(configs, title)
  return made


def _difference(configs: Mapping[str, Mapping], title: str):
  flat = {name: dict(flatten(config)) for name, config in configs.items()}
  rows = []
  for key in dict.fromkeys(key for values in flat.values() for key in values):
    texts = {name: shown(v.get(key, _ABSENT)) for name, v in flat.items()}
    if len(set(texts.values())) > 1:
      rows.append((key, {name: _long(text) for name, text in texts.items()}))
  if not rows:
    return [Note(f'{title}: the configs are the same.')]
  left = len(rows) - _MOST_ROWS
  caption = f'And {left} more.' if left > 0 else ''
  return [
    blocks.table('field', rows[:_MOST_ROWS], title=title, caption=caption)
  ]


def flatten(value: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """(dotted key, value) of everything in a nested config."""
  if isinstance(value, Mapping) and value:
    for key, inner in value.items():
      yield from flatten(inner, f'{prefix}.{key}' if prefix else str(key))
  else:
    yield prefix, value


def _inside(value: Any, folder: str) -> Any:
  """A config with paths in `folder` as that folder sees them."""
  if isinstance(value, Mapping):
    return {key: _inside(inner, folder) for key, inner in value.items()}
  return value.removeprefix(folder) if isinstance(value, str) else value


def shown(value: Any) -> str:
  """A config's value as JSON; (absent) as it is."""
  if value is _ABSENT:
    return _ABSENT
  return json.dumps(value, ensure_ascii=False)


def _environment(runs: Sequence[Run]) -> Iterator[blocks.Block]:
  rows = []
  for run in runs:
    recorded = _recorded(run)
    fields = dict(flatten(recorded) if recorded else ()) | _dates(run)
    cells = {
      key: Cell(str(v), number=False, long=True) for key, v in fields.items()
    }
    rows.append((run.name, cells))
    if not recorded:
      yield Note(
        f'{run.name}: command and environment were not recorded (no '
        f'{ENVIRONMENT_FILE} in its folder). Its config is what decides its '
        'numbers.'
      )
  # Fields down, runs across: there are more fields than runs.
  keys = dict.fromkeys(key for _, cells in rows for key in cells)
  yield blocks.table(
    'field',
    [
      (key, {name: cells[key] for name, cells in rows if key in cells})
      for key in keys
    ],
  )


def _long(value: Any) -> Cell:
  return Cell(str(value), number=False, long=True)


def _recorded(run: Run) -> Mapping[str, Any]:
  """What was noted when the run was made: a file, or a key of the summary."""
  candidates = [run.environment, (run.summary or {}).get('environment')]
  for step in run.steps:
    candidates += [step.environment, (step.summary or {}).get('environment')]
  found = [c for c in candidates if isinstance(c, Mapping) and c]
  return found[0] if found else {}


def _dates(run: Run) -> dict[str, str]:
  """Folder, seeds, and when its config and its summary were written."""
  found = {'folder': str(run.path)}
  seeds = run.config.get('seeds') or [run.config.get('seed')]
  if seeds != [None]:
    found['seeds'] = ', '.join(map(str, seeds))
  folders = [run.path, *(step.path for step in run.steps)]
  for title, name, pick in (
    ('config written', 'config.json', min),
    ('last summary written', 'summary.json', max),
  ):
    times = [_time(folder / name) for folder in folders]
    times = [t for t in times if t is not None]
    if times:
      made = datetime.datetime.fromtimestamp(pick(times))
      found[title] = f'{made:%Y-%m-%d %H:%M}'
  return found


def _time(file: pathlib.Path) -> float | None:
  return file.stat().st_mtime if file.is_file() else None


def _times(runs: Sequence[Run]) -> Iterator[blocks.Block]:
  """What the steps took, as the pipeline noted it."""
  figures = []
  for i, run in enumerate(runs):
    timed = [step for step in run.steps if step.seconds is not None]
    if timed:
      total = sum(step.seconds for step in timed)
      rows = [
        plots.BarRow(s.name, (('seconds', s.seconds, Style(i)),)) for s in timed
      ]
      title = f'{looks.source(run, runs)} seconds a step'.strip().capitalize()
      figures.append(
        Figure(
          title,
          plots.bars(rows, label='seconds of each step'),
          f'{duration(total)} in all.',
        )
      )
  if figures:
    yield Figures(tuple(figures))


def _configs(runs: Sequence[Run]) -> Iterator[Code]:
  for run in runs:
    text = json.dumps(config_of(run), indent=2, ensure_ascii=False)
    yield Code(f'Config of {run.name}', text)
