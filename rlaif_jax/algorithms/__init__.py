"""Learning from scored samples or from pairs: one file is one algorithm.

A file here holds pure functions of arrays; models, sampling and rewards live
elsewhere. `load` finds it by its name. It defines

  Config   a frozen dataclass; its defaults run, and a value that is not
           allowed raises ValueError with those that are
  targets(rollout, *, scores [B], ref_logprobs [B, R], values [B, R], config)
           -> Targets(advantages, returns), detached, once for each rollout
  loss(logprobs [B, R], values [B, R], targets, rollout, config,
       *, ref_logprobs=None) -> (scalar, metrics), to be differentiated

where `values[:, t]` is the value of the state before response token t, and all
log-probabilities are taken at the sampling temperature. A response row that is
empty gives 0 everywhere.
"""

import importlib
import pathlib
import types


def names() -> tuple[str, ...]:
  """The algorithms there are, which is the files of this folder."""
  files = pathlib.Path(__file__).parent.glob('[!_]*.py')
  return tuple(sorted(file.stem for file in files))


def load(name: str) -> types.ModuleType:
  """The module of the algorithm called `name`.

  Raises:
    ValueError: if there is no such file, with those that there are.
  """
  if name not in names():
    raise ValueError(
      f'No algorithm {name!r}: found {", ".join(names())} in '
      f'{__name__.replace(".", "/")}/.'
    )
  return importlib.import_module(f'{__name__}.{name}')
