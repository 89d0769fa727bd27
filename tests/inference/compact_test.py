"""Decoding with a shrinking batch, beside the plain loop."""

import jax
import numpy as np
import pytest

from rlaif_jax import sharding
from rlaif_jax.core.types import PromptBatch
from rlaif_jax.inference import compact, decode
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.models import with_options

P, R, V, PAD = 5, 24, 24, 0
EOS = (3, 5, 7)


def prompts_of(rows, empty=()):
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, V, (rows, P)).astype(np.int32)
  mask = np.arange(P)[None] >= rng.integers(0, P - 1, (rows, 1))
  mask[list(empty)] = False
  return PromptBatch(np.where(mask, tokens, 0), mask)


def both(model, params, prompts, eos_ids=EOS, length=R, key=0):
  """(rollout of the plain loop, of the shrinking batch)."""
  found = []
  for module in (decode, compact):
    run = module.make_generate(
      model,
      max_new_tokens=length,
      sampling=SamplingConfig(),
      eos_ids=eos_ids,
      pad_id=PAD,
    )
    ids = np.arange(len(prompts.tokens), dtype=np.int32) + 10
    found.append(run(params, prompts, jax.random.key(key), ids))
  return sharding.to_host(found)


def assert_equal(plain, compacted):
  for name in ('prompt_tokens', 'response_tokens', 'response_mask'):
    np.testing.assert_array_equal(
      getattr(plain, name), getattr(compacted, name), name
    )
  np.testing.assert_allclose(plain.logprobs, compacted.logprobs, atol=5e-5)


@pytest.fixture
def sizes(monkeypatch):
  """Batch sizes that the loop ran with, filled in as it does."""
  seen = []
  advance = decode.advance

  def recorded(model, params, state, *args, **kwargs):
    seen.append(state.token.shape[0])
    return advance(model, params, state, *args, **kwargs)

  monkeypatch.setattr(decode, 'advance', recorded)
  return seen


def test_tokens_are_those_of_the_plain_loop(tiny, sizes):
  plain, compacted = both(*tiny, prompts_of(13))
  assert_equal(plain, compacted)
  lengths = plain.response_mask.sum(1)
  assert lengths.max() > 2 * np.median(lengths)  # there is something to gain
  assert sizes[0] == 13  # the plain loop's
  assert sizes[1] == 13
  assert sizes[2:] == sorted(set(sizes[2:]), reverse=True)
  assert set(sizes[2:]) <= {1, 2, 4, 8}
  assert len(sizes) > 3


def test_rows_that_only_fill_the_batch_leave_it(tiny, sizes):
  plain, compacted = both(*tiny, prompts_of(8, empty=(0, 2, 3, 5, 6, 7)))
  assert_equal(plain, compacted)
  assert not compacted.response_mask[[0, 2, 3, 5, 6, 7]].any()
  assert sizes[2] <= 2


def test_without_ends_nothing_moves(tiny, sizes):
  plain, compacted = both(*tiny, prompts_of(4), eos_ids=(), length=4)
  assert_equal(plain, compacted)
  assert sizes == [4, 4]


def test_all_rows_end_at_once(tiny):
  plain, compacted = both(*tiny, prompts_of(4), eos_ids=tuple(range(V)))
  assert_equal(plain, compacted)
  assert (compacted.response_mask.sum(1) == 1).all()


def test_int8_cache_moves_with_its_rows(tiny):
  model, params = tiny
  model = with_options(model, cache_dtype='int8')
  assert_equal(*both(model, params, prompts_of(6)))


@pytest.mark.multidevice
def test_sharded_equals_unsharded(tiny, sizes):
  model, params = tiny
  prompts = prompts_of(16)
  alone, _ = both(model, params, prompts)
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  del sizes[:]
  with jax.set_mesh(mesh):
    where = sharding.shardings(
      model.param_axes(), model.abstract_params(), mesh
    )
    _, many = both(
      model,
      jax.device_put(params, where),
      sharding.shard_batch(prompts, mesh),
    )
  assert_equal(alone, many)
  assert min(sizes) == 4  # a row for each part of the mesh
