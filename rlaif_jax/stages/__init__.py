"""Stages: the host loops, one file each.

A stage is a module with two functions:

  default_config() -> ConfigDict     every field, with its meaning
  run(config, workdir) -> None       does the work; calling it again resumes

`load(name)` finds a stage by its file name; there is no registry to edit.
"""

import importlib
import pathlib
import types


def names() -> list[str]:
  """Names of the stages: the public modules of this folder."""
  return sorted(
    path.stem
    for path in pathlib.Path(__file__).parent.glob('*.py')
    if not path.stem.startswith('_') and path.stem != 'common'
  )


def load(name: str) -> types.ModuleType:
  """Imports the stage `name`; ValueError lists what exists otherwise."""
  if name not in names():
    raise ValueError(
      f'config.stage={name!r} is not a stage; there are: {", ".join(names())}'
    )
  return importlib.import_module(f'rlaif_jax.stages.{name}')
