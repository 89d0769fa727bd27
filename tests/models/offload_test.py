"""Weights of models that only compute: other types, and in host memory."""

import functools

import jax
import numpy as np
import pytest

from rlaif_jax import sharding
from rlaif_jax.core.types import PromptBatch
from rlaif_jax.inference import decode
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.models import hf, weights

TOKENS = np.random.default_rng(0).integers(3, 200, (8, 12)).astype(np.int32)


def kinds(params):
  """Where tables and kernels are, and where norms and the head."""
  kinds = {
    path: leaf.sharding.memory_kind
    for path, leaf in weights.flatten(params).items()
  }
  small = {path for path in kinds if path.endswith('/scale') or 'head/' in path}
  large = {path for path in kinds if path.endswith(('/kernel', '/tokens'))}
  return [{kinds[path] for path in part} for part in (large - small, small)]


HERE, THERE = [{'device'}, {'device'}], [{'pinned_host'}, {'device'}]


@pytest.fixture(params=[1, pytest.param(8, marks=pytest.mark.multidevice)])
def mesh(request):
  """One device, or eight along all axes."""
  shape = {'data': 1} if request.param == 1 else {'fsdp': 2, 'tensor': 2}
  found = sharding.make_mesh(shape, jax.devices()[: request.param])
  with jax.set_mesh(found):
    yield found


@pytest.mark.parametrize('dtype', [None, 'bfloat16', 'int8'])
def test_same_logits_from_host_memory(tiny_model, mesh, dtype):
  model, here = hf.load(tiny_model, dtype=dtype)
  same, there = hf.load(tiny_model, dtype=dtype, offload=True)
  assert model == same
  assert kinds(here) == HERE
  assert kinds(there) == THERE
  for one, other in zip(*map(jax.tree.leaves, (here, there)), strict=True):
    assert one.sharding.spec == other.sharding.spec
  run = jax.jit(lambda params: model.apply(params, TOKENS).logits)
  np.testing.assert_array_equal(run(here), run(there))
  np.testing.assert_array_equal(
    model.apply(here, TOKENS).logits, model.apply(there, TOKENS).logits
  )


@pytest.mark.parametrize('dtype', [None, 'int8'])
def test_same_rewards_from_host_memory(tiny_reward_model, mesh, dtype):
  model, here = hf.load_reward_model(tiny_reward_model, dtype=dtype)
  _, there = hf.load_reward_model(tiny_reward_model, dtype=dtype, offload=True)
  assert kinds(there) == THERE
  run = jax.jit(model.apply)
  np.testing.assert_array_equal(run(here, TOKENS), run(there, TOKENS))


def test_same_text_from_host_memory(tiny_model, mesh):
  model, here = hf.load(tiny_model)
  _, there = hf.load(tiny_model, offload=True)
  generate = decode.make_generate(
    model,
    max_new_tokens=6,
    sampling=SamplingConfig(greedy=True),
    eos_ids=(1,),
    pad_id=0,
  )
  run = functools.partial(
    generate,
    prompts=sharding.shard_batch(
      PromptBatch(TOKENS, np.ones(TOKENS.shape, bool)), mesh
    ),
    key=jax.random.key(0),
    row_ids=np.arange(8, dtype=np.int32),
  )
  one, other = run(here), run(there)
  jax.tree.map(np.testing.assert_array_equal, one, other)
  assert one.response_tokens.sharding.memory_kind == 'device'


def test_eight_bits_are_near(tiny_reward_model):
  """Each weight is off by half of a 127th of its output's largest at most."""
  model, params = hf.load_reward_model(tiny_reward_model)
  small, packed = hf.load_reward_model(tiny_reward_model, dtype='int8')
  exact, near = model.apply(params, TOKENS), small.apply(packed, TOKENS)
  assert 0 < np.abs(exact - near).max() < 0.05 * np.std(exact) + 0.01
