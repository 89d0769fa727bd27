"""Several stages in order, from one config: the main job.

`config.steps` maps a name to a stage config; each runs in `workdir/<name>`.
A path `step:NAME` in a stage config stands for that folder, `step:NAME/FILE`
for what is in it, so later steps take what earlier ones left. With several
seeds the whole pipeline runs once per seed in `workdir/seed_<n>`, and the
summaries are averaged; a step's own seed is added to the pipeline's. Stopped at
any point and started again, it goes on where it was.
"""

import json
import pathlib
import statistics
import time
from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

from rlaif_jax import stages
from rlaif_jax.report import write as report
from rlaif_jax.stages import _options, _report, common
from rlaif_jax.training import workdir as workdir_lib

# Seconds that each finished step took, beside the steps' folders.
SECONDS_FILE = 'seconds.json'


def default_config() -> ConfigDict:
  """An empty pipeline; see configs/rlaif.py for a full one."""
  c = common.base_config('pipeline')
  c.seeds = ()  # run once per seed; () = once, with config.seed
  c.steps = ConfigDict()  # name -> stage config, in order
  return c


def run(config: ConfigDict, workdir) -> None:
  """Runs all steps (for all seeds) and shows the last step's table."""
  ignore = [f'steps.{n}.{k}' for n in config.steps for k in common.RUNTIME_KEYS]
  with common.open_run(
    config, workdir, ignore=(*common.RUNTIME_KEYS, *ignore)
  ) as root:
    new = workdir_lib.finished(root) is None
    check_steps(config)
    if not config.seeds:
      run_steps(config, root, config.seed)
    for seed in config.seeds:
      run_steps(config, root / f'seed_{seed}', seed)
    finish(config, root)
    if new:
      report.quietly(root)


def check_steps(config: ConfigDict) -> None:
  """Raises ValueError for a step that cannot be run, or needs a later one."""
  before = []
  for name, block in config.steps.items():
    stages.load(block.stage)
    _options.check_fields(block, f'config.steps.{name}')
    for key, wanted in _references(block.to_dict(), f'config.steps.{name}'):
      if wanted not in before:
        raise ValueError(
          f'{key}: step:{wanted} is no step before {name!r}; there are: '
          f'{", ".join(before) or "none"}'
        )
    before.append(name)
  if not before:
    raise ValueError('config.steps is empty: the pipeline has nothing to do')


def _references(value, key: str) -> Iterator[tuple[str, str]]:
  """(key, NAME) of every 'step:NAME' or 'step:NAME/FILE' below `value`."""
  if isinstance(value, dict):
    for name, inner in value.items():
      yield from _references(inner, f'{key}.{name}')
  elif isinstance(value, tuple | list):
    for inner in value:
      yield from _references(inner, key)
  elif isinstance(value, str) and value.startswith('step:'):
    yield key, value.removeprefix('step:').partition('/')[0]


def finish(config: ConfigDict, root: pathlib.Path) -> None:
  """Leaves the last step's summary in `root`, averaged over the seeds."""
  if jax.process_index():
    return
  last = list(config.steps)[-1]
  roots = [root / f'seed_{seed}' for seed in config.seeds] or [root]
  summaries = [workdir_lib.finished(folder / last) for folder in roots]
  seconds = sum(sum(read_seconds(folder).values()) for folder in roots)
  summary = average(summaries) if config.seeds else summaries[0]
  workdir_lib.finish(root, {**summary, 'time/seconds': seconds})
  if not config.seeds:
    return
  if config.steps[last].stage == 'evaluate':
    common.say('')
    _report.show(summary, title=f'mean of seeds {tuple(config.seeds)}')


def run_steps(config: ConfigDict, root: pathlib.Path, seed: int) -> None:
  """One pass over the steps in `root`."""
  for number, (name, block) in enumerate(config.steps.items(), 1):
    step = resolve_steps(block, root)
    step.seed += seed
    step.mesh = config.mesh
    common.say(f'[bold]{number}/{len(config.steps)} {name}[/bold]')
    new = workdir_lib.finished(root / name) is None
    start = time.monotonic()
    stages.load(step.stage).run(step, root / name)
    took = time.monotonic() - start
    if new:
      add_seconds(root, name, took)
    common.say(f'  {took:.0f} s')
    jax.clear_caches()


def add_seconds(root: pathlib.Path, name: str, seconds: float) -> None:
  """Notes what a step took; of one that was stopped, what its last run did."""
  if jax.process_index() == 0:
    found = {**read_seconds(root), name: round(seconds, 1)}
    workdir_lib.write_json_atomic(root / SECONDS_FILE, found)


def read_seconds(root: pathlib.Path) -> dict[str, float]:
  """Seconds of each step that has run in `root`."""
  file = root / SECONDS_FILE
  return json.loads(file.read_text()) if file.is_file() else {}


def resolve_steps(block: ConfigDict, root: pathlib.Path) -> ConfigDict:
  """Copy of a stage config with `step:NAME` replaced by its folder."""

  def resolve(value):
    if isinstance(value, dict):
      items = {k: resolve(v) for k, v in value.items()}
      return ConfigDict(items, sort_keys=False)
    if isinstance(value, tuple | list):
      return tuple(resolve(v) for v in value)
    if isinstance(value, str) and value.startswith('step:'):
      return str(root / value.removeprefix('step:'))
    return value

  return resolve(block.to_dict())


def average(summaries: list[dict]) -> dict:
  """Field-wise mean of nested summaries, with `<field>_std` beside it.

  Fields that not all of them have are left out, and so are lists that differ.
  """
  first, result = summaries[0], {}
  for key, value in first.items():
    if not all(key in s for s in summaries):
      continue
    values = [s[key] for s in summaries]
    if isinstance(value, dict):
      result[key] = average(values)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
      result[key] = statistics.fmean(values)
      result[f'{key}_std'] = statistics.pstdev(values)
    elif not isinstance(value, list) or values.count(value) == len(values):
      result[key] = value
  return result
