"""rewards/pairwise.py: who is better of the two samples of a prompt."""

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
from rlaif_jax.labeler import preference
from rlaif_jax.rewards import pairwise
from rlaif_jax.stages import rl

PAIRS = [('a dog', 'the big dog ran'), ('work', 'work'), ('so', 'i quit it')]


@pytest.fixture(scope='module')
def tokenizer(tiny_model):
  return load_tokenizer(tiny_model)


@pytest.fixture(scope='module')
def reward(tiny_model, tokenizer):
  """With a random model, on one device."""
  block = rl.default_config().reward
  block.update(
    name='pairwise', path=tiny_model, prompt='summary_base', max_tokens=320,
    batch_size=4,
  )  # fmt: skip
  return rewards.load('pairwise').make(
    block,
    policy_tokenizer=tokenizer,
    mesh=sharding.make_mesh(devices=jax.devices()[:1]),
    rules=sharding.DEFAULT_RULES,
  )


def rollout_of(tokenizer, pairs, length=12):
  """Two responses each to three prompts, with their examples."""
  examples = [
    Example(id=str(i), prompt=p, fields={'text': p})
    for i, p in enumerate(['the dog ran', 'my job', 'so i quit it'])
    for _ in range(2)
  ]
  prompts = transforms.prompt_batch(examples, tokenizer, 10)
  tokens, mask = transforms.right_pad(
    transforms.continuation_ids([t for pair in pairs for t in pair], tokenizer),
    length,
    tokenizer.pad_id,
  )
  rollout = Rollout(
    prompts.tokens, prompts.mask, tokens, mask, np.zeros(tokens.shape, 'f4')
  )
  return jax.tree.map(jnp.asarray, rollout), examples


def test_scores_are_soft_labels_of_both_orders(reward, tokenizer):
  rollout, examples = rollout_of(tokenizer, PAIRS)
  scores = reward.score(rollout, examples)
  assert scores.shape == (6,)
  assert scores.dtype == jnp.float32
  labels = preference.label_pairs(
    reward.labeler,
    reward.prompt,
    [(e.id, e.fields, p) for e, p in zip(examples[::2], PAIRS, strict=True)],
  )
  first = np.array([label.p_first for label in labels])
  first[1] = 0.5  # the same text twice: nobody is asked
  np.testing.assert_allclose(scores[::2], first, atol=1e-6)
  np.testing.assert_allclose(scores[1::2], 1 - first, atol=1e-6)
  assert len(set(np.asarray(scores).tolist())) == 5
  assert rewards.spent(reward)[rewards.LABELS] == 2
  assert rewards.spent(reward)[rewards.TOKENS] > 100


def test_swapped_samples_swap_their_scores(reward, tokenizer):
  scores = reward.score(*rollout_of(tokenizer, PAIRS))
  swapped = reward.score(*rollout_of(tokenizer, [p[::-1] for p in PAIRS], 15))
  expected = np.asarray(scores).reshape(3, 2)[:, ::-1].reshape(-1)
  np.testing.assert_allclose(swapped, expected, atol=1e-5)


def test_pairs_that_do_not_fit_are_a_tie(reward, tokenizer):
  long = ('dog ' * 60, 'cat ' * 60)
  rollout, examples = rollout_of(tokenizer, [PAIRS[0], long, PAIRS[2]], 256)
  short = dataclasses.replace(
    reward, labeler=dataclasses.replace(reward.labeler, max_tokens=128)
  )
  scores = np.asarray(short.score(rollout, examples))
  np.testing.assert_array_equal(scores[2:4], 0.5)
  assert abs(scores[0] - 0.5) > 1e-4


def test_rows_beside_each_other_answer_one_prompt(reward, tokenizer):
  rollout, examples = rollout_of(tokenizer, PAIRS)
  with pytest.raises(ValueError, match=r"'pairwise'.*group_size=2"):
    reward.score(rollout, examples[1:] + examples[:1])
  with pytest.raises(ValueError, match='group_size=2'):
    pairwise.check_pairs(examples[:3])


def test_the_prompt_has_to_compare(tiny_model, tokenizer):
  block = rl.default_config().reward
  block.update(name='pairwise', path=tiny_model)  # prompt: summary_score
  with pytest.raises(ValueError, match='choose a pairwise prompt'):
    rewards.load('pairwise').make(
      block, policy_tokenizer=tokenizer, mesh=None, rules=None
    )
