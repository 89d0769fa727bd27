"""ROUGE and copying against counts by hand and plain recomputations."""

import itertools

import numpy as np
import pytest

from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import Context, overlap


def test_rouge_by_hand():
  response, reference = 'The cat sat on a mat.', 'the cat is on the mat'
  # the, cat, on, mat of 6 and 6 words; "the" counts once on our side.
  assert overlap.rouge_n(response, reference, 1) == pytest.approx(4 / 6)
  assert overlap.rouge_n(response, reference, 2) == pytest.approx(1 / 5)
  assert overlap.rouge_l(response, reference) == pytest.approx(4 / 6)
  # 2 of 2 words against 2 of 4.
  assert overlap.rouge_n('a b', 'a b c d', 1) == pytest.approx(2 * 2 / 6)


def test_rouge_at_its_ends():
  assert overlap.rouge_l('same words here', 'Same, words HERE!') == 1.0
  for response in ('', '...', 'other'):
    assert overlap.rouge_l(response, 'words here') == 0.0
    assert overlap.rouge_n(response, 'words here', 2) == 0.0
  assert overlap.rouge_n('', '', 1) == 0.0


def _table(a, b):
  """The textbook's table of longest common subsequences."""
  best = np.zeros((len(a) + 1, len(b) + 1), int)
  for i, j in itertools.product(range(len(a)), range(len(b))):
    best[i + 1, j + 1] = (
      best[i, j] + 1 if a[i] == b[j] else max(best[i, j + 1], best[i + 1, j])
    )
  return best[-1, -1]


@pytest.mark.parametrize('seed', range(30))
def test_common_subsequence_is_that_of_the_table(seed):
  rng = np.random.default_rng(seed)
  a, b = (
    [str(x) for x in rng.integers(rng.integers(1, 9), size=rng.integers(90))]
    for _ in range(2)
  )
  assert overlap.common_subsequence(a, b) == _table(a, b)


def _longest_run(said, source):
  runs = [
    j - i
    for i, j in itertools.combinations(range(len(said) + 1), 2)
    if any(
      source[k : k + j - i] == said[i:j] for k in range(len(source))
    )
  ]  # fmt: skip
  return max(runs, default=0)


@pytest.mark.parametrize('seed', range(20))
def test_longest_copy_is_the_longest_common_run(seed):
  rng = np.random.default_rng(seed)
  said, source = (
    [chr(97 + x) for x in rng.integers(4, size=rng.integers(25))]
    for _ in range(2)
  )
  found = overlap.longest_copy(' '.join(said), ' '.join(source))
  assert found == _longest_run(said, source)


def test_copied_by_hand():
  prompt = 'I lost my dog in the park today.'
  assert overlap.copied('lost my dog in the rain', prompt) == 3 / 4
  assert overlap.copied('my dog', prompt) == 0.0  # no trigram at all
  assert overlap.copied('my dog', prompt, 2) == 1.0
  # Words are whole: 'lo' and 'st' are not copied from 'lost'.
  assert overlap.longest_copy('lo st my dog', prompt) == 2


def test_evaluate_leaves_out_what_has_no_reference():
  examples = [
    Example(id='0', prompt='a b c d', response='a b c'),
    Example(id='1', prompt='x y z'),
  ]
  context = Context(
    examples=examples,
    samples={'sft': ['a b c', 'x y z w'], 'rlaif': ['q', 'y z']},
    baseline='sft',
  )
  metrics = overlap.evaluate(context, overlap.Config(num_samples=20))
  assert metrics['text/rouge_l/sft'] == metrics['text/rouge_l/sft_ci_low'] == 1
  assert metrics['text/rouge_l/rlaif'] == 0
  assert metrics['text/copied_3grams/sft'] == pytest.approx((1 + 0.5) / 2)
  assert metrics['text/longest_copy/sft'] == 3
  assert metrics['text/longest_copy/rlaif'] == 1
  without = Context(
    examples=examples[1:], samples={'sft': ['x']}, baseline='sft'
  )
  found = overlap.evaluate(without, overlap.Config(num_samples=20))
  assert {key.split('/')[1] for key in found} == {
    'copied_3grams', 'longest_copy',
  }  # fmt: skip
