"""Decoding against teacher forcing, and what it must not depend on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import sharding
from rlaif_jax.core import masking
from rlaif_jax.core.types import PromptBatch
from rlaif_jax.inference import decode, score
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.models import with_options

B, P, R, PAD = 8, 5, 6, 0
V = 24


def prompts_of(lengths, width=P, seed=0):
  """Left-padded prompts whose tokens depend on seed and row only."""
  tokens = np.zeros((len(lengths), width), np.int32)
  mask = np.zeros((len(lengths), width), bool)
  for i, length in enumerate(lengths):
    row = np.random.default_rng([seed, i]).integers(1, V, length)
    tokens[i, width - length :], mask[i, width - length :] = row, True
  return PromptBatch(tokens, mask)


SAMPLE = SamplingConfig()
LENGTHS = (5, 1, 3, 4, 2, 5, 3, 1)


@functools.cache
def jitted(model, sampling=SAMPLE, eos_ids=(), length=R):
  return jax.jit(
    functools.partial(
      decode.generate,
      model,
      max_new_tokens=length,
      sampling=sampling,
      eos_ids=eos_ids,
      pad_id=PAD,
    )
  )


def generate(tiny, prompts, key=0, row_ids=None, **options):
  model, params = tiny
  return jax.device_get(
    jitted(model, **options)(
      params, prompts, jax.random.key(key), row_ids=row_ids
    )
  )


@pytest.mark.parametrize(
  'sampling',
  [
    SAMPLE,
    SamplingConfig(temperature=0.7),
    SamplingConfig(greedy=True),
  ],
)
def test_logprobs_equal_teacher_forced_ones(tiny, sampling):
  rollout = generate(tiny, prompts_of(LENGTHS), sampling=sampling)
  temperature = 1.0 if sampling.greedy else sampling.temperature
  stats = score.response_stats(*tiny, rollout, temperature=temperature)
  np.testing.assert_allclose(rollout.logprobs, stats.logprobs, atol=1e-4)
  assert rollout.response_mask.all()


def test_greedy_equals_step_by_step_argmax(tiny):
  model, params = tiny
  prompts = prompts_of((P,))
  rollout = generate(tiny, prompts, sampling=SamplingConfig(greedy=True))
  tokens = np.zeros((1, P + R), np.int32)
  tokens[:, :P] = prompts.tokens
  forward = jax.jit(model.apply)
  for t in range(P, P + R):
    tokens[:, t] = jnp.argmax(forward(params, tokens).logits[:, t - 1], -1)
  np.testing.assert_array_equal(rollout.response_tokens, tokens[:, P:])


def test_the_amount_of_left_padding_changes_nothing(tiny):
  tight = generate(tiny, prompts_of((3, 2), width=3))
  wide = generate(tiny, prompts_of((3, 2), width=9))
  np.testing.assert_array_equal(tight.response_tokens, wide.response_tokens)
  np.testing.assert_allclose(tight.logprobs, wide.logprobs, atol=1e-5)


def test_a_sample_does_not_depend_on_its_batch(tiny):
  prompts = prompts_of(LENGTHS)
  ids = np.arange(10, 10 + B, dtype=np.int32)
  full = generate(tiny, prompts, row_ids=ids)
  pick = np.array([6, 2])
  part = generate(
    tiny, jax.tree.map(lambda x: x[pick], prompts), row_ids=ids[pick]
  )
  np.testing.assert_array_equal(
    full.response_tokens[pick], part.response_tokens
  )


def test_keys_and_repeated_prompts_give_distinct_samples(tiny):
  prompts = prompts_of((4,) * B)
  same = PromptBatch(
    np.repeat(prompts.tokens[:1], B, 0), np.repeat(prompts.mask[:1], B, 0)
  )
  first, again, other = (generate(tiny, same, key=k) for k in (0, 0, 1))
  np.testing.assert_array_equal(first.response_tokens, again.response_tokens)
  assert (first.response_tokens != other.response_tokens).any(1).all()
  assert len(np.unique(first.response_tokens, axis=0)) == B


def test_steps_draw_different_noise(tiny):
  """A model that ignores its input must not repeat one draw forever."""
  model, params = tiny
  flat = jax.tree.map(jnp.zeros_like, params)
  rollout = generate((model, flat), prompts_of(LENGTHS), length=20)
  assert all(len(np.unique(row)) > 5 for row in rollout.response_tokens)
  np.testing.assert_allclose(rollout.logprobs, -np.log(V), rtol=1e-5)


def test_nothing_follows_the_end(tiny):
  prompts = prompts_of(LENGTHS)
  free = generate(tiny, prompts)
  eos_ids = tuple(map(int, np.unique(free.response_tokens)[1:8]))
  rollout = generate(tiny, prompts, eos_ids=eos_ids)
  expected = np.asarray(masking.response_mask(free.response_tokens, eos_ids))
  assert 0 < expected.sum() < expected.size
  np.testing.assert_array_equal(rollout.response_mask, expected)
  np.testing.assert_array_equal(
    rollout.response_tokens, np.where(expected, free.response_tokens, PAD)
  )
  np.testing.assert_allclose(
    rollout.logprobs, np.where(expected, free.logprobs, 0.0), atol=1e-5
  )


def run_decode(tiny, prompts, eos_ids):
  """(rollout, decoding steps after the first token)."""

  @jax.jit
  def run(params):
    logits, cache = decode.prefill(tiny[0], params, prompts, R)
    keys = decode.fold_rows(jax.random.key(0), prompts.tokens.shape[0])
    return decode.decode(
      tiny[0],
      params,
      cache,
      logits,
      prompts,
      keys,
      max_new_tokens=R,
      sampling=SAMPLE,
      eos_ids=eos_ids,
      pad_id=PAD,
    )

  rollout, cache = run(tiny[1])
  return rollout, int(cache.index) - prompts.tokens.shape[1]


def test_the_loop_ends_with_the_last_row(tiny):
  prompts = prompts_of((2, 3))
  rollout, steps = run_decode(tiny, prompts, ())
  assert steps == R - 1
  _, steps = run_decode(tiny, prompts, tuple(range(V)))
  assert steps == 0
  # Both rows end by their third token: two more steps after the first.
  ends = tuple(int(t) for t in np.asarray(rollout.response_tokens)[:, 2])
  rollout, steps = run_decode(tiny, prompts, ends)
  longest = int(rollout.response_mask.sum(1).max())
  assert steps == longest - 1 <= 2


def test_rows_that_only_fill_the_batch_do_not_run(tiny):
  prompts = prompts_of((3, 0, 2))
  rollout = generate(tiny, prompts)
  np.testing.assert_array_equal(
    rollout.response_mask.any(1), [True, False, True]
  )
  alone = generate(tiny, prompts_of((3,)))
  np.testing.assert_array_equal(
    rollout.response_tokens[0], alone.response_tokens[0]
  )
  _, steps = run_decode(tiny, prompts_of((0, 0)), ())
  assert steps == 0


def test_make_generate_equals_generate(tiny):
  model, params = tiny
  prompts, eos_ids = prompts_of(LENGTHS), (3, 5)
  compiled = decode.make_generate(
    model,
    max_new_tokens=R,
    sampling=SAMPLE,
    eos_ids=eos_ids,
    pad_id=PAD,
  )
  ids = np.arange(B, dtype=np.int32)
  one = compiled(params, prompts, jax.random.key(0), ids)
  two = generate(tiny, prompts, eos_ids=eos_ids)
  np.testing.assert_array_equal(one.response_tokens, two.response_tokens)
  np.testing.assert_allclose(one.logprobs, two.logprobs, atol=1e-5)
  assert not any(x.is_deleted() for x in jax.tree.leaves(params))


@pytest.mark.multidevice
@pytest.mark.parametrize('gather', [False, True])
def test_sharded_equals_unsharded(tiny, gather):
  model, params = tiny
  model = with_options(model, gather=gather)
  prompts = prompts_of(LENGTHS)
  compiled = decode.make_generate(
    model, max_new_tokens=R, sampling=SAMPLE, eos_ids=(3,), pad_id=PAD
  )
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  with jax.set_mesh(mesh):
    where = sharding.shardings(
      model.param_axes(), model.abstract_params(), mesh
    )
    many = sharding.to_host(
      compiled(
        jax.device_put(params, where),
        sharding.shard_batch(prompts, mesh),
        jax.random.key(0),
        np.arange(B, dtype=np.int32),
      )
    )
  one = generate(tiny, prompts, eos_ids=(3,))
  np.testing.assert_array_equal(many.response_tokens, one.response_tokens)
  np.testing.assert_array_equal(many.response_mask, one.response_mask)
  np.testing.assert_allclose(many.logprobs, one.logprobs, atol=1e-5)


def test_decode_holds_no_second_cache(tiny):
  """A donated cache is updated in place: the loop's temporaries are small."""
  model, params = tiny
  slots = 512
  prompts = PromptBatch(
    jnp.zeros((B, slots - R), jnp.int32), jnp.ones((B, slots - R), bool)
  )
  cache = jax.eval_shape(lambda: model.step_cache(model.init_cache(B, slots)))
  step = jax.jit(
    functools.partial(
      decode.decode,
      model,
      max_new_tokens=R,
      sampling=SAMPLE,
      eos_ids=(3,),
      pad_id=PAD,
    ),
    donate_argnums=1,
  )
  keys = decode.fold_rows(jax.random.key(0), B)
  logits = jnp.zeros((B, V))
  memory = (
    step.lower(params, cache, logits, prompts, keys).compile().memory_analysis()
  )
  buffers = jax.tree.leaves((cache.keys, cache.values))
  held = sum(x.size * x.dtype.itemsize for x in buffers)
  assert held > 0
  assert memory.alias_size_in_bytes >= held


def test_no_new_tokens_is_an_error(tiny):
  with pytest.raises(ValueError, match='max_new_tokens=0'):
    decode.prefill(*tiny, prompts_of((1,)), 0)


def test_int8_cache_is_close_and_smaller(tiny):
  """Log-probs as sampled are those that its own rounding gives."""
  model, params = tiny
  small = with_options(model, cache_dtype='int8')
  prompts = prompts_of(LENGTHS)
  rollout = generate((small, params), prompts, length=3 * R)
  exact = score.response_stats(model, params, rollout)
  gap = np.abs(rollout.logprobs - exact.logprobs)
  assert 1e-6 < gap.mean() < 0.02
  assert gap.max() < 0.5
