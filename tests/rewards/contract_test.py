"""Every file of rewards/ keeps the contract in the folder's docstring."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import rewards, sharding
from rlaif_jax.core.types import Rollout
from rlaif_jax.data import transforms
from rlaif_jax.data.datasets import Example
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.stages import rl

PROMPTS = ['the dog ran', 'my job', 'so i quit it']
RESPONSES = ['a dog', 'work', '']


@pytest.fixture(scope='module')
def tokenizer(tiny_model):
  return load_tokenizer(tiny_model)


def rollout_of(tokenizer, responses=RESPONSES, length=6):
  """Responses as the decoder leaves them, each with its end token."""
  examples = [
    Example(id=str(i), prompt=p, fields={'text': p, 'context': p})
    for i, p in enumerate(PROMPTS)
  ]
  prompts = transforms.prompt_batch(examples, tokenizer, 10)
  tokens, mask = transforms.right_pad(
    transforms.continuation_ids(responses, tokenizer), length, tokenizer.pad_id
  )
  rollout = Rollout(
    prompts.tokens, prompts.mask, tokens, mask, np.zeros(tokens.shape, 'f4')
  )
  return jax.tree.map(jnp.asarray, rollout), examples


@pytest.fixture(scope='module')
def make(tiny_model, tiny_reward_model, tokenizer):
  """make(name) -> that reward on one device, with a random model."""

  def make_reward(name):
    block = rl.default_config().reward
    block.name, block.batch_size, block.max_tokens = name, 2, 256
    block.options = {
      'ensemble': {'others': (tiny_reward_model,)},
      'gated': {'safety': tiny_reward_model},
    }.get(name, {})
    scorer = block.options or name == 'reward_model'
    block.path = tiny_reward_model if scorer else tiny_model
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    return rewards.load(name).make(
      block,
      policy_tokenizer=tokenizer,
      mesh=mesh,
      rules=sharding.DEFAULT_RULES,
    )

  return make_reward


# 'pairwise' compares rows with each other: pairwise_test.py.
@pytest.mark.parametrize('name', sorted({*rewards.names()} - {'pairwise'}))
def test_contract(name, make, tokenizer):
  module = rewards.load(name)
  assert module.__doc__
  signature = inspect.signature(module.make)
  kinds = {key: p.kind.name for key, p in signature.parameters.items()}
  assert kinds == {
    'config': 'POSITIONAL_OR_KEYWORD',
    'policy_tokenizer': 'KEYWORD_ONLY',
    'mesh': 'KEYWORD_ONLY',
    'rules': 'KEYWORD_ONLY',
  }
  reward = make(name)
  scores = reward.score(*rollout_of(tokenizer))
  assert scores.shape == (3,)
  assert scores.dtype == jnp.float32
  assert np.isfinite(scores).all()
  assert len(set(np.asarray(scores).tolist())) == 3
  # A response's padding is not part of it.
  again = reward.score(*rollout_of(tokenizer, length=9))
  np.testing.assert_allclose(scores, again, atol=1e-5)


def test_texts_score_as_their_tokens_do(make, tokenizer):
  """Tokenizing the texts again changes nothing."""
  reward = make('reward_model')
  reward = dataclasses.replace(reward, mean=0.5, std=2.0)
  rollout, examples = rollout_of(tokenizer)
  scores = np.asarray(reward.score(rollout, examples))
  by_text = reward.score_texts(examples, RESPONSES)
  np.testing.assert_allclose(by_text, scores, atol=1e-5)
  assert np.abs(by_text - np.asarray(scores)[::-1]).max() > 1e-3
  raw = dataclasses.replace(reward, mean=0.0, std=1.0)
  np.testing.assert_allclose(
    raw.score(rollout, examples), 2.0 * scores + 0.5, atol=1e-5
  )


def test_names_are_the_files():
  assert {'reward_model', 'direct'} <= set(rewards.names())
  with pytest.raises(ValueError, match="'rm' is not a reward; there are: "):
    rewards.load('rm')
