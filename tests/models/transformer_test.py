"""The shared decoder: what holds for every family."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import models, sharding
from rlaif_jax.inference import score
from rlaif_jax.models import layers

LLAMA = dict(
  model_type='llama',
  vocab_size=32,
  hidden_size=16,
  intermediate_size=24,
  num_hidden_layers=2,
  num_attention_heads=4,
  num_key_value_heads=2,
)
GPT_NEO = dict(
  model_type='gpt_neo',
  vocab_size=32,
  hidden_size=16,
  num_layers=2,
  num_heads=2,
  attention_types=[[['local'], 2]],
  window_size=3,
  max_position_embeddings=16,
)


@pytest.fixture(scope='module')
def llama():
  model = models.build(LLAMA)
  return model, jax.jit(model.init)(jax.random.key(0))


@pytest.fixture(scope='module')
def tokens():
  return np.random.default_rng(0).integers(0, 32, (2, 8)).astype(np.int32)


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, tokens, kwargs):
  return model.apply(params, tokens, **kwargs)


def logits_of(model, params, tokens, **kwargs):
  return np.asarray(apply(model, params, tokens, kwargs).logits)


@pytest.mark.parametrize('config', [LLAMA, GPT_NEO])
def test_written_out_layers_train_as_in_a_loop(config, tokens):
  model = models.build(config)
  params = jax.jit(model.init)(jax.random.key(0))
  other = models.for_training(model)
  assert (model.config.unroll, other.config.unroll) == (1, 2)

  @functools.partial(jax.jit, static_argnums=0)
  def grads(model, params):
    def loss(params):
      return jnp.square(model.apply(params, tokens).logits).mean()

    return jax.value_and_grad(loss)(params)

  chex.assert_trees_all_close(
    grads(other, params), grads(model, params), rtol=1e-4, atol=1e-6
  )


def test_which_layers_are_written_out(llama):
  model, _ = llama
  again = models.with_options(model, remat=True)
  assert models.for_training(again) == again
  deep = models.with_options(model, num_layers=9)
  assert models.for_training(deep) == deep


@pytest.mark.multidevice
def test_layers_stay_in_a_loop_on_a_mesh(llama):
  model, _ = llama
  with jax.set_mesh(sharding.make_mesh({'data': 4, 'fsdp': 2, 'tensor': 1})):
    assert models.for_training(model) == model


def test_models_are_values():
  one, two = models.build(LLAMA), models.build(LLAMA)
  assert one == two
  assert hash(one) == hash(two)
  assert models.with_options(one, remat=True) != one
  # Where a model came from does not change what it computes.
  assert models.with_options(one, origin=models.Origin()) == one


def test_params_axes_and_shapes_agree(llama):
  model, params = llama
  abstract = model.abstract_params()
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(
    lambda s: s.shape, abstract
  )
  jax.tree.map(
    lambda s, axes: None if len(axes) == s.ndim else pytest.fail(str(axes)),
    abstract,
    model.param_axes(),
  )
  kernel = params['layers']['attention']['query']['kernel']
  assert kernel.shape == (2, 16, 4, 4)
  axes = model.param_axes()['layers']['attention']['query']['kernel']
  assert axes == ('layers', 'embed', 'heads', 'head_dim')


def test_init_scales(llama):
  _, params = llama
  layers = params['layers']
  assert np.std(layers['mlp']['up']['kernel']) == pytest.approx(0.25, rel=0.2)
  # 1 / sqrt(24), and 1 / sqrt(2 * 2 layers) for ending a residual branch.
  down = np.std(layers['mlp']['down']['kernel'])
  assert down == pytest.approx(24**-0.5 / 2, rel=0.2)
  assert not np.array_equal(*layers['mlp']['up']['kernel'])


def test_a_token_sees_only_what_is_before_it(llama, tokens):
  model, params = llama

  def loss(embedded):
    changed = {**params, 'embed': {'tokens': embedded}}
    return model.apply(changed, jnp.arange(8)[None]).hidden[0, 4].sum()

  moved = np.any(jax.jit(jax.grad(loss))(params['embed']['tokens']), axis=1)
  np.testing.assert_array_equal(moved[:8], np.arange(8) <= 4)


def test_padding_does_not_matter(llama, tokens):
  model, params = llama
  mask = np.ones((2, 8), bool)
  mask[0, :3] = False
  expected = logits_of(model, params, tokens, mask=mask)
  other = np.where(mask, tokens, 99)  # an id that is in no table
  found = logits_of(model, params, other, mask=mask)
  np.testing.assert_array_equal(found[mask], expected[mask])
  alone = logits_of(model, params, tokens[:1, 3:])
  np.testing.assert_allclose(expected[0, 3:], alone[0], atol=1e-5)


def test_a_row_of_nothing_but_padding_is_harmless(llama, tokens):
  model, params = llama
  mask = np.array([[False] * 8, [True] * 8])

  def loss(params):
    out = model.apply(params, tokens, mask=mask)
    return jnp.sum(out.logits[1] ** 2)

  grads = jax.jit(jax.grad(loss))(params)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  assert np.isfinite(logits_of(model, params, tokens, mask=mask)).all()


def test_an_unknown_id_gives_nan_and_not_another_embedding(llama):
  model, params = llama
  logits = logits_of(model, params, np.array([[1, 31], [1, 32]], np.int32))
  assert np.isfinite(logits[0]).all()
  assert np.isnan(logits[1]).all()


def test_too_many_tokens():
  model = models.build(GPT_NEO)
  params = model.abstract_params()

  def apply(length, **kwargs):
    tokens = jnp.zeros((1, length), jnp.int32)
    jax.eval_shape(lambda p: model.apply(p, tokens, **kwargs), params)

  with pytest.raises(ValueError, match='17 tokens.*16 positions'):
    apply(17)
  apply(17, mask=jnp.arange(17)[None] > 0)
  with pytest.raises(ValueError, match='4 tokens do not fit a cache of 3'):
    apply(4, cache=model.init_cache(1, 3))


def test_windows_count_real_tokens():
  # Two layers of window 3 reach 2 + 2 tokens back; padding in the row's
  # middle, as between a right-padded prompt and its continuation, is no token.
  model = models.build(GPT_NEO)
  params = jax.jit(model.init)(jax.random.key(0))
  tokens = np.arange(8, dtype=np.int32)[None]
  base = logits_of(model, params, tokens)
  for i in range(8):
    changed = tokens.copy()
    changed[0, i] = 20
    moved = np.any(logits_of(model, params, changed) != base, axis=-1)[0]
    np.testing.assert_array_equal(
      np.flatnonzero(moved), range(i, min(i + 5, 8))
    )
  gapped = np.insert(tokens, [4, 4, 4], 9, axis=1)
  mask = np.insert(np.ones((1, 8), bool), [4, 4, 4], False, axis=1)
  found = logits_of(model, params, gapped, mask=mask)
  np.testing.assert_allclose(found[mask], base[0], atol=1e-5)


@pytest.mark.parametrize(
  'order', [''.join(p) for p in itertools.permutations('bskh')][::5]
)
def test_every_cache_layout_decodes_alike(llama, tokens, order):
  model, params = llama
  expected = logits_of(model, params, tokens)
  model = models.with_options(model, cache_layout=order)
  cache = model.init_cache(2, 9)
  sizes = dict(b=2, s=9, k=2, h=4)
  assert cache.keys.shape == (2, *(sizes[c] for c in order))
  step = jax.jit(lambda p, t, c: model.apply(p, t, cache=c))
  found = []
  for now in (slice(0, 5), slice(5, 6), slice(6, 7), slice(7, 8)):
    out = step(params, tokens[:, now], cache)
    cache = out.cache
    found.append(out.logits)
  np.testing.assert_allclose(np.concatenate(found, 1), expected, atol=1e-5)
  np.testing.assert_array_equal(
    cache.mask, np.broadcast_to(np.arange(9) < 8, (2, 9))
  )


def test_given_positions_are_used(llama, tokens):
  model, params = llama
  # Only differences matter to a rotary embedding.
  far = jnp.broadcast_to(jnp.arange(8) + 100, (2, 8))
  np.testing.assert_allclose(
    logits_of(model, params, tokens, positions=far),
    logits_of(model, params, tokens),
    atol=1e-4,
  )
  same = logits_of(model, params, tokens, positions=0 * far)
  assert not np.allclose(same, logits_of(model, params, tokens), atol=1e-2)


def test_remat_changes_no_gradient(llama, tokens):
  model, params = llama

  @functools.partial(jax.jit, static_argnums=0)
  def grads(model):
    return jax.grad(lambda p: model.apply(p, tokens).logits.var())(params)

  rematerialised = models.with_options(model, remat=True)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    grads(model),
    grads(rematerialised),
  )
  text = str(jax.make_jaxpr(lambda: grads(rematerialised))())
  assert 'prevent_cse' in text


def test_bfloat16_activations_of_float32_params(llama, tokens):
  model, params = llama
  half = models.with_options(model, dtype='bfloat16')
  out = apply(half, params, tokens, {})
  assert out.hidden.dtype == jnp.bfloat16
  assert out.logits.dtype == jnp.float32
  expected = logits_of(model, params, tokens)
  np.testing.assert_allclose(out.logits, expected, atol=0.1 * expected.std())
  assert half.init_cache(1, 4).keys.dtype == jnp.bfloat16
  assert half.init_cache(1, 4, dtype='float32').keys.dtype == jnp.float32


def test_hidden_alone_and_unembedding(llama, tokens):
  model, params = llama
  out = model.apply(params, tokens, logits=False)
  assert out.logits is None
  assert out.cache is None
  expected = logits_of(model, params, tokens)
  for hidden, logits in (
    (out.hidden, expected),
    (out.hidden[:, -1], expected[:, -1]),
  ):
    found = model.unembed(params, hidden)
    np.testing.assert_allclose(found, logits, atol=1e-5)


@pytest.mark.parametrize('name', ['gemma2', 'gpt_neo', 'qwen3_window'])
def test_a_prefix_is_as_if_it_stood_in_every_row(
  load_checkpoint, name, monkeypatch
):
  # Windows are of 4 tokens, so that most of the prefix is beyond them.
  monkeypatch.setattr(layers, '_TILE', 2)
  model, params = load_checkpoint(name).language_model
  rows = np.random.default_rng(1).integers(0, 63, (3, 17)).astype(np.int32)
  rows[:, :9] = rows[0, :9]
  tokens = np.concatenate([np.full((1, 3), 63, np.int32), rows[:1, :9]], 1)
  before = score.prefill(model, params, tokens, np.arange(12)[None] >= 3)
  run = jax.jit(model.apply)
  found = run(params, rows[:, 9:], prefix=before).hidden
  expected = run(params, rows).hidden[:, 9:]
  np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'num_attention_heads': 3}, '3 query heads cannot share 2'),
    ({'model_type': 'mamba'}, "'mamba' is not supported; supported: gemma, "),
    ({'model_type': 'transformer'}, 'not supported'),
    ({'model_type': '../llama'}, 'not supported'),
    ({'hidden_act': 'mish'}, "'mish' is not supported; supported: gelu, "),
    (
      {'rope_scaling': {'rope_type': 'yarn', 'factor': 2.0}},
      "'yarn' is not supported; supported: default, linear, llama3",
    ),
    (
      {'rope_parameters': {'rope_type': 'llama3', 'factor': 2.0}},
      "llama3 rope scaling lacks 'low_freq_factor'",
    ),
    ({'quantization_config': {'quant_method': 'gptq'}}, r'quantised .*gptq'),
  ],
)
def test_what_is_not_supported_is_said(changes, message):
  with pytest.raises(ValueError, match=message):
    models.build({**LLAMA, **changes})


def test_a_missing_key_is_named():
  config = {k: v for k, v in LLAMA.items() if k != 'hidden_size'}
  with pytest.raises(ValueError, match="llama needs the key 'hidden_size'"):
    models.build(config)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'cache_layout': 'bsk'}, 'permutation'),
    ({'dtype': 'int32'}, 'floating-point'),
    ({'windows': (1,)}, '1 attention windows for 2 layers'),
  ],
)
def test_bad_options(options, message):
  with pytest.raises(ValueError, match=message):
    models.build(LLAMA, **options)
