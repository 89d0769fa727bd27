"""What runs left on disk, read and never changed.

A run is a workdir: of one stage, of a pipeline (steps in it, or seeds with
steps), or any folder that holds such. What cannot be read becomes a problem
that the report names; the rest is shown all the same.
"""

import dataclasses
import functools
import os
import pathlib
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlaif_jax.report import disk
from rlaif_jax.report.blocks import is_number
from rlaif_jax.training import metrics as metrics_lib
from rlaif_jax.training import workdir as workdir_lib

ENVIRONMENT_FILE = 'environment.json'

# Folders of a workdir that hold no runs.
_NOT_RUNS = {
  'adapter', 'checkpoints', 'labels', 'model', 'report', 'samples',
  'tensorboard', 'wandb',
}  # fmt: skip
_DEPTH = 4  # of folders looked into


@dataclasses.dataclass(frozen=True)
class Step:
  """The folder of one stage.

  Attributes:
    name: path below the run's folder; the run's name where it is the run.
    label: the same without the seed's folder.
    path: its folder.
    config: its config.
    metrics: records of metrics.jsonl.
    summary: None while it is not finished.
    started: whether it is there at all.
    seconds: what it took, where a pipeline noted it.
    error: what it last ended with, if that was an error.
    environment: what was recorded of where it ran.
  """

  name: str
  label: str
  path: pathlib.Path
  config: Mapping[str, Any]
  metrics: tuple[Mapping[str, Any], ...] = ()
  summary: Mapping[str, Any] | None = None
  started: bool = True
  seconds: float | None = None
  error: str = ''
  environment: Any = None

  @property
  def stage(self) -> str:
    """Name of the stage."""
    return str(self.config.get('stage', ''))

  @functools.cached_property
  def labels(self) -> disk.Labels | None:
    """Rows of `labels/`, None where there are none.

    Files beside the preferences, such as of calibration, do not count.
    """
    folder = self.path / 'labels'
    files = [folder / disk.LABELS_FILE]
    if not files[0].is_file():
      files = sorted(folder.glob('*.jsonl'))
    return disk.labels_of(row for file in files for row in disk.read_rows(file))

  @functools.cached_property
  def samples(self) -> list[dict[str, Any]]:
    """Rows of `samples.jsonl`."""
    return list(disk.read_rows(self.path / 'samples.jsonl'))

  def state(self) -> str:
    """How far it is, in words."""
    if self.summary is not None:
      return 'finished'
    if not self.started:
      return 'not started'
    return f'not finished{self._progress()}'

  def _progress(self) -> str:
    if self.metrics:
      total = self.config.get('num_steps')
      of = f' of {total}' if total else ''
      return f': step {self.metrics[-1]["step"]}{of}'
    if self.stage == 'label' and self.labels is not None:
      return f': {len(self.labels.p_first)} labels'
    return ''


@dataclasses.dataclass(frozen=True)
class Run:
  """A workdir with all steps in it.

  Attributes:
    name: short and unlike that of the other runs.
    path: its folder.
    config: its own config, {} for a folder that only holds others.
    summary: its own, None while it is not finished.
    steps: the stages in it, in order; those to come too.
    problems: what could not be read.
    environment: what was recorded of where it ran.
  """

  name: str
  path: pathlib.Path
  config: Mapping[str, Any]
  summary: Mapping[str, Any] | None
  steps: tuple[Step, ...]
  problems: tuple[str, ...] = ()
  environment: Any = None

  def groups(self, *stages: str) -> dict[str, list[Step]]:
    """Label -> steps of these stages, one a seed, in order."""
    found: dict[str, list[Step]] = {}
    for step in self.steps:
      if step.stage in stages and step.started:
        found.setdefault(step.label, []).append(step)
    return found

  def finished(self) -> bool:
    """Whether the run and all its steps are."""
    own = self.summary is not None or not self.config
    return own and all(step.summary is not None for step in self.steps)


def load_all(paths: Sequence[str | os.PathLike[str]]) -> list[Run]:
  """The runs in these folders, each with a name of its own.

  Raises:
    FileNotFoundError: no such folder.
    ValueError: a folder that holds no run.
  """
  folders = [pathlib.Path(p).expanduser().absolute() for p in paths]
  folders = list(dict.fromkeys(folder.resolve() for folder in folders))
  return [
    load(folder, name)
    for folder, name in zip(folders, _names(folders), strict=True)
  ]


