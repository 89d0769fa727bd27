"""Frozen kernels in eight bits: what they hold, compute, weigh and become."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from rlaif_jax import sharding
from rlaif_jax.models import (
  Lora,
  heads,
  hf,
  int8,
  lora,
  weights,
  with_options,
)

FAMILIES = ('llama', 'gpt2', 'gemma2', 'gpt_neox', 'phi3', 'opt_350m')


@pytest.fixture(scope='module', params=FAMILIES)
def base(request, load_checkpoint):
  return load_checkpoint(request.param)


def moved(model, params):
  """The parameters after training, as it were: B is no longer 0."""
  frozen, trained = lora.split(model, params)
  rng = np.random.default_rng(0)
  trained = jax.tree.map(
    lambda x: x + np.float32(0.1) * rng.normal(size=x.shape).astype('f'),
    trained,
  )
  return lora.join(frozen, trained)


def num_bytes(tree):
  return sum(x.nbytes for x in jax.tree.leaves(tree))


def test_a_kernel_by_hand():
  kernel = jnp.array([[[1.0, 0.0, -2.0], [0.5, 0.0, 254.0]]])  # L, D, F
  q, scale = int8.pack(kernel, 1)
  assert q.dtype == 'int8'
  assert scale.dtype == 'float32'
  np.testing.assert_array_equal(q, [[[127, 0, -1], [64, 0, 127]]])
  np.testing.assert_allclose(scale, [[1 / 127, 1 / 127, 2.0]])
  found = int8.unpack(q, scale)
  np.testing.assert_allclose(found[0, :, 2], [-2, 254])
  np.testing.assert_array_equal(found[0, :, 1], 0)


def test_no_weight_is_off_by_more_than_half_a_step(base):
  _, whole = base.language_model
  model, params = hf.load(base.path, dtype='int8')
  assert model.config.int8
  leaves = weights.flatten(params)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
    lambda x: (x.shape, x.dtype), model.abstract_params()
  )
  expected = weights.flatten(whole)
  scales = {k.removesuffix(int8.SCALE) for k in leaves if int8.SCALE in k}
  assert scales == {
    k.removesuffix('kernel')
    for k in expected
    if k.startswith('layers/') and k.endswith('/kernel')
  }
  for owner in scales:
    q, scale = leaves[f'{owner}kernel'], leaves[f'{owner}{int8.SCALE}']
    off = jnp.abs(int8.unpack(q, scale) - expected[f'{owner}kernel'])
    axes = tuple(range(1, 1 + q.ndim - scale.ndim))
    assert jnp.all(off <= jnp.expand_dims(scale, axes) * (0.5 + 1e-3))
    assert jnp.abs(q).max() == 127
  assert {str(v.dtype) for k, v in leaves.items() if '/kernel' not in k} == {
    'bfloat16'
  }


def test_logits_are_close_and_memory_is_a_quarter(base, forward):
  """Of the layers' kernels; the bytes beside them are the scales."""
  tokens, mask = base.padded('left')
  model, params = base.language_model
  expected = np.asarray(forward(model, params, tokens, mask).logits)[mask]
  packed, small = hf.load(base.path, dtype='int8')
  found = np.asarray(forward(packed, small, tokens, mask).logits)[mask]
  off = np.sqrt(np.mean(np.square(found - expected))) / expected.std()
  assert 0 < off < 0.03
  ratio = num_bytes(small['layers']) / num_bytes(params['layers'])
  assert ratio < 0.3
  _, half = hf.load(base.path, dtype='bfloat16')
  assert num_bytes(small['layers']) < 0.6 * num_bytes(half['layers'])


def test_merged_equals_unmerged_and_loads(base, forward, tmp_path):
  tokens, mask = base.padded('right')
  model, params = hf.load(base.path, dtype='int8')
  start = np.asarray(forward(model, params, tokens, mask).logits)[mask]
  key = jax.random.key(0)
  adapted, params = lora.attach(model, params, Lora(4, alpha=8.0), key)
  new = forward(adapted, params, tokens, mask).logits
  np.testing.assert_allclose(new[mask], start, atol=1e-5 * start.std())
  # All but the kernels in float32, so that what is merged is not rounded.
  params = jax.tree.map(
    lambda x: x.astype('float32') if x.dtype == 'bfloat16' else x,
    moved(adapted, params),
  )
  after = np.asarray(forward(adapted, params, tokens, mask).logits)[mask]
  assert np.abs(after - start).max() > start.std() / 2
  merged, kernels = lora.merge(adapted, params)
  assert not merged.config.int8
  assert {str(x.dtype) for x in jax.tree.leaves(kernels)} == {'float32'}
  found = np.asarray(forward(merged, kernels, tokens, mask).logits)[mask]
  np.testing.assert_allclose(found, after, atol=1e-4 * after.std())
  hf.save(tmp_path, merged, kernels)
  again = forward(*hf.load(tmp_path), tokens, mask).logits
  np.testing.assert_array_equal(np.asarray(again)[mask], found)


def test_without_adapters_it_can_be_merged_but_not_saved(
  load_checkpoint, tmp_path
):
  model, params = hf.load(load_checkpoint('llama').path, dtype='int8')
  with pytest.raises(ValueError, match='int8 kernels; merge them'):
    hf.save(tmp_path, model, params)
  merged, kernels = lora.merge(model, params)
  assert {str(x.dtype) for x in jax.tree.leaves(kernels)} == {'bfloat16'}
  hf.save(tmp_path, merged, kernels)


def test_gradients_reach_the_adapters_and_the_head(load_checkpoint):
  model, params = hf.load(load_checkpoint('llama').path, dtype='int8')
  model, params = lora.attach(model, params, Lora(2), jax.random.key(0))
  model = heads.ScalarModel(model)
  params = model.init_from(params, jax.random.key(1))
  frozen, trained = lora.split(model, moved(model, params))
  kinds = {k.rpartition('/')[2] for k in weights.flatten(trained)}
  assert kinds == {'lora_a', 'lora_b', 'kernel', 'bias'}

  def loss(params, tokens, key):
    del key
    return jnp.square(model.apply(params, tokens)).sum()

  tokens = jnp.arange(8).reshape(2, 4)
  grads = jax.grad(lora.joined(loss))(trained, tokens, None, frozen)
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def test_a_new_one_is_as_large_as_any(load_checkpoint):
  """Random kernels have the size that float ones begin with."""
  model = load_checkpoint('llama').language_model[0]
  plain = model.init(jax.random.key(0))
  packed = with_options(model, int8=True)
  _, params = lora.merge(packed, packed.init(jax.random.key(0)))
  for branch in ('attention', 'mlp'):
    for name, projection in plain['layers'][branch].items():
      found = params['layers'][branch][name]['kernel']
      expected = float(np.std(projection['kernel']))
      assert float(np.std(found)) == pytest.approx(expected, rel=0.1)


@pytest.mark.multidevice
def test_scales_are_split_as_their_kernels(base):
  mesh = sharding.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
  model, params = hf.load(base.path, dtype='int8', mesh=mesh)
  where = sharding.shardings(model.param_axes(), params, mesh)
  jax.tree.map(
    lambda p, w: p.sharding == w or pytest.fail(str(p.sharding)), params, where
  )
  up = params['layers']['mlp']['up']
  assert up['kernel'].sharding.spec == P(None, 'fsdp', 'tensor')
  assert up[int8.SCALE].sharding.spec == P(None, 'tensor')
  _, alone = hf.load(base.path, dtype='int8')
  jax.tree.map(np.testing.assert_array_equal, params, alone)
