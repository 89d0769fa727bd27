"""What rewards say that they took of a labeler."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import rewards, sharding
from rlaif_jax.core.types import Rollout
from rlaif_jax.data import transforms
from rlaif_jax.data.datasets import Example
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.rewards import _length_penalty
from rlaif_jax.stages import rl

TEXTS = ['a dog', 'work is long', 'so i quit it']


@pytest.fixture(scope='module')
def direct(tiny_model):
  """Direct RLAIF with a random model, and what it scores."""
  tokenizer = load_tokenizer(tiny_model)
  block = rl.default_config().reward
  block.update(name='direct', path=tiny_model, max_tokens=256, batch_size=4)
  reward = rewards.load('direct').make(
    block,
    policy_tokenizer=tokenizer,
    mesh=sharding.make_mesh(devices=jax.devices()[:1]),
    rules=sharding.DEFAULT_RULES,
  )
  examples = [
    Example(id=t, prompt=t, fields={'text': t}) for t in ('x y', 'my job', 'z')
  ]
  prompts = transforms.prompt_batch(examples, tokenizer, 10)
  tokens, mask = transforms.right_pad(
    transforms.continuation_ids(TEXTS, tokenizer), 12, tokenizer.pad_id
  )
  rollout = Rollout(
    prompts.tokens, prompts.mask, tokens, mask, np.zeros(tokens.shape, 'f4')
  )
  return reward, jax.tree.map(jnp.asarray, rollout), examples


def test_tokens_on_the_device_are_those_of_the_host(direct):
  """Prompts with their responses, less the label that is scored."""
  reward, rollout, examples = direct
  assert reward.on_device
  counts = []
  for on_device in (True, False):
    same = dataclasses.replace(reward, on_device=on_device, spent={})
    assert rewards.spent(same) == {}
    for _ in range(2):  # of the last call, and not of all
      same.score(rollout, examples)
    found = rewards.spent(same)
    assert found[rewards.LABELS] == 3
    counts.append(int(found[rewards.TOKENS]))
  assert counts[0] == counts[1] > 60


def test_a_reward_around_another_has_its_costs(direct):
  reward, rollout, examples = direct
  around = _length_penalty.LengthPenalty(reward, 0.1)
  around.score(rollout, examples)
  assert rewards.spent(around) == rewards.spent(reward)
  assert rewards.spent(object()) == {}
