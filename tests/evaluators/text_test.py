import pytest

from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import Context, text


def test_lengths():
  assert text.mean_words(['one two', '', 'three']) == pytest.approx(1.0)
  assert text.mean_chars(['abcd', '']) == 2.0


def test_repeated_ngrams_by_hand():
  # a b c | b c a | c a b | a b c: one of four has occurred before.
  assert text.repeated_ngrams(['a b c a b c']) == pytest.approx(0.25)
  # 'x x x x': both trigrams alike. Too short counts 0.
  assert text.repeated_ngrams(['x x x x', 'a b']) == pytest.approx(0.25)
  # Repeats in another response are no repeats.
  assert text.repeated_ngrams(['a b c', 'a b c']) == 0.0


def test_distinct_ngrams_by_hand():
  assert text.distinct_ngrams(['a b a', 'a'], 1) == pytest.approx(2 / 4)
  assert text.distinct_ngrams(['a b a', 'a b'], 2) == pytest.approx(2 / 3)
  assert text.distinct_ngrams(['', 'a'], 2) == 0.0


def test_evaluate():
  context = Context(
    examples=[Example(id='0', prompt='p'), Example(id='1', prompt='q')],
    samples={'sft': ['a b', 'c'], 'rlaif': ['a b c a b c', '']},
    ended={'rlaif': [True, False]},
    kl={'rlaif': 2.5},
    baseline='sft',
  )
  metrics = text.evaluate(context, text.Config())
  assert metrics['text/words/sft'] == 1.5
  assert metrics['text/chars/rlaif'] == 5.5
  assert metrics['text/repeated_3grams/rlaif'] == pytest.approx(0.125)
  assert metrics['text/distinct_2/rlaif'] == pytest.approx(3 / 5)
  assert metrics['text/ended/rlaif'] == 0.5
  assert metrics['objective/kl/rlaif'] == 2.5
  assert 'text/ended/sft' not in metrics
