"""Collectives by kind: from hand-made HLO text, and from a compiled program."""

import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rlaif_jax import sharding
from rlaif_jax.plan import hlo

# A loop of 3 turns that the compiler knows, in it one that counts to 10 by 2,
# and a gather that runs beside it: begun before it, with a part in each turn.
_PROGRAM = pathlib.Path(__file__).with_name('program.hlo').read_text()


def test_loops_groups_and_channels():
  assert hlo.collectives(_PROGRAM) == {
    'all-reduce': hlo.Collective(3, 3 * 2 * 400 * (1 / 2)),
    'collective-permute': hlo.Collective(15, 15 * 40.0),
    'all-gather': hlo.Collective(1, 256 * (3 / 4)),
    'reduce-scatter': hlo.Collective(2, 100 * 3.0 + 256 * (3 / 4)),
  }


@pytest.mark.parametrize(
  'text, size',
  [
    ('replica_groups=[4,8]<=[4,8]T(1,0)', 8),
    ('replica_groups={{0,2,4},{1,3,5}}', 3),
    ("replica_groups=mesh['a'=2,'b'=4,'c'=2] {'a','b'}", 8),
    ("replica_groups=mesh['a'=2,'b'=8], device_ids=([16]) {'b':(2)4}", 4),
    ('source_target_pairs={{0,1}}', 1),
  ],
)  # fmt: skip
def test_group_size(text, size):
  assert hlo._group_size(text) == size


@pytest.mark.parametrize(
  'shape, size',
  [
    ('f32[]', 4),
    ('bf16[3,5]{1,0:T(8,128)(2,1)S(1)}', 30),
    ('(s8[10]{0}, pred[2,2]{1,0}, /*index=2*/u32[])', 18),
    ('f8e4m3fn[7]{0}', 7),
    ('s4[6]{0}', 3),
  ],
)
def test_size(shape, size):
  assert hlo._size(shape) == size


@pytest.mark.multidevice
def test_of_a_compiled_program():
  # Rows over 8, a weight cut over 4 of them, 6 layers in a loop: each turn
  # gathers one layer's weight.
  mesh = sharding.make_mesh({'data': 2, 'fsdp': 4})

  def place(*axes):
    return NamedSharding(mesh, PartitionSpec(*axes))

  x = jax.ShapeDtypeStruct(
    (8, 16), jnp.float32, sharding=place(('data', 'fsdp'))
  )
  w = jax.ShapeDtypeStruct(
    (6, 16, 16), jnp.float32, sharding=place(None, 'fsdp')
  )

  def run(x, w):
    def layer(x, w):
      x = jnp.tanh(x @ w)
      return jax.lax.with_sharding_constraint(x, place(('data', 'fsdp'))), None

    return jax.lax.scan(layer, x, w)[0]

  with jax.set_mesh(mesh):
    text = jax.jit(run, out_shardings=x.sharding).lower(x, w).compile()
  found = hlo.collectives(text.as_text())
  sent = found.get('all-gather', hlo.Collective())
  assert sent.bytes == 6 * 16 * 16 * 4 * (3 / 4)
