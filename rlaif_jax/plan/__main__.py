"""Plans a run for chips that are not there: memory, collectives, time.

  python -m rlaif_jax.plan --config=FILE --topology=NAME [--only=NAMES]
    [--search=N] [--quick] [--config.field=value ...]

  --topology  v5e:4x4, v5p:2x2x4, v6e:8x8, v5e:4x4@2 (two slices; the time of
              the network between them is not in the estimate), h200:8,
              h200:2x8 (hosts x GPUs)
  --only      steps or programs, separated by commas: sft, label, reward, rl,
              'rl/update', ...; default all
  --search    how many meshes that fit to look for where the config's does not
              (0: none; with -1 the config's is not tried, and all are)
  --quick     compile with optimisations off, five times as fast: memory and
              collectives are then some tens of percent off

The config is that of a run: a stage or a pipeline of stages. Its model paths
may be Hugging Face folders without weights (config.json alone), or names of
shapes: gemma2_2b, gemma2_9b, llama3_8b, qwen3_8b. No weight is ever made, so
the machine needs a few GB of memory and minutes. Compiling for TPUs and GPUs
needs the extra: pip install -e .[aot]

Exit code 0: everything fits; 3: something does not; 1: the plan itself failed.
"""

import os
import sys
from typing import NoReturn

import jax
from absl import app, flags
from ml_collections import config_flags

from rlaif_jax.plan import chips

_CONFIG = config_flags.DEFINE_config_file('config', lock_config=True)
_TOPOLOGY = flags.DEFINE_string('topology', None, 'What to compile for.')
_ONLY = flags.DEFINE_list('only', [], 'Steps or programs; default all.')
_QUICK = flags.DEFINE_bool('quick', False, 'Optimisations off.')
_SEARCH = flags.DEFINE_integer('search', 1, 'Meshes to look for.')

DOES_NOT_FIT = 3

# What a flag can be wrong by, in the words of absl and ml_collections.
_FLAG_ERRORS = (
  flags.Error,
  AttributeError,
  KeyError,
  TypeError,
  ValueError,
  OSError,
  SyntaxError,  # of a config file
  ImportError,
)


def plan(config, topology: chips.Topology, only=(), wanted: int = 1) -> bool:
  """Prints the plan; returns whether some mesh, or the config's own, fits."""
  from rlaif_jax import sharding
  from rlaif_jax.plan import compiling, programs, report, search

  say = _note
  skip, failed, fits = [], [], True
  if wanted >= 0:
    mesh = sharding.make_mesh(config.mesh.to_dict(), topology.devices)
    known = programs.of_config(config, mesh, only)
    print(report.heading(topology, mesh), flush=True)
    results = compiling.compile_all(
      known,
      topology,
      mesh,
      say=say,
      show=lambda result: print(report.row(result), flush=True),
    )
    print(f'\n{report.complaints(results)}', flush=True)
    failed = [r.name for r in results if not r.fits]
    skip = [tuple(mesh.shape.values())]
    fits = not failed
  if wanted < 0 or (failed and wanted):
    found = search.search(
      config,
      topology,
      only,
      wanted=wanted if wanted > 0 else len(topology.devices) ** 2,
      skip=skip,
      first=failed,
      say=say,
    )
    print(f'\nOther meshes:\n\n{report.attempts(found)}')
    fits = wanted < 0 and any(not a.reason for a in found)
  return fits


def _parse(argv):
  """Parses flags; what is wrong with them is one line, exit code 1."""
  try:
    return flags.FLAGS(argv)
  except _FLAG_ERRORS as error:
    unknown = isinstance(error, AttributeError | KeyError)
    _fail(error, 'unknown config key: ' if unknown else '')


def _fail(error: BaseException, before: str = '') -> NoReturn:
  """One line for the person, exit code 1."""
  text = ' '.join(str(error).split()) or type(error).__name__
  print(f'error: {before}{text}', file=sys.stderr)
  sys.exit(1)


def _note(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


def _main(argv) -> None:
  del argv
  if _QUICK.value:
    jax.config.update('jax_optimization_level', 'O0')
  try:
    config = _CONFIG.value
    topology = chips.load(_TOPOLOGY.value)
    fits = plan(config, topology, tuple(_ONLY.value), _SEARCH.value)
  except (ValueError, OSError, ImportError) as error:
    _fail(error)
  sys.exit(0 if fits else DOES_NOT_FIT)


def main() -> None:
  """Entry point."""
  chips.prepare()
  flags.mark_flags_as_required(['config', 'topology'])
  sys.path.insert(0, os.getcwd())  # config files import configs.*
  app.run(_main, flags_parser=_parse)


if __name__ == '__main__':
  main()
