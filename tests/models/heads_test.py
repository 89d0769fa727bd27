import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import models
from rlaif_jax.models.heads import ScalarModel

CONFIG = dict(
  model_type='llama',
  vocab_size=32,
  hidden_size=16,
  intermediate_size=24,
  num_hidden_layers=1,
  num_attention_heads=2,
)


@pytest.fixture(scope='module')
def trunk():
  model = models.build(CONFIG)
  return model, jax.jit(model.init)(jax.random.key(0))


def test_new_head_on_a_trunk(trunk):
  model = ScalarModel(trunk[0])
  params = model.init_from(trunk[1], jax.random.key(1))
  assert 'unembedding' in trunk[1]
  assert 'unembedding' not in params['trunk']
  assert params['trunk']['embed'] is trunk[1]['embed']
  assert params['head']['kernel'].shape == (16,)
  assert params['head']['bias'] == 0


def test_head_scale():
  wide = models.build({**CONFIG, 'hidden_size': 1024})
  model = ScalarModel(wide)
  head = model.init_from({}, jax.random.key(0))['head']
  assert np.std(head['kernel']) == pytest.approx(1025**-0.5, rel=0.1)


def test_zero_head_gives_zero(trunk):
  model = ScalarModel(trunk[0])
  params = model.init_from(trunk[1], jax.random.key(1), zeros=True)
  tokens = jnp.ones((2, 3), jnp.int32)
  assert not np.any(model.values(params, tokens))


def test_axes_and_shapes_agree(trunk):
  model = ScalarModel(trunk[0])
  params = jax.jit(model.init)(jax.random.key(0))
  shapes = jax.tree.map(lambda s: s.shape, model.abstract_params())
  assert jax.tree.map(jnp.shape, params) == shapes
  ranks = jax.tree.map(
    len, model.param_axes(), is_leaf=lambda x: isinstance(x, tuple)
  )
  assert ranks == jax.tree.map(
    len, shapes, is_leaf=lambda x: isinstance(x, tuple)
  )


def test_score_is_the_value_at_the_last_real_token(trunk):
  model = ScalarModel(trunk[0])
  params = model.init_from(trunk[1], jax.random.key(1))
  params['head']['bias'] = jnp.float32(0.5)
  tokens = np.arange(10, dtype=np.int32).reshape(2, 5)
  mask = np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]], bool)
  values = model.values(params, tokens, mask=mask)
  assert values.shape == (2, 5)
  assert values.dtype == jnp.float32
  scores = model.apply(params, tokens, mask=mask)
  np.testing.assert_allclose(scores, [values[0, 2], values[1, 4]], atol=1e-6)
  hidden = trunk[0].apply(trunk[1], tokens, mask=mask).hidden
  by_hand = hidden[0, 2] @ params['head']['kernel'] + 0.5
  assert scores[0] == pytest.approx(float(by_hand), abs=1e-5)
  np.testing.assert_allclose(
    model.apply(params, tokens), model.values(params, tokens)[:, -1], atol=1e-6
  )


def test_options_reach_the_trunk(trunk):
  model = models.with_options(ScalarModel(trunk[0]), dtype='bfloat16')
  assert model.config.dtype == 'bfloat16'
  assert hash(model) != hash(ScalarModel(trunk[0]))
