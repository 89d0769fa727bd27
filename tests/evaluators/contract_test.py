"""Every evaluator has the contract of `rlaif_jax.evaluators`."""

import dataclasses

import numpy as np
import pytest

from rlaif_jax import evaluators
from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import Context, Labels


def _context() -> Context:
  prompts = ['p0', 'p1', 'p1']
  return Context(
    examples=[Example(id=str(i), prompt=p) for i, p in enumerate(prompts)],
    samples={'sft': ['a', 'b c', ''], 'rlaif': ['a a a', '', 'a b']},
    judge=lambda example, text: len(text) / 5,
    baseline='sft',
    pairs=[
      Example(id='0', prompt='p0', pair=('a', 'b'), p_first=1.0),
      Example(id='1', prompt='p1', pair=('a', 'bb'), p_first=0.5),
    ],
    labels=Labels(np.array([0.6, 0.5]), np.zeros((2, 2)), np.zeros((2, 2))),
    pair_scores={'rm': np.array([[1.0, 0.0], [0.0, 0.0]])},
    axes={'tone': {'sft': np.arange(3.0), 'rlaif': np.ones(3)}},
    nats={
      'sft': (np.array([2.0, 3.0, 0.5]), np.array([2, 3, 1])),
      'rlaif': (np.array([4.0, 0.5, 3.0]), np.array([4, 1, 3])),
    },
  )


@pytest.mark.parametrize('name', evaluators.names())
def test_contract(name):
  module = evaluators.load(name)
  assert dataclasses.is_dataclass(module.Config)
  assert issubclass(module.Config, evaluators.Config)
  config = module.Config(num_samples=10)
  metrics = module.evaluate(_context(), config)
  assert metrics
  for key, value in metrics.items():
    assert isinstance(key, str)
    assert isinstance(value, float | int), key
    assert np.isfinite(value), key
  assert metrics == module.evaluate(_context(), config)  # deterministic


def test_names_are_the_files():
  assert 'win_rate' in evaluators.names()
  assert 'statistics' not in evaluators.names()
  with pytest.raises(ValueError, match="'winrate' is not an evaluator"):
    evaluators.load('winrate')


def test_context_names_what_is_missing():
  context = _context()
  with pytest.raises(ValueError, match="'ppo'; there are: sft, rlaif"):
    context.responses('ppo')
  with pytest.raises(ValueError, match='1 responses to 3 prompts'):
    dataclasses.replace(context, samples={'sft': ['a']}).responses('sft')
  with pytest.raises(ValueError, match="no scores of policy 'sft'"):
    dataclasses.replace(context, judge=None).judged('sft')
  with pytest.raises(ValueError, match='2 scores of 3 responses'):
    dataclasses.replace(context, scores={'sft': [1.0, 2.0]}).judged('sft')


def test_with_scores_asks_the_judge_once():
  asked = []

  def judge(example, text):
    asked.append(text)
    return 1.0

  context = evaluators.with_scores(dataclasses.replace(_context(), judge=judge))
  assert len(asked) == 6
  context.judged('rlaif')
  assert len(asked) == 6


def test_clusters_are_prompts():
  np.testing.assert_array_equal(_context().clusters(), [0, 1, 1])
