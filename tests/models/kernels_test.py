"""Attention kernels, interpreted or by their XLA stand-in, against ours."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from rlaif_jax import models, sharding
from rlaif_jax.models import hf, kernels, layers

NEO = dict(
  model_type='gpt_neo',
  vocab_size=32,
  hidden_size=16,
  num_layers=2,
  num_heads=2,
  attention_types=[[['local', 'global'], 1]],
  window_size=100,
  max_position_embeddings=512,
)


def abstract_mesh(platform):
  """A mesh of a platform that is not here."""
  device = AbstractDevice('chip', None, platform)
  types = (AxisType.Auto,) * 3
  return AbstractMesh(
    (2, 2, 2), sharding.MESH_AXES, types, abstract_device=device
  )


def value_and_grads(attend, batch, length, heads, groups, size):
  """(sum of weighted outputs, outputs), and gradients of all three inputs."""
  shapes = [(batch, length, n, size) for n in (heads, groups, groups, heads)]
  keys = jax.random.split(jax.random.key(0), 4)
  *inputs, weight = map(jax.random.normal, keys, shapes)

  def loss(*arrays):
    out = attend(*arrays)
    return jnp.mean(out * weight), out

  run = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
  return jax.jit(run)(*inputs)


def with_a_mask(length, window, **options):
  """`layers.attend`, with its mask written out."""
  ahead = np.arange(length)[:, None] - np.arange(length)
  allowed = (ahead >= 0) & (ahead < window)
  return functools.partial(layers.attend, allowed=allowed[None], **options)


@pytest.mark.parametrize(
  'length,window,softcap,groups',
  [
    (130, 9, 2.0, 1),
    pytest.param(7, 7, None, 2, marks=pytest.mark.slow),
    pytest.param(600, 600, None, 4, marks=pytest.mark.slow),
    pytest.param(600, 100, None, 2, marks=pytest.mark.slow),
  ],
)
def test_splash_equals_xla(length, window, softcap, groups):
  options = dict(scale=0.3, softcap=softcap)
  sight = kernels.Causal('splash', (window,)).within(jnp.array(window))
  splash = functools.partial(kernels.attend, sight=sight, **options)
  shape = (2, length, 4, groups, 8)
  chex.assert_trees_all_close(
    value_and_grads(splash, *shape),
    value_and_grads(with_a_mask(length, window, **options), *shape),
    rtol=2e-5,
    atol=2e-5,
  )


@pytest.mark.parametrize('window', [12, 5])
def test_what_cudnn_is_asked_for(monkeypatch, window):
  # The same call, but for who answers: there is no GPU here.
  xla = functools.partial(kernels._cudnn, implementation='xla')
  monkeypatch.setattr(kernels, '_cudnn', xla)
  sight = kernels.Causal('cudnn', (window,)).within(jnp.array(window))
  cudnn = functools.partial(kernels.attend, sight=sight, scale=0.3)
  shape = (2, 12, 4, 2, 8)
  chex.assert_trees_all_close(
    value_and_grads(cudnn, *shape),
    value_and_grads(with_a_mask(12, window, scale=0.3), *shape),
    rtol=2e-5,
    atol=2e-5,
  )


def padded_batch():
  """Rows that are padded left, right, in the middle, and nothing else."""
  tokens = np.random.default_rng(0).integers(3, 32, (8, 24)).astype(np.int32)
  mask = np.ones((8, 24), bool)
  mask[0, :5] = mask[1, 20:] = mask[2, 7:12] = mask[3] = False
  mask[4, [0, 6, 23]] = False
  return tokens, mask


@functools.partial(jax.jit, static_argnums=0)
def loss_and_grads(model, params, tokens, mask):
  def loss(params):
    logits = model.apply(params, tokens, mask=mask).logits
    logits = jnp.where(mask[..., None], logits, 0)
    return jnp.mean(jnp.square(logits)), logits

  return jax.value_and_grad(loss, has_aux=True)(params)


def assert_close(found, expected):
  """All leaves, relative to the largest of each."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, atol=2e-5 * max(np.abs(b).max(), 1e-2)
    ),
    sharding.to_host(found),
    sharding.to_host(expected),
  )


FAMILIES = ['gemma2', 'gemma3_text', 'gpt2_by_layer', 'gpt_neo', 'llama',
            'mistral', 'phi', 'qwen3']  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('name', FAMILIES)
def test_models_with_splash(load_checkpoint, name):
  model, params = load_checkpoint(name).language_model
  splash = models.with_options(model, attention='splash')
  batch = padded_batch()
  found = loss_and_grads(splash, params, *batch)
  assert_close(found, loss_and_grads(model, params, *batch))


@pytest.mark.slow
@pytest.mark.multidevice
@pytest.mark.parametrize('name', ['gpt_neo', 'llama'])
@pytest.mark.parametrize('shape', [(8, 1, 1), (2, 2, 2), (1, 2, 4)], ids=str)
def test_sharded_splash(load_checkpoint, name, shape):
  fixture = load_checkpoint(name)
  batch = padded_batch()
  expected = loss_and_grads(*fixture.language_model, *batch)
  sizes = dict(zip(sharding.MESH_AXES, shape, strict=True))
  mesh = sharding.make_mesh(sizes)
  with jax.set_mesh(mesh):
    model, params = hf.load(fixture.path, mesh=mesh)
    splash = models.with_options(model, attention='splash')
    placed = sharding.shard_batch(batch, mesh)
    assert_close(loss_and_grads(splash, params, *placed), expected)


