"""Runs the points of a sweep: prints them, starts them, tables their results.

  python launch/sweep.py ACTION --config=FILE[:ARG] --workdir=DIR [OPTIONS]

  print    one command a run
  run      all of them here, --jobs=N at a time; again after an interruption:
           what is finished is not repeated. Exit code 1 if one failed
  one      the run --id=N, or that of SLURM_ARRAY_TASK_ID, in this process
  slurm    submits a job array by launch/slurm.sh, --jobs=N at a time or all;
           --slurm='...' are its options, --dry-run shows the batch script
  tpu      one line a run by launch/tpu.sh, each on a slice of its own;
           --tpu='--zone=... --tpu=v5e:4x4 [--bucket=...]' are its options
  table    results so far; needs --workdir only. --metrics=REGEX picks columns,
           --sort=NAME sorts by one of them, best last

Flags of rlaif_jax.main for every run come after --. The file says what to run
by one of these functions; keys are those of `--config.KEY`, and 'arg' is the
config file's own argument:

  def sweep(add):                     # one call is one run
    for beta in (0.01, 0.05):
      add(**{'steps.rlaif.algorithm_config.beta': beta, 'seed': 1})

  def get_hyper(hyper):               # 2 x 2 runs
    return hyper.product([
      hyper.sweep('config.seed', (0, 1)),
      hyper.zipit([hyper.sweep('config.batch_size', (8, 16)),
                   hyper.sweep('config.num_steps', (200, 100))]),
      hyper.fixed('config.save_every', 50),
    ])

It may be another file than the config's: --sweep=FILE. Run N is in the folder
DIR/N-OVERRIDES, what it prints in DIR/logs. Paths are relative to the
repository.
"""

import argparse
import concurrent.futures
import dataclasses
import importlib.util
import inspect
import itertools
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_PREEMPTED = 42  # told to stop and saved; see training/loop.py
_NAME_LENGTH = 100
_COLUMNS_SHOWN = 6
# First those that say how good a run is.
_PREFERRED = ('eval_', 'eval/', 'objective/', 'reward', 'accuracy', 'loss')

Overrides = Mapping[str, Any]


class Hyper:
  """Builds lists of overrides; what `get_hyper` gets."""

  def sweep(self, key: str, values: Iterable[Any]) -> list[Overrides]:
    """One run for each value of a key."""
    return [{key: value} for value in values]

  def fixed(self, key: str, value: Any, length: int = 1) -> list[Overrides]:
    """The same value, in each of `length` runs."""
    return self.sweep(key, [value] * length)

  def product(self, parts: Sequence[list[Overrides]]) -> list[Overrides]:
    """Every run of one part with every run of the others."""
    return [_merge(runs) for runs in itertools.product(*parts)]

  def zipit(self, parts: Sequence[list[Overrides]]) -> list[Overrides]:
    """The first of each part together, the second, ...; one repeats.

    Raises:
      ValueError: the parts are not equally long.
    """
    length = max(map(len, parts), default=0)
    if any(len(part) not in (1, length) for part in parts):
      raise ValueError(
        f'zipit of parts that are {[len(p) for p in parts]} runs long'
      )
    parts = [part * length if len(part) == 1 else part for part in parts]
    return [_merge(runs) for runs in zip(*parts, strict=True)]

  def chainit(self, parts: Sequence[list[Overrides]]) -> list[Overrides]:
    """The runs of one part after those of the other."""
    return list(itertools.chain(*parts))


def _merge(runs: Iterable[Overrides]) -> Overrides:
  merged = {}
  for run in runs:
    twice = merged.keys() & run.keys()
    if twice:
      raise ValueError(f'{min(twice)!r} is set twice in one run')
    merged.update(run)
  return merged


@dataclasses.dataclass(frozen=True)
class Run:
  """One point of a sweep.

  Attributes:
    id: its number, from 0.
    name: its folder's name.
    overrides: values of config keys, and perhaps of 'arg'.
  """

  id: int
  name: str
  overrides: Overrides


