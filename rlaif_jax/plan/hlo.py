"""Collectives of a compiled program, read from its HLO text."""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)
_BITS = {'pred': 8, 'token': 0, 'tuple': 0}

_COMPUTATION = re.compile(r'^\s*(ENTRY\s+)?%?([\w.\-]+)\s.*\{\s*$')
_INSTRUCTION = re.compile(r'^\s*(?:ROOT\s+)?%?([\w.\-]+)\s*=\s*(.*)$')
_OPCODE = re.compile(r'\s([a-z][\w\-]*)\(')
_ARRAY = re.compile(r'([a-z]+\d*\w*)\[([\d,]*)\]')
_NAME = re.compile(r'%([\w.\-]+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_INDEX = re.compile(r'get-tuple-element\(.*index=(\d+)')
_CONSTANT = re.compile(r'[su]32\[\]\S*\s+constant\((\d+)\)')
# What an instruction runs: async starts, fusions, calls, loops, branches. Not
# `to_apply`, which is a reduction's or a sort's.
_CALLS = re.compile(
  r'(calls|body|condition|true_computation|false_computation)=%?([\w.\-]+)'
)
_APPLIED = re.compile(r'to_apply=%?([\w.\-]+)')
_CHANNEL = re.compile(r'channel_id=(\d+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')


@dataclasses.dataclass(frozen=True)
class Collective:
  """All collectives of one kind in one run of a program, on one chip.

  Attributes:
    count: how often they run, each turn of a loop counted.
    bytes: that the chip sends, in the best way there is around a ring.
  """

  count: int = 0
  bytes: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Instruction:
  name: str
  opcode: str
  size: float  # bytes of the result
  operands: tuple[str, ...]
  text: str
  home: str  # the computation that it is in


class _Computations(NamedTuple):
  """A program: bodies by name, and all instructions by name."""

  bodies: dict[str, list[_Instruction]]
  by_name: dict[str, _Instruction]

  def text(self, name: str) -> str:
    """What defines a name; '' where nothing does."""
    found = self.by_name.get(name)
    return found.text if found else ''


def collectives(text: str) -> dict[str, Collective]:
  """Collectives by kind; kinds that do not occur are left out.

  A loop's body counts as often as the compiler knows it to run, else as often
  as the largest number in its condition says, over what a turn adds to the
  counter. For decoding that is the longest response.
  """
  computations, entry = _parse(text)
  # One that runs beside other work is written once for each part of that work,
  # in fusions, with the same channel; some of them may be in a loop.
  times: dict[str, tuple[int, _Instruction]] = {}
  for instruction, count in _walk(computations, entry, 1):
    if instruction.opcode.removesuffix('-start') in KINDS:
      channel = _CHANNEL.search(instruction.text)
      key = channel[1] if channel else instruction.name
      if key not in times or count < times[key][0]:
        times[key] = count, instruction
  found: dict[str, Collective] = {}
  for count, instruction in times.values():
    kind = instruction.opcode.removesuffix('-start')
    sent = _sent(kind, _result_size(instruction, computations), instruction)
    if instruction.home.startswith('all-reduce-scatter'):
      # A TPU's: the sum, and taking one's part of it, in one.
      kind, sent = 'reduce-scatter', sent / 2
    before = found.get(kind, Collective())
    found[kind] = Collective(before.count + count, before.bytes + count * sent)
  return found


def _sent(kind: str, size: float, instruction: _Instruction) -> float:
  """Bytes that a chip sends for a result of `size` bytes."""
  group = _group_size(instruction.text)
  return (
    size
    * {
      'all-gather': (group - 1) / group,
      'all-reduce': 2 * (group - 1) / group,
      'reduce-scatter': group - 1,
      'all-to-all': (group - 1) / group,
      'collective-permute': 1,
    }[kind]
  )


def _result_size(instruction: _Instruction, computations) -> float:
  """Bytes of the result; a start's tuple holds what is given, too.

  An all-reduce's does not.
  """
  size = instruction.size
  kind, _, start = instruction.opcode.rpartition('-')
  if start == 'start' and kind != 'all-reduce':
    given = [computations.by_name.get(n) for n in instruction.operands]
    size -= sum(g.size for g in given if g is not None)
  return size


def _group_size(text: str) -> int:
  """Devices in each group of an instruction.

  They are written as [groups,size]<=[n], as {{0,1},{2,3}}, or as the axes of a
  mesh: mesh['a'=4,'b'=2] {'b'}, where 'a':(2)2 is a part of an axis.
  """
  if found := re.search(r'replica_groups=\[(\d+),(\d+)\]', text):
    return int(found[2])
  if found := re.search(r'replica_groups=\{\{([\d,]+)\}', text):
    return len(found[1].split(','))
  if found := re.search(r'replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}', text):
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
    parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", found[2])
    return math.prod(int(part or sizes[name]) for name, part in parts)
  return 1


def _walk(
  computations: _Computations, name: str, times: int
) -> Iterator[tuple[_Instruction, int]]:
  """(instruction, how often it runs) of all that is below a computation."""
  for instruction in computations.bodies.get(name, ()):
    yield instruction, times
    if instruction.opcode in ('async-update', 'async-done'):
      continue  # they name what the start has run
    turns = 1
    called = [m[2] for m in _CALLS.finditer(instruction.text)]
    if instruction.opcode == 'call':
      called += _APPLIED.findall(instruction.text)
    for branches in _BRANCHES.findall(instruction.text):
      called += _NAME.findall(branches)
    if instruction.opcode == 'while':
      turns = _trip_count(computations, instruction.text)
    for other in called:
      yield from _walk(computations, other, times * turns)


def _trip_count(computations: _Computations, text: str) -> int:
  """How often a loop's body runs, as far as its text says."""
  if found := _TRIPS.search(text):
    return int(found[1])
  places = {m[1]: m[2] for m in _CALLS.finditer(text)}
  numbers = [
    int(n)
    for instruction, _ in _walk(computations, places['condition'], 1)
    for n in _CONSTANT.findall(instruction.text)
  ]
  step = _step(computations, places['condition'], places['body'])
  return -(-max(numbers, default=1) // step)


def _step(computations: _Computations, condition: str, body: str) -> int:
  """What a loop's body adds to the counter that its condition compares.

  Compilers unroll loops: two turns in one body. 1 where it cannot be told.
  """
  compare, given = computations.bodies[condition][-1], None
  for name in compare.operands:
    given = given or _INDEX.search(computations.text(name))
  root = computations.bodies[body][-1]
  if given is None or int(given[1]) >= len(root.operands):
    return 1
  update = computations.by_name.get(root.operands[int(given[1])])
  if update is None or update.opcode != 'add':
    return 1
  for name in update.operands:
    if found := _CONSTANT.search(computations.text(name)):
      return max(int(found[1]), 1)
  return 1


def _parse(text: str) -> tuple[_Computations, str]:
  """(computations, name of the one that is entered)."""
  computations = _Computations({}, {})
  entry, home, current = '', '', None
  for line in text.splitlines():
    if current is None:
      if header := _COMPUTATION.match(line):
        home = header[2]
        current = computations.bodies.setdefault(home, [])
        entry = home if header[1] else entry
    elif line.strip() == '}':
      current = None
    elif (found := _INSTRUCTION.match(line)) and (
      opcode := _OPCODE.search(f' {found[2]}')
    ):
      rest = f' {found[2]}'
      arguments = _arguments(rest[opcode.end() :])
      current.append(
        _Instruction(
          found[1],
          opcode[1],
          _size(rest[: opcode.start()]),
          tuple(_NAME.findall(arguments)),
          rest,
          home,
        )
      )
      computations.by_name[found[1]] = current[-1]
  return computations, entry


def _arguments(text: str) -> str:
  """What is left of the parenthesis that closes."""
  depth = 1
  for at, letter in enumerate(text):
    depth += {'(': 1, ')': -1}.get(letter, 0)
    if not depth:
      return text[:at]
  return text


def _size(shape: str) -> float:
  """Bytes of an HLO shape such as bf16[8,128]{1,0}, or of a tuple of them."""
  total = 0.0
  for dtype, sizes in _ARRAY.findall(shape):
    bits = _BITS.get(dtype)
    if bits is None:
      number = re.search(r'\d+', dtype)
      bits = int(number[0]) if number else 32
    total += bits / 8 * math.prod(int(n) for n in sizes.split(',') if n)
  return total