@pytest.mark.multidevice
def test_each_shard_has_the_key_heads_of_its_queries(monkeypatch):
  # Twelve query heads share two key heads; 2, 3, 4 and 5 shards.
  xla = functools.partial(kernels._cudnn, implementation='xla')
  monkeypatch.setattr(kernels, '_cudnn', xla)
  sight = kernels.Causal('cudnn', (5,)).within(jnp.array(0))
  shape = (2, 5, 12, 8), (2, 5, 2, 8), (2, 5, 2, 8)
  inputs = [
    jax.random.normal(jax.random.key(i), s) for i, s in enumerate(shape)
  ]
  expected = kernels.attend(*inputs, sight, scale=0.3)
  for tensor in (2, 3, 4, 5):
    devices = jax.devices()[:tensor]
    mesh = sharding.make_mesh({'tensor': tensor}, devices)
    with jax.set_mesh(mesh):
      run = jax.jit(functools.partial(kernels.attend, scale=0.3))
      found = run(*jax.device_get(inputs), sight)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def chosen(platform, length=256, **options):
  """Name of the kernel that a model takes on a mesh of this platform."""
  model = models.build(NEO, **options)
  with jax.sharding.use_abstract_mesh(abstract_mesh(platform)):
    found = kernels.choose(model.config, length)
  return found and found.kernel


def test_the_mesh_chooses_the_kernel(monkeypatch):
  assert chosen('tpu') == 'splash'
  assert chosen('tpu', length=64) is None
  assert chosen('tpu', attention='xla') is None
  assert chosen('tpu', dtype='float16') is None
  assert chosen('cpu') is None
  assert chosen('cpu', attention='splash') == 'splash'
  assert chosen('gpu', dtype='bfloat16') is None  # there is no cuDNN here
  xla = functools.partial(kernels._cudnn, implementation='xla')
  monkeypatch.setattr(kernels, '_cudnn', xla)
  assert chosen('gpu', dtype='bfloat16') == 'cudnn'
  assert chosen('gpu', dtype='bfloat16', attention_softcap=5.0) is None


@pytest.mark.parametrize(
  'platform,options,says',
  [
    ('gpu', dict(attention='splash'), 'a kernel for TPUs, and this is a gpu'),
    ('tpu', dict(attention='splash', dtype='float16'), 'compute in float16'),
    ('tpu', dict(attention='cudnn'), 'cuDNN is for GPUs, and this is a tpu'),
    ('gpu', dict(attention='cudnn'), 'JAX says: cuDNN is not detected'),
    ('cpu', dict(attention='flash'), 'one of auto, xla, splash, cudnn'),
  ],
)
def test_a_kernel_that_cannot_is_an_error(platform, options, says):
  with pytest.raises(ValueError, match=says):
    chosen(platform, **options)


def test_bounds_of_layers():
  config = models.build(NEO).config
  assert config.windows == (100, 0)
  with jax.sharding.use_abstract_mesh(abstract_mesh('tpu')):
    assert kernels.choose(config, 256).bounds == (100, 256)
    assert kernels.choose(config, 128).bounds == (100, 128)
  # A window that no row fills bounds nothing, and one kernel does for all.
  splash = models.build(NEO, attention='splash').config
  sight = kernels.choose(splash, 90)
  assert sight.bounds == (90,)
  assert int(sight.within(jnp.array(100)).branch) == 0
  both = kernels.Causal('splash', (100, 256))
  branches = [int(both.within(jnp.array(w)).branch) for w in (100, 0)]
  assert branches == [0, 1]


def lowered(platform, run, **options):
  """Text of a tiny model's gradients, or prefill, for a platform."""
  model = models.build(NEO, **options)

  def grad(params, tokens, mask):
    return jax.grad(
      lambda p: model.apply(p, tokens, mask=mask, logits=False).hidden.sum()
    )(params)

  def prefill(params, tokens, mask):
    cache = model.init_cache(8, 260)
    return model.apply(params, tokens, mask=mask, cache=cache)

  shapes = [jax.ShapeDtypeStruct((8, 256), x) for x in (jnp.int32, bool)]
  fn = jax.jit(dict(grad=grad, prefill=prefill)[run])
  with jax.sharding.use_abstract_mesh(abstract_mesh(platform)):
    traced = fn.trace(model.abstract_params(), *shapes)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_splash_is_in_a_program_for_tpus_that_is_traced_on_a_cpu():
  text = lowered('tpu', 'grad')
  assert 'tpu_custom_call' in text
  assert '256x256' not in text  # nobody makes a mask, nor scores
  plain = lowered('tpu', 'grad', attention='xla')
  assert 'tpu_custom_call' not in plain
  assert '256x256' in plain


def test_a_cache_keeps_its_own_attention():
  text = lowered('tpu', 'prefill')
  assert text == lowered('tpu', 'prefill', attention='xla')


def test_on_cpu_nothing_changes():
  assert lowered('cpu', 'grad') == lowered('cpu', 'grad', attention='xla')
