"""Soft labels: the arithmetic by hand, and pairs end to end."""

import logging

import numpy as np
import pytest

from rlaif_jax.labeler import preference, prompts

BASE = prompts.load_prompt('summary_base')
HARMLESS = prompts.load_prompt('harmless_base')


def log(*rows):
  return np.log(np.array(rows, np.float32))


def test_soft_label_by_hand():
  # Own order says 0.6/0.2 -> 3/4 for the first; swapped says 0.1/0.3 for
  # (response 2, response 1) -> 3/4 for the first.
  p = preference.soft_label(log([0.6, 0.2]), log([0.1, 0.3]))
  np.testing.assert_allclose(p, [0.75], rtol=1e-6)
  # A labeler that always says slot 1 knows nothing.
  p = preference.soft_label(log([0.9, 0.1]), log([0.9, 0.1]))
  np.testing.assert_allclose(p, [0.5], rtol=1e-6)


def test_each_order_is_renormalised_before_averaging():
  """Labels of little mass in one order must not count for less."""
  p = preference.soft_label(log([0.9, 0.1]), log([0.001, 0.001]))
  np.testing.assert_allclose(p, [0.7], rtol=1e-5)


def test_worse_prompts_are_flipped():
  own, swapped = log([0.8, 0.2]), log([0.4, 0.6])
  better = preference.soft_label(own, swapped)
  worse = preference.soft_label(own, swapped, 'worse')
  np.testing.assert_allclose(better, [0.7], rtol=1e-6)
  np.testing.assert_allclose(worse, [0.3], rtol=1e-6)


@pytest.mark.parametrize('prefers', ['better', 'worse'])
def test_properties_of_random_labels(prefers):
  rng = np.random.default_rng(0)
  own, swapped = rng.normal(-5, 4, (2, 100, 2)).astype(np.float32)
  p = np.asarray(preference.soft_label(own, swapped, prefers))
  mirrored = np.asarray(preference.soft_label(swapped, own, prefers))
  np.testing.assert_allclose(p + mirrored, 1.0, atol=1e-6)
  assert p.dtype == np.float32
  assert ((p >= 0) & (p <= 1)).all()
  assert ((p > 0.1) & (p < 0.9)).sum() > 0


class FakeLabeler:
  """Prefers the longer candidate, with a taste for the first slot."""

  limit = 100

  def fits(self, text, room=0):
    return len(text.split()) <= self.limit - room

  def score_texts(self, texts, labels, *, ids):
    self.seen = list(zip(ids, texts, strict=True))
    rows = []
    for text in texts:
      one, two = (len(text.split(f'{i} - ')[1].split('\n')[0]) for i in (1, 2))
      rows.append(np.log([one + 2, two]) - 3)
    return np.array(rows, np.float32).reshape(len(texts), 2)


def test_pairs_are_shown_in_both_orders():
  fake = FakeLabeler()
  (label,) = preference.label_pairs(
    fake, BASE, [('r1', {'text': 'post'}, ('aaaaaa', 'bb'))]
  )
  assert [i for i, _ in fake.seen] == ['r1', 'r1']
  np.testing.assert_allclose(label.logprobs_12, np.log([8, 2]) - 3, rtol=1e-6)
  np.testing.assert_allclose(label.logprobs_21, np.log([4, 6]) - 3, rtol=1e-6)
  np.testing.assert_allclose(label.p_first, (0.8 + 0.6) / 2, rtol=1e-6)
  assert label.id == 'r1'
  assert isinstance(label.p_first, float)


def test_harmless_pairs_are_flipped():
  (label,) = preference.label_pairs(
    FakeLabeler(), HARMLESS, [('r1', {'context': 'hi'}, ('aaaaaa', 'bb'))]
  )
  np.testing.assert_allclose(label.p_first, 0.3, rtol=1e-6)


def test_a_pair_that_cannot_fit_is_skipped_and_said(caplog):
  rows = [
    ('ok', {'text': 'one\ntwo'}, ('a', 'b')),
    ('huge', {'text': 'post'}, ('a ' * 200, 'b')),
    ('cut', {'text': 'POST: one\n' + 'word ' * 200}, ('a', 'b')),
  ]
  with caplog.at_level(logging.WARNING):
    labels = preference.label_pairs(FakeLabeler(), BASE, rows)
  assert [label and label.id for label in labels] == ['ok', None, 'cut']
  assert [label.cut for label in labels if label] == [False, True]
  assert 'huge: skipped' in caplog.text
  assert preference.label_pairs(FakeLabeler(), BASE, []) == []


def test_wrong_kinds_of_prompt(labeler):
  with pytest.raises(ValueError, match='choose a pairwise prompt'):
    preference.label_pairs(labeler, prompts.load_prompt('summary_score'), [])


@pytest.mark.parametrize('prompt', [BASE, HARMLESS], ids=['better', 'worse'])
def test_swapping_a_pair_mirrors_its_label(labeler, prompt):
  """The label belongs to the text and not to the place (peers' bug)."""
  field = prompt.field_names[0]
  pairs = [
    (f'r{i}', {field: f'My cat is {i} years old.'}, (f'cat is {i}', 'a' * i))
    for i in range(1, 6)
  ]
  swapped = [(i, f, (b, a)) for i, f, (a, b) in pairs]
  own = preference.label_pairs(labeler, prompt, pairs)
  other = preference.label_pairs(labeler, prompt, swapped)
  for a, b in zip(own, other, strict=True):
    assert abs(a.p_first + b.p_first - 1) < 1e-6
    np.testing.assert_allclose(a.logprobs_12, b.logprobs_21, atol=1e-5)
    assert a.logprobs_12 != a.logprobs_21
  assert len({round(a.p_first, 5) for a in own}) == 5
