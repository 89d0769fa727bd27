"""What one program takes, what a compiler says of it, and how long it is."""

import os

import jax
import jax.numpy as jnp
import pytest

from rlaif_jax import sharding
from rlaif_jax.plan import chips, compiling, context, hlo, report, work
from rlaif_jax.plan.chips import GIB

# As libtpu writes them.
_USED = (
  'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in '
  'memory space hbm. Used 22.50G of 15.75G hbm. Exceeded hbm capacity by 6.75G.'
)
_TEMPORARIES = (
  'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for '
  'HLO temporaries (537.5G) exceeds available HBM (15.75G)'
)


@pytest.mark.parametrize(
  'error, needed',
  [
    (_USED, 22.5 * GIB),
    (_TEMPORARIES, 540.5 * GIB),
    ('RESOURCE_EXHAUSTED: vmem', None),
  ],
)
def test_needed_bytes(error, needed):
  assert compiling.needed_bytes(error, 3 * GIB) == needed


def test_complaints_name_the_array():
  line = (
    'W1127 13:25 spmd_partitioner.cc:656] [SPMD] Involuntary full '
    'rematerialization. The compiler cannot go from sharding '
    '{devices=[1,4]<=[4] last} to {devices=[4,1]<=[4]} efficiently for HLO '
    'operation %gather.1 = f32[8,96]{1,0} gather(%a, %b), sharding={devices=[1'
  )
  found = compiling.complaints(f'{line}\nnothing\n{line}\n')
  assert found == (
    'gather.1 = f32[8,96]{1,0} from {devices=[1,4]<=[4] last} to '
    '{devices=[4,1]<=[4]}',
  )
  assert compiling.complaints('all is well') == ()


def test_captured_stderr_has_what_goes_past_python():
  with compiling.captured_stderr() as heard:
    os.write(2, b'from below\n')
  assert heard() == 'from below\n'


def program(mesh, rows=16):
  """y = x W with x's rows and W's rows sharded; 8 bytes stay beside it."""
  with jax.set_mesh(mesh):
    place = context.Context(mesh, {})
    x = place.rows(rows, 32, dtype=jnp.float32)
    w = jax.ShapeDtypeStruct(
      (32, 64), jnp.float32, sharding=sharding.named_sharding(mesh, 'embed')
    )
    extra = place.replicated(lambda: jnp.zeros((2,), jnp.float32))
  run = jax.jit(lambda w, x: jnp.tanh(x @ w))
  return context.Program(
    name='a/b',
    lower=lambda _: run.lower(w, x),
    params=w,
    optimizer=(),
    others=x,
    resident=(w, extra),
    work=work.Work(flops=8e9, executed=16e9, weight_reads=4e6, cache_reads=8e6),
  )


@pytest.mark.multidevice
def test_a_program_takes_what_its_arrays_take():
  mesh = sharding.make_mesh({'data': 2, 'fsdp': 4})
  chip = chips.Chip(1e12, 1e11, 1e10, GIB)
  result, compiled = compiling.compile_one(program(mesh), chip, mesh, {})
  memory = compiled.memory_analysis()
  assert result.params == 32 * 64 * 4 // 4
  assert result.others == 16 * 32 * 4 // 8
  assert result.params + result.others == memory.argument_size_in_bytes
  assert result.resident == 8  # w is an argument too
  assert result.temp >= 16 * 64 * 4 // 8  # the result
  assert result.peak == (
    result.params + result.others + result.temp + result.resident
  )
  assert result.fits and not result.error and result.complaints == ()
  assert result.collectives['all-gather'].count == 1
  small = chips.Chip(1e12, 1e11, 1e10, result.peak - 1)
  assert not compiling.compile_one(program(mesh), small, mesh, {})[0].fits


@pytest.mark.multidevice
@pytest.mark.parametrize(
  'chip, seconds, bound',
  [
    (chips.Chip(1e9, 1e12, 1e12, 1), 2.0, 'compute'),
    # Weights by tensor, cache by chips, arguments once.
    (chips.Chip(1e18, 1e6, 1e12, 1), 4e6 / 2e6 + 1 + 4608e-6, 'memory'),
    (chips.Chip(1e18, 1e18, 100.0, 1), 5.0, 'network'),
  ],
)
def test_roofline(chip, seconds, bound):
  mesh = sharding.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
  p = program(mesh)
  assert p.argument_bytes() == 32 * 64 * 4 // 2 + 16 * 32 * 4 // 4
  sent = {'all-gather': hlo.Collective(1, 300.0), 'x': hlo.Collective(2, 200.0)}
  found = compiling.roofline(p, chip, mesh, sent)
  assert found == (pytest.approx(seconds, rel=1e-3), bound)


def test_row():
  result = compiling.Result(
    name='rl/update', params=GIB, optimizer=GIB // 2, others=0, resident=GIB,
    limit=8 * GIB, work=work.Work(flops=2.5e15), temp=4 * GIB, peak=9 * GIB,
    collectives={
      'all-reduce': hlo.Collective(2, 1024.0**2),
      'all-gather': hlo.Collective(52, 3.5 * GIB),
    },
    seconds=0.1234, bound='network',
  )  # fmt: skip
  assert report.row(result) == (
    '| rl/update | 1.00 | 0.50 | 0.00 | 4.00 | 1.00 | 9.00 | **no** | 2,500 | '
    '52 AG 3.5 GiB, 2 AR 1 MiB | 123.4 ms (network) |'
  )
