"""One model on eight devices computes what it computes on one."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import models, sharding
from rlaif_jax.models import hf

pytestmark = pytest.mark.multidevice

MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2)]


@functools.partial(jax.jit, static_argnums=0)
def value_and_grad(model, params, tokens, mask):
  """Mean log-likelihood of the next tokens, with logits and gradients."""

  def loss(params):
    logits = model.apply(params, tokens, mask=mask).logits
    logprobs = jax.nn.log_softmax(logits[:, :-1])
    chosen = jnp.take_along_axis(logprobs, tokens[:, 1:, None], 2)[..., 0]
    return jnp.mean(jnp.where(mask[:, :-1], chosen, 0.0)), logits

  return jax.value_and_grad(loss, has_aux=True)(params)


@functools.partial(jax.jit, static_argnums=0)
def prefill(model, params, tokens, mask):
  cache = model.init_cache(tokens.shape[0], 20)
  return model.apply(params, tokens, mask=mask, cache=cache)


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(0)
  tokens = rng.integers(3, 64, (8, 12)).astype(np.int32)
  mask = np.ones((8, 12), bool)
  mask[:4, :5] = False
  return tokens, mask


def make_mesh(shape):
  return sharding.make_mesh(dict(zip(sharding.MESH_AXES, shape, strict=True)))


@pytest.mark.parametrize(
  ('name', 'shape'),
  [('llama', s) for s in MESHES]
  + [('gpt2', (1, 8, 1)), ('gpt2', (2, 2, 2)), ('gpt_neo', (2, 2, 2))],
)
def test_logits_and_gradients(load_checkpoint, batch, name, shape):
  fixture = load_checkpoint(name)
  expected = sharding.to_host(value_and_grad(*fixture.language_model, *batch))
  mesh = make_mesh(shape)
  with jax.set_mesh(mesh):
    model, params = hf.load(fixture.path, mesh=mesh)
    placed = sharding.shard_batch(batch, mesh)
    found = value_and_grad(model, params, *placed)
  (loss, logits), grads = found
  np.testing.assert_allclose(loss, expected[0][0], rtol=1e-5)
  np.testing.assert_allclose(logits, expected[0][1], atol=1e-4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, atol=1e-4 * max(np.abs(b).max(), 1e-3)
    ),
    sharding.to_host(grads),
    expected[1],
  )


@pytest.mark.parametrize('shape', [*MESHES, (1, 1, 8)], ids=str)
def test_cached_logits(load_checkpoint, batch, shape):
  fixture = load_checkpoint('llama')
  expected = np.asarray(prefill(*fixture.language_model, *batch).logits)
  mesh = make_mesh(shape)
  with jax.set_mesh(mesh):
    model, params = hf.load(fixture.path)
    out = prefill(model, params, *sharding.shard_batch(batch, mesh))
  np.testing.assert_allclose(out.logits, expected, atol=1e-4)
  rows = shape[0] * shape[1]
  kv_heads = 2 if shape[2] == 2 else 1  # 2 heads do not divide over 8
  shard = out.cache.keys.addressable_shards[0].data
  assert shard.size * rows * kv_heads == out.cache.keys.size


def test_one_device_is_the_same_code(load_checkpoint, batch):
  fixture = load_checkpoint('gpt2')
  mesh = sharding.make_mesh({'data': 1}, jax.devices()[:1])
  with jax.set_mesh(mesh):
    model, params = hf.load(fixture.path)
    (loss, _), _ = value_and_grad(
      model, params, *sharding.shard_batch(batch, mesh)
    )
  (expected, _), _ = value_and_grad(*fixture.language_model, *batch)
  assert float(loss) == pytest.approx(float(expected), rel=1e-6)


def test_constraints_are_in_the_program(load_checkpoint, batch):
  # They vanish without a word where a mesh is set in another way.
  fixture = load_checkpoint('llama')
  mesh = make_mesh((2, 2, 2))

  def count(model, params):
    lowered = value_and_grad.lower(model, params, *batch)
    return lowered.as_text().count('sdy.sharding_constraint')

  model, params = fixture.language_model
  assert count(model, params) == 0
  with jax.set_mesh(mesh):
    # Embedding, three projections, the MLP, the layer's end and the logits,
    # each with its gradient.
    assert count(*hf.load(fixture.path)) >= 2 * 7


def test_rules_reach_activations(load_checkpoint, batch):
  fixture = load_checkpoint('llama')
  mesh = make_mesh((2, 2, 2))
  with jax.set_mesh(mesh):
    model, params = hf.load(fixture.path, rules={'vocab': None})
    (_, logits), _ = value_and_grad(
      model, params, *sharding.shard_batch(batch, mesh)
    )
  assert logits.sharding.spec[2:] in ((), (None,))
  assert models.with_options(model, remat=True).rules == (('vocab', None),)


_COMPILE = """
import sys
import jax, numpy as np
jax.config.update('jax_num_cpu_devices', 8)
from rlaif_jax import models, sharding
from rlaif_jax.models import hf

def train(model, params):
  loss = lambda p, t: model.apply(p, t).logits.var()
  jax.jit(jax.value_and_grad(loss)).lower(params, tokens).compile()

def decode(model, params):
  step = lambda p, t, c: model.apply(p, t, cache=c)
  cache = model.init_cache(8, 16)
  jax.jit(step).lower(params, tokens[:, :1], cache).compile()

mesh = sharding.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
with jax.set_mesh(mesh):
  tokens = sharding.shard_batch(np.ones((8, 12), np.int32), mesh)
  for path in sys.argv[1:]:
    train(*hf.load(path))
  decode(*hf.load(path))
  print('BAD RULES', file=sys.stderr, flush=True)
  rules = {'embed_table': 'fsdp', 'vocab_table': 'tensor'}
  train(*hf.load(path, rules=rules))
"""


def test_no_involuntary_rematerialisation(load_checkpoint):
  paths = [str(load_checkpoint(n).path) for n in ('gpt2', 'llama')]
  done = subprocess.run(
    [sys.executable, '-c', _COMPILE, *paths],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'TF_CPP_MIN_LOG_LEVEL': '0'},
    check=False,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  ours, bad = done.stderr.split('BAD RULES')
  warning = 'Involuntary full rematerialization'
  assert warning not in ours
  # So the warning is heard; this rule is why tables have axes of their own.
  assert warning in bad
