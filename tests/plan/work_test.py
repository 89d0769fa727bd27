"""Formulas of arithmetic, beside what a traced program multiplies."""

import math

import jax
import jax.numpy as jnp
import pytest

from rlaif_jax import models
from rlaif_jax.plan import work

B, T, L = 2, 12, 3
_LLAMA = dict(
  model_type='llama', vocab_size=40, hidden_size=16, intermediate_size=24,
  num_hidden_layers=L, num_attention_heads=4, num_key_value_heads=2,
  max_position_embeddings=64, tie_word_embeddings=False,
)  # fmt: skip
_GPT2 = dict(
  model_type='gpt2', vocab_size=40, n_embd=16, n_layer=L, n_head=4,
  n_positions=64,
)  # fmt: skip


def products(jaxpr, times=1):
  """Flops of all matrix products of a program, loops unrolled."""
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'dot_general':
      (left, _), _ = eqn.params['dimension_numbers']
      shape = eqn.invars[0].aval.shape
      shared = math.prod(shape[axis] for axis in left)
      total += 2 * times * shared * math.prod(eqn.outvars[0].aval.shape)
    inner = times
    if eqn.primitive.name == 'scan':
      inner *= eqn.params['length']
    for value in jax.tree.leaves(
      list(eqn.params.values()), is_leaf=lambda v: hasattr(v, 'eqns')
    ):
      below = getattr(value, 'jaxpr', value)
      if hasattr(below, 'eqns'):
        total += products(below, inner)
  return total


def traced(model, fn):
  params = model.abstract_params()
  tokens = jax.ShapeDtypeStruct((B, T), jnp.int32)
  return products(jax.make_jaxpr(fn)(params, tokens).jaxpr)


@pytest.mark.parametrize('config', [_LLAMA, _GPT2], ids=['llama', 'gpt2'])
def test_forward(config):
  model = models.build(config)
  c = model.config
  found = work.forward(c, B, T, T)
  # The program multiplies what a token may not see, too.
  unseen = B * 4 * L * c.num_heads * c.head_dim * (T * T - T * (T + 1) // 2)
  assert found.flops + unseen == traced(
    model, lambda p, t: model.apply(p, t).logits
  )
  assert found.executed == found.flops


def test_unembedding_counts_only_what_is_asked_for():
  c = models.build(_LLAMA).config
  some, none = work.forward(c, B, T, 5), work.forward(c, B, T, 0)
  assert some.flops - none.flops == 2 * B * 5 * 16 * 40
  assert some.weight_reads - none.weight_reads == 4 * 16 * 40


def test_training_is_three_forwards_and_what_is_made_again():
  once = work.forward(models.build(_LLAMA).config, B, T, 5)
  layers = work.forward(models.build(_LLAMA).config, B, T, 0)
  for remat in (False, True):
    c = models.build(_LLAMA, remat=remat).config
    found = work.training(c, B, T, 5)
    again = once.flops if remat else once.flops - layers.flops
    assert found.flops == 3 * once.flops
    assert found.executed == pytest.approx(3 * once.flops + again, rel=1e-12)


def test_seen_is_the_mask_summed():
  for length, before, window in ((5, 0, 0), (5, 3, 0), (6, 2, 3), (4, 0, 9)):
    pairs = sum(
      1
      for query in range(before, before + length)
      for key in range(query + 1)
      if not window or query - key < window
    )
    assert work.seen(length, before, window) == pairs


def test_decoding_is_the_forward_of_what_follows():
  c = models.build(_LLAMA).config
  whole, prompt = work.forward(c, B, 12, 0), work.forward(c, B, 8, 0)
  found = work.decoding(c, B, 8, 5)  # 4 of the 5 tokens are read again
  head = 2 * B * 4 * 16 * 40
  assert found.flops == whole.flops - prompt.flops + head
  cache = 2 * L * c.num_kv_heads * c.head_dim * 4 * (8 + 5)
  assert found.cache_reads == 4 * B * cache
