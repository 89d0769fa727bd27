"""Learning from scored samples or from pairs: one file is one algorithm.

A file here holds pure functions of arrays; models, sampling and rewards live
elsewhere. `load` finds it by its name. It defines

  NEEDS_VALUE  whether it has a value model; where not, `values` are 0
  ON_POLICY    True: a batch of samples gives one update, and targets are taken
               in it, from what the models say then (one forward serves both).
               False: targets are taken once for the whole batch, from the
               log-probabilities as sampled; then come updates on parts of it
  Config       a frozen dataclass; its defaults run, and a value that is not
               allowed raises ValueError with those that are. `group_size`,
               `inner_epochs` and `num_minibatches`, where it has them, tell
               the stage how to sample and how often to update: see `count`
  targets(rollout, *, scores [B], ref_logprobs [B, R], values [B, R], config)
               -> Targets(advantages, returns), detached, all leaves [B, ...]
  loss(logprobs [B, R], values [B, R], targets, rollout, config,
       *, ref_logprobs=None, scores=None, entropy=None)
               -> (scalar, metrics), to be differentiated

and, where it is not ON_POLICY,

  observe(rollout, *, scores, ref_logprobs, config) -> (state, metrics)
               what the whole batch was worth, before it is learned from

One that carries something from batch to batch also has init_state(config) ->
a pytree of arrays; then `targets` and `observe` take `state=`, and what
`observe` returns is the next one. Without it the state is {}.

`values[:, t]` is the value of the state before response token t, and all
log-probabilities are taken at the sampling temperature. A response row that is
empty gives 0 everywhere. The rows of a group, samples of one prompt, are beside
each other. A `weight` among a loss's metrics is what its mean was over (see
core/losses.reduction_weight).
"""

import importlib
import pathlib
import types
from typing import Any


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


def count(config: Any, name: str) -> int:
  """`group_size`, `inner_epochs` or `num_minibatches` of a Config.

  1 where it has no such field: samples of a prompt, passes over a batch of
  samples, parts of the batch with an update each.
  """
  return getattr(config, name, 1)