# -- reading the sweep ---------------------------------------------------------


def read_sweep(file: str, arg: str = '') -> list[Run]:
  """The runs that `sweep(add)` or `get_hyper(hyper)` of `file` name.

  Raises:
    ValueError: there is neither function, no run, or two are the same.
  """
  module = _load(file)
  if hasattr(module, 'sweep'):
    points = []
    _call(module.sweep, lambda **values: points.append(values), arg)
  elif hasattr(module, 'get_hyper'):
    points = _call(module.get_hyper, Hyper(), arg)
  else:
    raise ValueError(f'{file} has neither sweep(add) nor get_hyper(hyper)')
  points = [
    {key.removeprefix('config.'): value for key, value in point.items()}
    for point in points
  ]
  if not points:
    raise ValueError(f'the sweep of {file} has no runs')
  for one, other in itertools.combinations(range(len(points)), 2):
    if points[one] == points[other]:
      raise ValueError(f'runs {one} and {other} are the same: {points[one]}')
  digits = max(2, len(str(len(points) - 1)))
  short = _short_keys(points)
  return [
    Run(i, f'{i:0{digits}}{_suffix(point, short)}', point)
    for i, point in enumerate(points)
  ]


def _load(file: str):
  """The module in `file`, whose imports start where we are."""
  if not pathlib.Path(file).is_file():
    raise ValueError(f'{file}: no such file')
  if os.getcwd() not in sys.path:
    sys.path.insert(0, os.getcwd())
  spec = importlib.util.spec_from_file_location('_sweep_config', file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _call(function: Callable, first: Any, arg: str) -> Any:
  """function(first), or function(first, arg) where it takes two."""
  if len(inspect.signature(function).parameters) > 1:
    return function(first, arg)
  return function(first)


def _short_keys(points: Iterable[Overrides]) -> dict[str, str]:
  """Each key's last parts, as many as tell it from the others."""
  keys = list(dict.fromkeys(key for point in points for key in point))
  short = {}
  for key in keys:
    parts = key.split('.')
    for n in range(1, len(parts) + 1):
      short[key] = '.'.join(parts[-n:])
      if sum(f'.{x}'.endswith(f'.{short[key]}') for x in keys) == 1:
        break
  return short


def _suffix(point: Overrides, short: Mapping[str, str]) -> str:
  text = ','.join(f'{short[key]}={_text(v)}' for key, v in point.items())
  text = re.sub(r'[^A-Za-z0-9_.=,+-]+', '_', text)[:_NAME_LENGTH].strip('_.,')
  return f'-{text}' if text else ''


def _text(value: Any) -> str:
  """A value as `--config.KEY=...` takes it."""
  return value if isinstance(value, str) else repr(value)


def check_keys(config: Any, runs: Iterable[Run]) -> None:
  """Finds unknown keys now, and not once in every run.

  Raises:
    ValueError: the config has no such key.
  """
  for key in sorted({key for run in runs for key in run.overrides} - {'arg'}):
    block = config
    for part in key.split('.'):
      if not hasattr(block, 'keys') or part not in block:
        raise ValueError(f'unknown config key {key!r} in the sweep')
      block = block[part]


# -- what to run -------------------------------------------------------------


def command_of(run: Run, options: argparse.Namespace) -> list[str]:
  """The words that start a run."""
  file, _, arg = options.config.partition(':')
  arg = ','.join(filter(None, (arg, str(run.overrides.get('arg', '')))))
  return [
    options.python,
    '-m',
    'rlaif_jax.main',
    f'--config={file}:{arg}' if arg else f'--config={file}',
    f'--workdir={pathlib.Path(options.workdir) / run.name}',
    *(
      f'--config.{key}={_text(value)}'
      for key, value in run.overrides.items()
      if key != 'arg'
    ),
    *options.flags,
  ]


def note(runs: Sequence[Run], options: argparse.Namespace) -> None:
  """Writes `sweep.json`, by which `table` knows what the folders are.

  Raises:
    ValueError: the folder holds another sweep. One with more runs at its end
      is the same one.
  """
  folder = pathlib.Path(options.workdir)
  new = [dict(name=r.name, overrides=dict(r.overrides)) for r in runs]
  new = json.loads(json.dumps(new, default=str))
  old = noted(folder)
  for before, now in zip(old, new, strict=False):
    if before['overrides'] != now['overrides']:
      raise ValueError(
        f'{folder} holds another sweep: there, run {before["name"]} has '
        f'{before["overrides"]}, here {now["overrides"]}; use another --workdir'
      )
  if len(new) < len(old):
    raise ValueError(
      f'{folder} holds a sweep of {len(old)} runs, not {len(new)}'
    )
  if new != old:
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f'.sweep.{os.getpid()}.part'
    part.write_text(json.dumps(new, indent=2) + '\n', encoding='utf-8')
    part.replace(folder / 'sweep.json')


def named_as_before(
  runs: Sequence[Run], options: argparse.Namespace
) -> list[Run]:
  """The runs with the folders they had: a longer sweep might name anew."""
  names = [run['name'] for run in noted(pathlib.Path(options.workdir))]
  names += [run.name for run in runs[len(names) :]]
  return [
    dataclasses.replace(run, name=name)
    for run, name in zip(runs, names, strict=False)
  ]


def noted(folder: pathlib.Path) -> list[dict[str, Any]]:
  """What `sweep.json` holds; [] where there is none."""
  file = folder / 'sweep.json'
  return json.loads(file.read_text('utf-8')) if file.is_file() else []


def run_here(runs: Sequence[Run], options: argparse.Namespace) -> int:
  """Starts all runs, `options.jobs` at a time; returns the exit code.

  SIGTERM and Ctrl-C are passed to them as SIGTERM: they save and leave.
  """
  logs = pathlib.Path(options.workdir) / 'logs'
  logs.mkdir(parents=True, exist_ok=True)
  lock, processes, told = threading.Lock(), set(), threading.Event()

  def stop(*_):
    told.set()
    for process in list(processes):
      process.send_signal(signal.SIGTERM)

  def one(run: Run) -> int:
    with (logs / f'{run.name}.log').open('ab') as log:
      with lock:
        if told.is_set():
          return _PREEMPTED
        # A session of its own: Ctrl-C reaches it through us, once.
        process = subprocess.Popen(
          command_of(run, options),
          stdin=subprocess.DEVNULL, stdout=log, stderr=log,
          start_new_session=True,
        )  # fmt: skip
        processes.add(process)
      if told.is_set():
        process.send_signal(signal.SIGTERM)
      code = process.wait()
      processes.discard(process)
    how = {0: 'finished', _PREEMPTED: 'stopped and saved'}
    state = how.get(code, f'FAILED with code {code}: see {log.name}')
    print(f'{run.name}  {state}', flush=True)
    return code

  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, stop)
  with concurrent.futures.ThreadPoolExecutor(options.jobs or 1) as pool:
    # Waiting in short turns lets signals through.
    futures = [pool.submit(one, run) for run in runs]
    while not all(future.done() for future in futures):
      concurrent.futures.wait(futures, timeout=0.2)
  codes = [future.result() for future in futures]
  failed = sum(code not in (0, _PREEMPTED) for code in codes)
  print(f'{codes.count(0)} of {len(runs)} runs finished, {failed} failed')
  if failed:
    return 1
  return _PREEMPTED if _PREEMPTED in codes else 0


