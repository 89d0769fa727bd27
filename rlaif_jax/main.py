"""Command line: `python -m rlaif_jax.main --config=FILE --workdir=DIR`.

The only file that defines flags. Any field of the config can be set with
`--config.field=value`; unknown fields and wrong types end the program.
"""

import os
import pathlib
import re
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from rlaif_jax import host

_CONFIG = config_flags.DEFINE_config_file('config', lock_config=True)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder for everything the run writes; it resumes from it.'
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed',
  None,
  'Several processes: call jax.distributed.initialize(). By default only where '
  'the environment names them: JAX_NUM_PROCESSES, or a Slurm step of several.',
)

# What a person can mend: bad input, bad config, a workdir in use. Anything
# else is a fault of the program and keeps its traceback.
USER_ERRORS = (
  ValueError,
  FileNotFoundError,
  PermissionError,
  FloatingPointError,
  OSError,
)


_TRACEBACK = re.compile(r'Traceback \(most recent call last\):\n(?:[ ].*\n)*')

# What a flag can be wrong by, in the words of absl and ml_collections.
FLAG_ERRORS = (
  flags.Error,
  AttributeError,
  KeyError,
  TypeError,
  ValueError,
  OSError,
  SyntaxError,  # of a config file
  ImportError,
)


def _start_jax() -> None:
  """Process, distributed start-up, compile cache: before jax is used at all."""
  host.prepare()
  import jax

  options = distributed_options(_DISTRIBUTED.value, os.environ)
  if options is not None:
    jax.distributed.initialize(**options)
  cache = os.environ.get('JAX_COMPILATION_CACHE_DIR') or str(
    pathlib.Path.home() / '.cache' / 'rlaif_jax' / 'xla'
  )
  jax.config.update('jax_compilation_cache_dir', cache)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def distributed_options(
  wanted: bool | None, environ: Mapping[str, str]
) -> dict[str, Any] | None:
  """Arguments of jax.distributed.initialize(); None: one process alone.

  JAX_NUM_PROCESSES and JAX_PROCESS_ID come with JAX_COORDINATOR_ADDRESS, which
  jax reads itself. Without them jax asks Slurm, OpenMPI, GKE or the TPU.

  Raises:
    ValueError: one of the two is missing or no number.
  """
  if wanted is False:
    return None
  if 'JAX_NUM_PROCESSES' in environ:
    found = []
    for name in ('JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'):
      value = environ.get(name, '')
      if not value.isdecimal():
        raise ValueError(f'{name}={value!r} in the environment is no number')
      found.append(int(value))
    return dict(
      num_processes=found[0],
      process_id=found[1],
      cluster_detection_method='deactivate',
    )
  # Not SLURM_NTASKS: an interactive allocation sets it for a lone process too.
  tasks = environ.get('SLURM_STEP_NUM_TASKS', '1')
  return {} if wanted or int(tasks) > 1 else None


def _parse(argv):
  """Parses flags; what is wrong with them is one line, exit code 1."""
  try:
    return read_flags(argv, flags.FLAGS)
  except FLAG_ERRORS as error:
    print(f'error: {explain(error)}', file=sys.stderr)
    sys.exit(1)


def read_flags(argv, values: flags.FlagValues):
  """Parses `argv` into `values`; raises one of `FLAG_ERRORS`."""
  rest = values(argv)
  config = values['config'].value
  # A file that is not there, or is broken, fails at the first look inside.
  if config is not None and not isinstance(getattr(config, 'stage', 0), str):
    raise flags.Error(
      f'get_config() of {values["config"].config_filename} must return a '
      "ConfigDict with the field 'stage', as stages.load(NAME)."
      'default_config() does'
    )
  if len(rest) > 1:
    raise flags.Error(f'unexpected argument {rest[1]!r}; use --flag=value')
  return rest


def explain(error: BaseException) -> str:
  """What is wrong, in one line for the person at the terminal."""
  while error.args and isinstance(error.args[0], BaseException):
    error = error.args[0]  # config_flags wraps one error in another
  text = str(error) or type(error).__name__
  if isinstance(error, AttributeError) and 'get_config' in text:
    text = 'the config file has no function get_config()'
  elif isinstance(error, SyntaxError | ImportError):
    text = f'the config file cannot be read: {text}'
  elif isinstance(error, AttributeError | KeyError):
    # All that the parser says is the key and perhaps one that is like it.
    text = f'unknown config key {error.args[0]}' if error.args else text
  elif isinstance(error, TypeError):
    text = f'a --config.KEY does not fit the config: {text}'
  text = _TRACEBACK.sub('', text)  # of a config file
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  return '; '.join(lines).replace(':; ', ': ')


def _main(argv) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  try:
    _start_jax()
  except (ValueError, RuntimeError) as error:
    print(f'error: cannot start jax: {explain(error)}', file=sys.stderr)
    sys.exit(1)
  from rlaif_jax import stages

  try:
    config = _CONFIG.value
    stage = config.stage  # a config file that is not there raises here
  except OSError as error:
    print(f'error: {explain(error)}', file=sys.stderr)
    sys.exit(1)
  try:
    stages.load(stage).run(config, _WORKDIR.value)
  except USER_ERRORS as error:
    if config.debug:
      raise
    _fail(error)
  _error_file().unlink(missing_ok=True)  # of an earlier run


def _fail(error: BaseException) -> None:
  """One line for the person, the traceback to a file, exit code 1."""
  note = ''
  try:
    if not _WORKDIR.value.strip():
      raise FileNotFoundError('there is no folder to write to')
    log = _error_file()
    log.write_text(''.join(traceback.format_exception(error)))
    note = f' (traceback: {log})'
  except OSError:
    pass  # the workdir itself may be what is wrong
  print(f'error: {explain(error)}{note}', file=sys.stderr)
  sys.exit(1)


def _error_file() -> pathlib.Path:
  return pathlib.Path(_WORKDIR.value) / 'error.txt'


def main() -> None:
  """Entry point."""
  flags.mark_flags_as_required(['config', 'workdir'])
  sys.path.insert(0, os.getcwd())  # config files import configs.*
  app.run(_main, flags_parser=_parse)


if __name__ == '__main__':
  main()
