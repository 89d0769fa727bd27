"""Meshes that might do where the config's own does not fit."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
from ml_collections import ConfigDict

from rlaif_jax import sharding
from rlaif_jax.plan import compiling, programs
from rlaif_jax.plan.chips import Topology
from rlaif_jax.plan.compiling import Result

Shape = tuple[int, int, int]  # data, fsdp, tensor


@dataclasses.dataclass(frozen=True)
class Attempt:
  """One mesh that was tried.

  Attributes:
    shape: sizes of (data, fsdp, tensor).
    results: of programs, up to the first that does not fit.
    reason: why it could not be tried, or did not fit; '' if it fits.
  """

  shape: Shape
  results: Sequence[Result] = ()
  reason: str = ''

  @property
  def seconds(self) -> float:
    """Estimated time of all programs, each run once."""
    return sum(r.seconds or 0.0 for r in self.results)


def factorisations(count: int) -> list[Shape]:
  """All (data, fsdp, tensor) whose product is `count`."""
  divisors = [n for n in range(1, count + 1) if not count % n]
  return [
    (count // (fsdp * tensor), fsdp, tensor)
    for fsdp in divisors
    for tensor in divisors
    if not count % (fsdp * tensor)
  ]


def candidates(
  config: ConfigDict,
  topology: Topology,
  only: tuple[str, ...] = (),
  skip: Sequence[Shape] = (),
) -> Iterator[Attempt | tuple[Shape, jax.sharding.Mesh, list]]:
  """Meshes with their programs, the most promising first.

  Those that take least memory for what they hold come first, and of these
  those with least `tensor`. One that cannot be is an Attempt with its reason.
  """
  found = []
  for shape in factorisations(len(topology.devices)):
    if shape in skip:
      continue
    try:
      mesh = sharding.make_mesh(
        dict(zip(sharding.MESH_AXES, shape, strict=True)), topology.devices
      )
      known = programs.of_config(config, mesh, only)
    except (ValueError, NotImplementedError) as error:
      yield Attempt(shape, reason=str(error).splitlines()[0])
      continue
    held = max(p.argument_bytes() + p.resident_bytes() for p in known)
    if held > topology.chip.memory:
      yield Attempt(shape, reason='arguments alone do not fit')
      continue
    found.append((held, shape[2], shape, mesh, known))
  for _, _, shape, mesh, known in sorted(found, key=lambda f: f[:2]):
    yield shape, mesh, known


def search(
  config: ConfigDict,
  topology: Topology,
  only: tuple[str, ...] = (),
  *,
  wanted: int = 1,
  skip: Sequence[Shape] = (),
  first: Sequence[str] = (),
  say: Callable[[str], None] = lambda text: None,
) -> list[Attempt]:
  """Tries meshes until `wanted` of them fit.

  Args:
    config: of a stage or a pipeline.
    topology: what to compile for.
    only: as in `programs.of_config`.
    wanted: how many that fit are enough.
    skip: meshes that are known.
    first: programs to compile first, those that failed elsewhere.
    say: told what happens.
  """
  attempts = []
  for candidate in candidates(config, topology, only, skip):
    if isinstance(candidate, Attempt):
      attempts.append(candidate)
      continue
    shape, mesh, known = candidate
    say(f'trying mesh {shape}')
    known.sort(key=lambda p: p.name not in first)
    try:
      results = compiling.compile_all(
        known, topology, mesh, stop_early=True, say=say
      )
    except ValueError as error:
      attempts.append(Attempt(shape, reason=str(error).splitlines()[0]))
      continue
    last = results[-1]
    reason = '' if last.fits else f'{last.name} does not fit'
    attempts.append(Attempt(shape, results, reason))
    if sum(not a.reason for a in attempts) >= wanted:
      break
  return attempts