def slurm_command(
  runs: Sequence[Run], options: argparse.Namespace
) -> list[str]:
  """One task of the array is one run, found again by its number."""
  again = [
    options.python,
    'launch/sweep.py',
    'one',
    f'--config={options.config}',
    f'--workdir={options.workdir}',
    *([f'--sweep={options.sweep}'] if options.sweep else []),
    *(['--', *options.flags] if options.flags else []),
  ]
  limit = f'%{options.jobs}' if options.jobs else ''
  return [
    'bash',
    'launch/slurm.sh',
    f'--array=0-{len(runs) - 1}{limit}',
    *shlex.split(options.slurm),
    *(['--dry-run'] if options.dry_run else []),
    '--',
    *again,
  ]


def tpu_commands(run: Run, options: argparse.Namespace) -> list[list[str]]:
  """Creates a slice, sets it up and starts the run on it."""
  given = shlex.split(options.tpu)
  where = [x for x in given if x.split('=')[0] in ('--zone', '--project')]
  bucket = [x for x in given if x.startswith('--bucket=')]
  create = [x for x in given if x not in bucket]
  name = re.sub('[^a-z0-9]+', '-', pathlib.Path(options.workdir).name.lower())
  name = f'{name.strip("-") or "sweep"}-{run.id}'
  script = ['bash', 'launch/tpu.sh']
  return [
    [*script, 'create', name, *create],
    [*script, 'setup', name, *where, *bucket],
    [*script, 'run', name, *where, '--', *command_of(run, options)[3:]],
  ]