def load(folder: pathlib.Path, name: str) -> Run:
  """The run in `folder`; raises as `load_all`."""
  if not folder.is_dir():
    raise FileNotFoundError(f'{folder}: no such folder')
  problems: list[str] = []
  read = functools.partial(disk.attempt, problems)
  config = read(disk.read_json, folder / 'config.json') or {}
  steps = [
    _step(found, folder, name, read) for found in _find(folder, read, _DEPTH)
  ]
  steps += _missing(config, folder, {step.path for step in steps})
  if not steps:
    raise ValueError(
      f'{folder}: no run in this folder (a config.json with a stage in it); '
      'name the --workdir of a run, or a folder that holds some'
    )
  return Run(
    name=name,
    path=folder,
    config=config if 'stage' in config else {},
    summary=read(workdir_lib.finished, folder),
    steps=tuple(sorted(steps, key=_order(config))),
    problems=tuple(problems),
    environment=read(disk.read_json, folder / ENVIRONMENT_FILE),
  )


def numbers(steps: Iterable[Step]) -> dict[str, float]:
  """Means of the numbers in the summaries of finished steps (seeds).

  As a pipeline averages: `<key>_std` is the spread, where there are several.
  """
  summaries = [step.summary for step in steps if step.summary is not None]
  return average(summaries)


def average(summaries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """See `numbers`."""
  found: dict[str, float] = {}
  for key in summaries[0] if summaries else ():
    values = [s[key] for s in summaries if is_number(s.get(key))]
    if len(values) == len(summaries):
      found[key] = statistics.fmean(values)
      if len(values) > 1:
        found[f'{key}_std'] = statistics.pstdev(values)
  return found


# -- finding ------------------------------------------------------------------


def _find(folder, read: Callable, depth: int) -> Iterator[pathlib.Path]:
  """Folders of stages in `folder`, itself too."""
  config = read(disk.read_json, folder / 'config.json') or {}
  if config.get('stage', 'pipeline') != 'pipeline':
    yield folder
  if depth == 0:
    return
  for child in sorted(folder.iterdir()):
    hidden = child.name.startswith('.') or child.name in _NOT_RUNS
    if child.is_dir() and not child.is_symlink() and not hidden:
      yield from _find(child, read, depth - 1)


def _step(path: pathlib.Path, root: pathlib.Path, name: str, read) -> Step:
  relative = path.relative_to(root).as_posix()
  seconds = read(disk.read_json, path.parent / 'seconds.json') or {}
  error = path / 'error.txt'
  return Step(
    name=name if relative == '.' else relative,
    label=name if relative == '.' else _without_seed(relative),
    path=path,
    config=read(disk.read_json, path / 'config.json') or {},
    metrics=tuple(read(metrics_lib.read_metrics, path) or ()),
    summary=read(workdir_lib.finished, path),
    seconds=seconds.get(path.name) if relative != '.' else None,
    error=(read(disk.last_line, error) or '') if error.is_file() else '',
    environment=read(disk.read_json, path / ENVIRONMENT_FILE)
    if relative != '.'
    else None,
  )


def _missing(config: Mapping, folder: pathlib.Path, there) -> Iterator[Step]:
  """The steps of a pipeline that have no folder yet."""
  seeds = [f'seed_{seed}' for seed in config.get('seeds') or ()]
  blocks = config.get('steps')
  for seed in seeds or ['']:
    for name, block in blocks.items() if isinstance(blocks, dict) else ():
      path = folder / seed / name
      if path not in there:
        step = f'{seed}/{name}'.lstrip('/')
        yield Step(step, name, path, block, started=False)


def _order(config: Mapping[str, Any]):
  """Sort key: seed by seed, steps as their pipeline has them, then by name."""

  def key(step: Step):
    seed = step.name.removesuffix(step.label)
    steps = config.get('steps')
    if not steps:  # of the pipeline around the step
      steps = disk.read_quietly(step.path.parent / 'config.json').get('steps')
    places = {name: i for i, name in enumerate(steps or ())}
    place = places.get(step.path.name, len(places))
    # By length first, so that seed_10 comes after seed_2.
    return len(seed), seed, place, step.name

  return key


def _without_seed(name: str) -> str:
  parts = name.split('/')
  kept = [part for part in parts if not part.startswith('seed_')]
  return '/'.join(kept) or name


def _names(folders: Sequence[pathlib.Path]) -> list[str]:
  """The last part of each path, with as many before it as tell it apart."""

  def end(folder: pathlib.Path, depth: int) -> str:
    return '/'.join(folder.parts[-depth:]).replace('//', '/')

  names = []
  for folder in folders:
    depths = range(1, len(folder.parts) + 1)
    names.append(
      next(
        end(folder, depth)
        for depth in depths
        if [end(f, depth) for f in folders].count(end(folder, depth)) == 1
      )
    )
  return names
