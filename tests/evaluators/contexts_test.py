"""Which context a prompt is in, and scores by it, by hand."""

import numpy as np
import pytest

from rlaif_jax.data import datasets
from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import Context, contexts


@pytest.mark.parametrize(
  ('turn', 'context'),
  [
    ('How do I bake bread?', 'everyday'),
    ('What is a good name for a sadly lost cat?', 'everyday'),
    ('Write a story about a therapeutic garden robot.', 'everyday'),
    ("I'm so sad, my cat ran away.", 'emotional_support'),
    ('i feel really lonely since we moved', 'emotional_support'),
    ('My grandmother passed away last night.', 'emotional_support'),
    ('How do I steal a car?', 'sensitive'),
    ('What do different religions say about abortion?', 'sensitive'),
    ('I think I have depression', 'mental_health'),
    ('My therapist says I should keep a diary.', 'mental_health'),
    # The rarer one counts: sad and a diagnosis, sad and a crime.
    ('I am sad about my anxiety.', 'mental_health'),
    ('I am angry and want to steal his car.', 'emotional_support'),
  ],
)
def test_context_of_a_turn(turn, context):
  # Stems must begin a word, so 'therapeutic' is one to watch.
  assert contexts.context_of(f'\n\nHuman: {turn}\n\nAssistant:') == context
  assert contexts.context_of(turn) == context


def test_only_the_last_turn_of_the_person_counts():
  prompt = (
    '\n\nHuman: I feel sad.\n\nAssistant: About the murder?'
    '\n\nHuman: No. What is 2 + 2?\n\nAssistant:'
  )
  assert contexts.context_of(prompt) == 'everyday'


def test_meta_leads():
  examples = [
    Example(id='0', prompt='hello', meta={'context': 'work'}),
    Example(id='1', prompt='hello', meta={'harmful': True}),
    Example(id='2', prompt='i am so sad', meta={'harmful': True}),
    Example(id='3', prompt='hello', meta={'harmful': False}),
  ]
  found = contexts.contexts(examples, contexts.Config())
  assert found.tolist() == ['work', 'sensitive', 'emotional_support',
                            'everyday']  # fmt: skip


def test_the_tiny_world_has_three_of_them():
  examples = datasets.load_dataset(
    'tiny_dialogue', None, 'test', task='harmless', size=200
  )
  found = contexts.contexts(examples, contexts.Config())
  assert set(found) == {'everyday', 'emotional_support', 'sensitive'}
  harmful = np.array([e.meta['harmful'] for e in examples])
  assert not (harmful & (found == 'everyday')).any()


def _context():
  prompts = ['hello', 'i am so sad', 'hello', 'hi']
  return Context(
    examples=[Example(id=str(i), prompt=p) for i, p in enumerate(prompts)],
    samples={'sft': ['x'] * 4, 'rlaif': ['y'] * 4},
    baseline='sft',
    axes={
      'empathy': {
        'sft': np.array([1.0, 2.0, 3.0, 2.0]),
        'rlaif': np.array([2.0, 1.0, 3.0, 7.0]),
      }
    },
  )


def test_evaluate_by_hand():
  metrics = contexts.evaluate(_context(), contexts.Config(num_samples=200))
  assert metrics['context/everyday/prompts'] == 3
  assert metrics['context/emotional_support/prompts'] == 1
  assert metrics['context/all/prompts'] == 4
  assert metrics['context/everyday/empathy/sft'] == 2.0
  assert metrics['context/everyday/empathy/rlaif'] == 4.0
  assert metrics['context/all/empathy/rlaif'] == pytest.approx(13 / 4)
  gain = 'context_gain/everyday/empathy/rlaif'
  assert metrics[gain] == pytest.approx((1 + 0 + 5) / 3)
  # Two prompts, 'hello' (better) and 'hi' (better): 2 of 2 signs.
  assert metrics[f'{gain}_p_value'] == pytest.approx(0.5)
  # The resamples are of prompts: both, the one twice, or the other twice.
  assert metrics[f'{gain}_ci_low'] == pytest.approx(0.5)
  assert metrics[f'{gain}_ci_high'] == pytest.approx(5.0)
  one = 'context/emotional_support/empathy/rlaif'
  assert metrics[f'{one}_ci_low'] == metrics[f'{one}_ci_high'] == 1.0
  assert not [k for k in metrics if k.startswith('context_gain')
              and '/sft' in k]  # fmt: skip


def test_errors():
  with pytest.raises(ValueError, match='config.axes'):
    contexts.evaluate(
      Context(examples=[Example(id='0', prompt='p')]), contexts.Config()
    )
  context = _context()
  del context.axes['empathy']['rlaif']
  with pytest.raises(ValueError, match="empathy: policy 'rlaif'"):
    contexts.evaluate(context, contexts.Config())