# -- results -----------------------------------------------------------------


def table(options: argparse.Namespace) -> str:
  """What the runs of a sweep have reached, one line each.

  Raises:
    ValueError: there is no sweep in the folder, or no such column.
  """
  sys.path.insert(0, str(_ROOT))
  folder = pathlib.Path(options.workdir)
  runs = noted(folder) or [
    # Brought from elsewhere without it: the names say what they are.
    dict(name=path.name, overrides={'run': path.name.partition('-')[2]})
    for path in sorted(folder.glob('[0-9][0-9]*'))
    if path.is_dir()
  ]
  if not runs:
    raise ValueError(f'{folder} holds no sweep')
  found = [(run, *result_of(folder / run['name'])) for run in runs]
  columns = pick_columns([values for _, _, values in found], options.metrics)
  if options.sort:
    columns = list(dict.fromkeys([*columns, options.sort]))
    if not any(options.sort in values for _, _, values in found):
      raise ValueError(f'no run has {options.sort!r} to sort by')
    found.sort(key=lambda x: x[2].get(options.sort, float('-inf')))
  short = _short_keys([run['overrides'] for run in runs])
  rows = [['id', *short.values(), 'state', *columns]]
  for run, state, values in found:
    rows.append(
      [
        run['name'].partition('-')[0],
        *(_text(run['overrides'].get(key, '')) for key in short),
        state,
        *(f'{values[c]:.4g}' if c in values else '' for c in columns),
      ]
    )
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return '\n'.join(
    '  '.join(map(str.ljust, row, widths)).rstrip() for row in rows
  )


def result_of(folder: pathlib.Path) -> tuple[str, dict[str, float]]:
  """(state, numbers) of a run: its summary's, or those of its last step."""
  from rlaif_jax.training import metrics, workdir

  summary = workdir.finished(folder)
  if summary is not None:
    return 'finished', _numbers(summary)
  files = [p for p in folder.rglob('metrics.jsonl') if p.is_file()]
  if not files:
    return ('started' if folder.is_dir() else 'waiting'), {}
  newest = max(files, key=lambda file: file.stat().st_mtime).parent
  rows = metrics.read_metrics(newest)
  step = f'step {rows[-1]["step"]}' if rows else 'started'
  where = newest.relative_to(folder).as_posix()
  state = step if where == '.' else f'{where}: {step}'
  if (folder / 'error.txt').is_file():
    state += ', error'
  return state, _numbers(rows[-1]) if rows else {}


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
  """Numbers of a nested record, by 'a/b'."""
  flat = {}
  for key, value in record.items():
    if isinstance(value, Mapping):
      flat |= {f'{key}/{k}': v for k, v in _numbers(value).items()}
    elif isinstance(value, int | float) and not isinstance(value, bool):
      flat[key] = value
  return flat


