"""Compiles one program, and keeps what the compiler said of it."""

import contextlib
import dataclasses
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from rlaif_jax.plan import hlo
from rlaif_jax.plan.chips import GIB, Chip, Topology
from rlaif_jax.plan.context import Program, bytes_per_chip
from rlaif_jax.plan.work import Work

# What a compiler says when it gives up on a sharding and gathers everything.
_REMATERIALISED = re.compile(
  r'[Ii]nvoluntary full remat.*?from sharding (\{.*?\}) to (\{.*?\}) '
  r'efficiently for HLO operation %?(\S+ = \S+)'
)
_USED = re.compile(r'Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm')
_TEMPORARIES = re.compile(r'HLO temporaries \(([\d.]+)([KMGT])\) exceeds')
_UNITS = {'K': 2**10, 'M': 2**20, 'G': GIB, 'T': 2**40}


@dataclasses.dataclass(frozen=True)
class Result:
  """One program on each chip of a mesh; all sizes are bytes.

  Attributes:
    name: of the program.
    params: weights, trained and frozen.
    optimizer: state of optimisers.
    others: batch, cache and all other arguments.
    temp: activations, gradients and whatever else is made on the way.
    resident: what the stage holds in the same memory meanwhile.
    peak: all of these; None where the compiler found that they cannot be and
      did not say how much it is.
    limit: what there is.
    collectives: by kind, loops unrolled.
    work: of the whole mesh.
    seconds: an estimate of the time from below, see `roofline`.
    bound: what that time goes into.
    complaints: warnings about rematerialisation.
    error: of the compiler.
  """

  name: str
  params: int
  optimizer: int
  others: int
  resident: int
  limit: int
  work: Work
  temp: int | None = None
  peak: int | None = None
  collectives: Mapping[str, hlo.Collective] = dataclasses.field(
    default_factory=dict
  )
  seconds: float | None = None
  bound: str = ''
  complaints: tuple[str, ...] = ()
  error: str = ''

  @property
  def fits(self) -> bool:
    """Whether it compiled into what there is."""
    return not self.error and self.peak is not None and self.peak <= self.limit


def compile_all(
  programs: list[Program],
  topology: Topology,
  mesh: jax.sharding.Mesh,
  *,
  stop_early: bool = False,
  say: Callable[[str], None] = lambda text: None,
  show: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
  """Compiles programs in order.

  Args:
    programs: of this mesh.
    topology: the chips of the mesh.
    mesh: what they run on.
    stop_early: leave out what follows a program that does not fit.
    say: told how each program went, and how long that took.
    show: given each result as it comes.
  """
  results = []
  done: dict[str, dict[str, Any]] = {}
  for program in programs:
    step, _, short = program.name.rpartition('/')
    start = time.monotonic()
    result, compiled = compile_one(
      program, topology.chip, mesh, done.setdefault(step, {})
    )
    if compiled is not None:
      done[step][short] = compiled
    results.append(result)
    show(result)
    size = 'unknown' if result.peak is None else f'{result.peak / GIB:.2f} GiB'
    took = time.monotonic() - start
    say(f'{program.name}: {size} a chip ({took:.0f} s)')
    if stop_early and not result.fits:
      break
  return results


def compile_one(
  program: Program,
  chip: Chip,
  mesh: jax.sharding.Mesh,
  compiled: Mapping[str, Any],
) -> tuple[Result, Any]:
  """(what the compiler said, the executable or None)."""
  result = Result(
    name=program.name,
    params=bytes_per_chip(program.params),
    optimizer=bytes_per_chip(program.optimizer),
    others=program.argument_bytes()
    - bytes_per_chip(program.params, program.optimizer),
    resident=program.resident_bytes(),
    limit=chip.memory,
    work=program.work,
  )
  error = ''
  with captured_stderr() as heard, jax.set_mesh(mesh):
    try:
      executable = program.lower(compiled).compile()
    except jax.errors.JaxRuntimeError as e:
      error, executable = str(e), None
  result = dataclasses.replace(result, complaints=complaints(heard()))
  if executable is None:
    if 'RESOURCE_EXHAUSTED' not in error:
      raise ValueError(f'{program.name}: {error.splitlines()[0]}')
    needed = needed_bytes(error, program.argument_bytes())
    if needed is not None:
      needed += result.resident
    return dataclasses.replace(result, error='out of memory', peak=needed), None
  memory = executable.memory_analysis()
  new = memory.output_size_in_bytes - memory.alias_size_in_bytes
  temp = memory.temp_size_in_bytes + max(new, 0)
  collectives = hlo.collectives(executable.as_text())
  seconds, bound = roofline(program, chip, mesh, collectives)
  return dataclasses.replace(
    result,
    temp=temp,
    peak=memory.argument_size_in_bytes + temp + result.resident,
    collectives=collectives,
    seconds=seconds,
    bound=bound,
  ), executable


def roofline(
  program: Program,
  chip: Chip,
  mesh: jax.sharding.Mesh,
  collectives: Mapping[str, hlo.Collective],
) -> tuple[float, str]:
  """(seconds, what they go into): the slowest of three, each at its best.

  Arithmetic at the chip's peak; its memory read and written once for all
  arguments, and again for each pass over weights and cache; and what it sends
  at the speed of all of its links together. A real run takes longer: half of
  the peak is good for training.
  """
  count = mesh.devices.size
  traffic = (
    program.work.weight_reads / mesh.shape['tensor']
    + program.work.cache_reads / count
    + program.argument_bytes()
  )
  sent = sum(c.bytes for c in collectives.values())
  times = {
    'compute': program.work.executed / count / chip.flops,
    'memory': traffic / chip.bandwidth,
    'network': sent / chip.link,
  }
  bound = max(times, key=times.__getitem__)
  return times[bound], bound


def complaints(text: str) -> tuple[str, ...]:
  """Arrays that a compiler gathered whole to shard them otherwise."""
  found = _REMATERIALISED.findall(text)
  return tuple(
    dict.fromkeys(f'{array} from {old} to {new}' for old, new, array in found)
  )


def needed_bytes(error: str, arguments: int) -> int | None:
  """What a compiler that ran out of memory says it needs, arguments included.

  It counts them in one of its two messages, not in the one about temporaries.
  """
  if found := _USED.search(error):
    return int(float(found[1]) * _UNITS[found[2]])
  if found := _TEMPORARIES.search(error):
    return int(float(found[1]) * _UNITS[found[2]]) + arguments
  return None


@contextlib.contextmanager
def captured_stderr() -> Iterator[Any]:
  """Keeps what is written to file descriptor 2; yields a function giving it.

  Compilers write there past Python. The text is there after the block.
  """
  sys.stderr.flush()
  kept, text = os.dup(2), ['']
  with tempfile.TemporaryFile() as file:
    os.dup2(file.fileno(), 2)
    try:
      yield lambda: text[0]
    finally:
      sys.stderr.flush()
      os.dup2(kept, 2)
      os.close(kept)
      file.seek(0)
      text[0] = file.read().decode(errors='replace')
