"""What a policy cost: its own step and all before it, as they left it on disk.

A step's config names the runs that it started from, and theirs name others, so
the way back from a policy holds whatever was made for it: its labels, reward
models, samples and earlier rounds.
"""

import json
import pathlib
from collections.abc import Iterator

from rlaif_jax.rewards import LABELS, TOKENS
from rlaif_jax.stages import pipeline
from rlaif_jax.training import metrics
from rlaif_jax.training import workdir as workdir_lib


def of(path: str, without: str = '') -> dict[str, float]:
  """Cost of the policy at `path`, less what the one at `without` cost.

  Each run counts once, however often it was used.

  Returns:
    `labels`: pairs labelled, and verdicts that a labeler gave while policies
    learned or sampled. `labeler_tokens` read and written for them. `seconds`
    of steps of a pipeline. {} where there is no run.
  """
  runs = runs_before(path)
  for folder in runs_before(without):
    runs.pop(folder, None)
  parts = [_of_run(folder, config) for folder, config in runs.items()]
  keys = parts[0] if parts else ()
  return {key: sum(part[key] for part in parts) for key in keys}


def runs_before(path: str) -> dict[pathlib.Path, dict]:
  """Folder -> config of the run at `path` and of all that it started from."""
  found: dict[pathlib.Path, dict] = {}
  waiting = [path]
  while waiting:
    folder, config = _run_at(waiting.pop())
    if config and folder not in found:
      found[folder] = config
      waiting += [text for text in _texts(config) if '/' in text]
  return found


def _run_at(path: str) -> tuple[pathlib.Path, dict]:
  """(folder, config) of the run that a path lies in; {} if in none."""
  start = pathlib.Path(path or '.').expanduser().absolute()
  for folder in (start, *start.parents) if path and start.exists() else ():
    file = folder / 'config.json'
    if file.is_file():
      config = json.loads(file.read_text(encoding='utf-8'))
      # A model's folder has a config, too, but is no run.
      if 'stage' in config:
        return folder, config
  return start, {}


def _texts(value) -> Iterator[str]:
  """All texts in a config."""
  if isinstance(value, dict):
    value = list(value.values())
  if isinstance(value, list):
    for inner in value:
      yield from _texts(inner)
  elif isinstance(value, str):
    yield value


def _of_run(folder: pathlib.Path, config: dict) -> dict[str, float]:
  """What one run took."""
  summary = workdir_lib.finished(folder) or {}
  seconds = pipeline.read_seconds(folder.parent).get(folder.name, 0.0)
  labels = summary.get(LABELS, 0)
  tokens = summary.get(TOKENS, 0)
  if config['stage'] == 'label':
    labels = summary.get('pairs', 0)
    each = (summary.get(f'labeler/cost/tokens_{x}', 0) for x in ('in', 'out'))
    tokens = labels * sum(each)
  if config['stage'] == 'rl':
    rows = metrics.read_metrics(folder)
    labels, tokens = (sum(r.get(k, 0) for r in rows) for k in (LABELS, TOKENS))
  return {'labels': labels, 'labeler_tokens': tokens, 'seconds': seconds}