def pick_columns(rows: Sequence[Mapping[str, float]], regex: str) -> list[str]:
  """The metrics that `regex` finds, or some that say how good a run is."""
  keys = list(dict.fromkeys(key for row in rows for key in row))
  if regex:
    return [key for key in keys if re.search(regex, key)]
  keys = [k for k in keys if k != 'step' and not k.startswith('time/')]
  rank = {prefix: i for i, prefix in enumerate(_PREFERRED)}
  keys.sort(
    key=lambda k: next(
      (i for p, i in rank.items() if k.startswith(p)), len(rank)
    )
  )
  return keys[:_COLUMNS_SHOWN]


# -- command line ------------------------------------------------------------


def parse(arguments: Sequence[str]) -> argparse.Namespace:
  """Reads the command line; what is wrong with it ends the program."""
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    usage=argparse.SUPPRESS,
    allow_abbrev=False,
  )
  actions = ('print', 'run', 'one', 'slurm', 'tpu', 'table')
  parser.add_argument('action', choices=actions, help=argparse.SUPPRESS)
  defaults = dict(config='', workdir='', sweep='', slurm='', tpu='',
                  metrics='', sort='', python=sys.executable)  # fmt: skip
  for name, value in defaults.items():
    parser.add_argument(f'--{name}', default=value, help=argparse.SUPPRESS)
  for name in ('jobs', 'id'):
    parser.add_argument(f'--{name}', type=int, help=argparse.SUPPRESS)
  parser.add_argument('--dry-run', action='store_true', help=argparse.SUPPRESS)
  arguments = list(arguments)
  flags = []
  if '--' in arguments:
    at = arguments.index('--')
    arguments, flags = arguments[:at], arguments[at + 1 :]
  options = parser.parse_args(arguments)
  options.flags = flags
  if options.jobs is not None and options.jobs < 1:
    parser.error('--jobs must be 1 or more')
  if not options.workdir:
    parser.error('--workdir=... is missing')
  if not options.config and options.action != 'table':
    parser.error('--config=... is missing')
  if options.action == 'tpu' and '--zone=' not in options.tpu:
    parser.error("--tpu='--zone=... --tpu=v5e:4x4' is missing")
  return options


def chosen(runs: Sequence[Run], options: argparse.Namespace) -> Run:
  """The run that `--id` or Slurm names.

  Raises:
    ValueError: neither does, or there is no such run.
  """
  number = options.id
  if number is None:
    text = os.environ.get('SLURM_ARRAY_TASK_ID', '')
    if not text.isdecimal():
      raise ValueError('which run? --id=N, or SLURM_ARRAY_TASK_ID')
    number = int(text)
  if not 0 <= number < len(runs):
    raise ValueError(
      f'there is no run {number}; there are 0 to {len(runs) - 1}'
    )
  return runs[number]


def main(arguments: Sequence[str]) -> int:
  """Runs the command line; returns the exit code."""
  options = parse(arguments)
  os.chdir(_ROOT)
  if options.action == 'table':
    print(table(options))
    return 0
  file, _, arg = options.config.partition(':')
  runs = read_sweep(options.sweep or file, arg)
  runs = named_as_before(runs, options)
  if options.action == 'print' or (options.action == 'run' and options.dry_run):
    for run in runs:
      print(shlex.join(command_of(run, options)))
    return 0
  if options.action == 'tpu':
    for run in runs:
      lines = map(shlex.join, tpu_commands(run, options))
      print(' && '.join(lines))
    return 0
  if options.action == 'one':
    words = command_of(chosen(runs, options), options)
    os.execvp(words[0], words)
  if 'arg' not in {key for run in runs for key in run.overrides}:
    get_config = _load(file).get_config
    check_keys(get_config(arg) if arg else get_config(), runs)
  if not options.dry_run:
    note(runs, options)
  if options.action == 'slurm':
    return subprocess.run(
      slurm_command(runs, options), cwd=_ROOT, check=False
    ).returncode
  return run_here(runs, options)


if __name__ == '__main__':
  try:
    sys.exit(main(sys.argv[1:]))
  except (OSError, ValueError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
