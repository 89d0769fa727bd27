"""The table of a plan, as Markdown."""

from collections.abc import Sequence

import jax

from rlaif_jax.plan.chips import GIB, Topology
from rlaif_jax.plan.compiling import Result
from rlaif_jax.plan.search import Attempt

_COLUMNS = (
  'program',
  'params',
  'optimiser',
  'batch, cache',
  'activations',
  'resident',
  'peak',
  'fits',
  'model TFLOP',
  'sends a chip',
  'at least',
)
_SHORT = {
  'all-gather': 'AG',
  'all-reduce': 'AR',
  'reduce-scatter': 'RS',
  'all-to-all': 'A2A',
  'collective-permute': 'CP',
}


def heading(topology: Topology, mesh: jax.sharding.Mesh) -> str:
  """What the table is of, and its first lines."""
  shape = ', '.join(f'{k}={v}' for k, v in mesh.shape.items())
  limit = topology.chip.memory / GIB
  rule = ['---', *['---:'] * 6, '---', '---:', '---', '---']
  return '\n'.join(
    [
      f'{topology.name}, mesh {shape}; GiB a chip, of {limit:.2f}',
      '',
      _line(_COLUMNS),
      _line(rule),
    ]
  )


def row(r: Result) -> str:
  """One program: memory in GiB a chip, what it sends, and for how long."""
  tera = r.work.flops / 1e12
  return _line(
    (
      r.name,
      *map(_gib, (r.params, r.optimizer, r.others, r.temp, r.resident, r.peak)),
      'yes' if r.fits else '**no**',
      f'{tera:,.0f}' if tera >= 10 else f'{tera:.2g}',
      _collectives(r),
      '' if r.seconds is None else f'{_seconds(r.seconds)} ({r.bound})',
    )
  )


def complaints(results: Sequence[Result]) -> str:
  """Involuntary full rematerialisation, by program."""
  found = [f'{r.name}: {c.strip()}' for r in results for c in r.complaints]
  if not found:
    return 'No involuntary full rematerialisation.'
  return '\n'.join(['Involuntary full rematerialisation:', *found])


def attempts(found: Sequence[Attempt]) -> str:
  """What a search tried: meshes that fit first, the fastest on top."""
  fit = sorted((a for a in found if not a.reason), key=lambda a: a.seconds)
  lines = [
    '| data, fsdp, tensor | fits | largest peak | at least, in all |',
    '|---|---|---:|---:|',
  ]
  for a in [*fit, *(a for a in found if a.reason)]:
    peak = max((r.peak or 0 for r in a.results), default=0)
    lines.append(
      f'| {", ".join(map(str, a.shape))} | {a.reason or "yes"} | '
      f'{_gib(peak or None)} | '
      f'{"" if a.reason else _seconds(a.seconds)} |'
    )
  return '\n'.join(lines)


def _line(cells: Sequence[str]) -> str:
  return '| ' + ' | '.join(cells) + ' |'


def _gib(size: int | None) -> str:
  return '' if size is None else f'{size / GIB:.2f}'


def _collectives(result: Result) -> str:
  """Kind, count and bytes of each, the largest first."""
  found = sorted(result.collectives.items(), key=lambda item: -item[1].bytes)
  return ', '.join(
    f'{c.count} {_SHORT[kind]} {_bytes(c.bytes)}' for kind, c in found
  )


def _bytes(size: float) -> str:
  for unit, name in ((2**40, 'TiB'), (GIB, 'GiB'), (2**20, 'MiB')):
    if size >= unit:
      return f'{size / unit:.3g} {name}'
  return f'{size / 1024:.3g} KiB'


def _seconds(seconds: float) -> str:
  return f'{seconds:.2f} s' if seconds >= 1 else f'{1e3 * seconds:.1f} ms'
