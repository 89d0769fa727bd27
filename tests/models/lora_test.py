import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import models, sharding
from rlaif_jax.models import Lora, heads, hf, lora, with_options
from rlaif_jax.models.config import PROJECTIONS

FAMILIES = ('llama', 'gpt2', 'gpt_neox', 'gemma2')


@pytest.fixture(scope='module', params=FAMILIES)
def base(request, load_checkpoint):
  return load_checkpoint(request.param)


def noisy(params, seed=0):
  """Every leaf moved at random; B is no longer 0."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: x + (0.1 * rng.normal(size=x.shape)).astype(x.dtype), params
  )


def moved(model, params):
  """The parameters after training, as it were."""
  frozen, trained = lora.split(model, params)
  return lora.join(frozen, noisy(trained))


def test_new_adapters_change_nothing_and_merged_ones_as_much(base, forward):
  tokens, mask = base.padded('right')
  plain, params = base.language_model
  before = np.asarray(forward(plain, params, tokens, mask).logits)[mask]
  key = jax.random.key(0)
  model, params = lora.attach(plain, params, Lora(4, alpha=8.0), key)
  new = forward(model, params, tokens, mask).logits
  np.testing.assert_array_equal(new[mask], before)
  params = moved(model, params)
  after = np.asarray(forward(model, params, tokens, mask).logits)[mask]
  assert np.abs(after - before).max() > before.std() / 2
  merged, kernels = lora.merge(model, params)
  assert merged == plain
  found = np.asarray(forward(merged, kernels, tokens, mask).logits)[mask]
  np.testing.assert_allclose(found, after, atol=1e-4 * after.std())


def test_an_adapter_by_hand():
  """The change of a kernel is A B * alpha / rank, in its own layer."""
  lora_config = Lora(2, alpha=6.0, targets=('out',))
  model = models.build(CONFIG)
  start = model.init(jax.random.key(0))
  model, params = lora.attach(model, start, lora_config, jax.random.key(1))
  params = moved(model, params)
  out = params['layers']['attention']['out']
  a, b = (np.asarray(out[name]) for name in ('lora_a', 'lora_b'))
  assert a.shape == (2, 2, 8, 2)  # L, H, h, R
  assert b.shape == (2, 2, 16)  # L, R, D
  merged = lora.merge(model, params)[1]['layers']['attention']['out']['kernel']
  for layer in range(2):
    change = 3.0 * np.einsum('Hhr,rD->HhD', a[layer], b[layer])
    before = start['layers']['attention']['out']['kernel'][layer]
    np.testing.assert_allclose(merged[layer] - before, change, atol=1e-6)


CONFIG = dict(
  model_type='llama',
  vocab_size=32,
  hidden_size=16,
  intermediate_size=24,
  num_hidden_layers=2,
  num_attention_heads=2,
)


@pytest.fixture(scope='module')
def adapted():
  """(model, parameters) of a random model with new adapters."""
  model = models.build(CONFIG)
  params = jax.jit(model.init)(jax.random.key(0))
  return lora.attach(model, params, Lora(4), jax.random.key(1))


def paths(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator='/')
    for path, _ in jax.tree_util.tree_leaves_with_path(tree)
  }


def test_only_adapters_are_trained(adapted):
  model, params = adapted
  frozen, trained = lora.split(model, params)
  assert len(paths(trained)) == 2 * len(PROJECTIONS)
  assert all('/lora_' in path for path in paths(trained))
  assert paths(frozen) | paths(trained) == paths(params)
  assert not any('/lora_' in path for path in paths(frozen))
  assert paths(lora.join(frozen, trained)) == paths(params)


def test_without_adapters_everything_is_trained(adapted):
  plain, params = lora.merge(*adapted)
  frozen, trained = lora.split(plain, params)
  assert frozen == {}
  jax.tree.map(np.testing.assert_array_equal, trained, params)
  assert lora.merge(plain, params) == (plain, params)
  assert lora.attach(plain, params, None, jax.random.key(0)) == (plain, params)


def test_a_head_is_trained_too(adapted):
  trunk, params = adapted
  model = heads.ScalarModel(trunk)
  params = model.init_from(params, jax.random.key(2))
  _, trained = lora.split(model, params)
  assert {p for p in paths(trained) if '/lora_' not in p} == {
    'head/bias',
    'head/kernel',
  }
  tokens = jnp.arange(6).reshape(2, 3)
  params = moved(model, params)
  merged, kernels = lora.merge(model, params)
  assert merged.config.lora is None
  np.testing.assert_allclose(
    merged.apply(kernels, tokens), model.apply(params, tokens), atol=1e-5
  )


def test_gradients_reach_the_adapters_alone(adapted):
  model, params = adapted
  frozen, trained = lora.split(model, params)
  tokens = jnp.arange(8).reshape(2, 4)

  def loss(params, batch, key):
    del key
    return jnp.square(model.apply(params, batch).logits).mean()

  grads = jax.grad(lora.joined(loss))(noisy(trained), tokens, None, frozen)
  assert paths(grads) == paths(trained)
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def test_axes_and_shapes_agree(adapted):
  model, params = adapted
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(
    lambda s: s.shape, model.abstract_params()
  )
  axes = model.param_axes()['layers']['attention']['query']
  assert axes['lora_a'] == ('layers', 'embed', 'lora')
  assert axes['lora_b'] == ('layers', 'lora', 'heads', 'head_dim')
  assert hash(model) != hash(with_options(model, lora=None))


def test_a_folder_of_the_model_cannot_hold_adapters(adapted, tmp_path):
  with pytest.raises(ValueError, match='merge them'):
    hf.save(tmp_path / 'model', *adapted)
  assert not (tmp_path / 'model').exists()


def test_half_precision_kernels(adapted):
  """Adapters stay float32; merged, the kernels are what they were."""
  model, params = adapted
  plain, params = lora.merge(model, params)
  plain = with_options(plain, dtype='bfloat16', param_dtype='bfloat16')
  params = jax.tree.map(lambda x: x.astype('bfloat16'), params)
  model, params = lora.attach(plain, params, Lora(4), jax.random.key(1))
  types = {str(x.dtype) for x in jax.tree.leaves(lora.adapters(params))}
  assert types == {'float32'}
  assert model.apply(params, jnp.ones((1, 3), int)).hidden.dtype == 'bfloat16'
  _, merged = lora.merge(model, moved(model, params))
  assert {str(x.dtype) for x in jax.tree.leaves(merged)} == {'bfloat16'}


@pytest.mark.multidevice
def test_adapters_are_split_as_their_kernels(load_checkpoint):
  path = load_checkpoint('llama').path
  mesh = sharding.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
  key = jax.random.key(0)
  with jax.set_mesh(mesh):
    model, params = lora.attach(*hf.load(path), Lora(4), key)
    merged = lora.merge(model, moved(model, params))[1]
  query = params['layers']['attention']['query']
  kernel = query['kernel'].sharding.spec
  a, b = (query[name].sharding.spec for name in ('lora_a', 'lora_b'))
  assert a[1] == kernel[1] == 'fsdp'
  assert b[2] == kernel[2] == 'tensor'
  model, alone = lora.attach(*hf.load(path), Lora(4), key)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), params, alone
  )
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5),
    merged,
    lora.merge(model, moved(model, alone))[1],
  )


def test_what_cannot_be_is_said(adapted, load_checkpoint):
  key = jax.random.key(0)
  with pytest.raises(ValueError, match='k_proj: there is no such projection'):
    Lora(4, targets=('query', 'k_proj'))
  with pytest.raises(ValueError, match='rank 0; it must be >= 1'):
    Lora(0)
  with pytest.raises(ValueError, match='has adapters already'):
    lora.attach(*adapted, Lora(4), key)
  gpt2 = load_checkpoint('gpt2').language_model
  with pytest.raises(ValueError, match='targets gate: gpt2 has no such'):
    lora.attach(*gpt2, Lora(4, targets=('gate',)), key)
  model, params = lora.attach(*gpt2, Lora(4, targets=('gate', 'key')), key)
  assert len(paths(lora.adapters(params))) == 2
  assert model.config.lora.targets == ('gate', 'key')
