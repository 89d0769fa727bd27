"""Rationales, self-consistency, criteria and clamps."""

import dataclasses

import jax
import numpy as np
import pytest

from rlaif_jax import sharding
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.labeler import (
  ask,
  criteria,
  direct,
  preference,
  prompts,
  template,
)

BASE = prompts.load_prompt('summary_base')
COT = dataclasses.replace(
  BASE, name='mine', chain_of_thought='Say why. Rationale:'
)
FIELDS = {'text': 'POST: My cat is ill.'}
SAMPLED = SamplingConfig(temperature=1.0, top_k=40)


class Scribe:
  """Writes what it is told to, and prefers the first slot by what it reads."""

  limit = 1000

  def __init__(self, written):
    self.written, self.asked, self.scored = iter(written), [], []

  def fits(self, text, room=0):
    return len(text.split()) + room <= self.limit

  def write(self, texts, *, max_tokens, sampling, seed, ids):
    self.asked += zip(ids, texts, strict=True)
    return [next(self.written) for _ in texts]

  def score_texts(self, texts, labels, *, ids):
    self.scored += texts
    share = [0.9 if 'GOOD' in text else 0.4 for text in texts]
    return np.log([[p, 1 - p] for p in share]).astype(np.float32) - 2


def test_the_label_is_scored_after_the_rationale():
  fake = Scribe([' first GOOD.\n\nPreferred Summary=2 2,9', 'no idea'])
  (label,) = preference.label_pairs(fake, COT, [('r', FIELDS, ('a', 'b'))])
  assert [name for name, _ in fake.asked] == ['r #0', 'r #0']
  assert all(text.endswith('Say why. Rationale:') for _, text in fake.asked)
  # Each order has its own rationale, and what the labeler states is cut off.
  assert label.rationales == ('first GOOD.', 'no idea')
  assert fake.scored[0].endswith('Rationale: first GOOD.\n\nPreferred Summary=')
  assert fake.scored[1].endswith('Rationale: no idea\n\nPreferred Summary=')
  np.testing.assert_allclose(label.logprobs_12, np.log([0.9, 0.1]) - 2, 1e-5)
  # 0.9 for the first; swapped 0.6 for the second slot, which shows it.
  assert label.p_first == pytest.approx((0.9 + 0.6) / 2, abs=1e-6)


def test_self_consistency_averages_distributions():
  fake = Scribe(['GOOD', 'x', 'x', 'x'])
  thinking = ask.Thinking(samples=2, sampling=SAMPLED)
  (label,) = preference.label_pairs(
    fake, COT, [('r', FIELDS, ('a', 'b'))], thinking=thinking
  )
  assert [name for name, _ in fake.asked] == ['r #0', 'r #1', 'r #0', 'r #1']
  own, swapped = (0.9 + 0.4) / 2, 0.4
  assert label.p_first == pytest.approx((own + 1 - swapped) / 2, abs=1e-6)
  np.testing.assert_allclose(np.exp(label.logprobs_12), [own, 1 - own], 1e-5)
  assert label.rationales == ('GOOD', 'x', 'x', 'x')


def test_a_clamp_bounds_the_averaged_label():
  pairs = [('r', FIELDS, ('a', 'b'))]
  (label,) = preference.label_pairs(
    Scribe(['GOOD', 'x']), COT, pairs, clamp=(0.4, 0.6)
  )
  assert label.p_first == 0.6
  with pytest.raises(ValueError, match='clamp='):
    preference.label_pairs(Scribe([]), COT, pairs, clamp=(0.6, 0.4))


def test_wrong_ways_of_thinking():
  with pytest.raises(ValueError, match='all the same'):
    ask.Thinking(samples=4)
  with pytest.raises(ValueError, match='at least 1'):
    ask.Thinking(max_tokens=0)


def test_room_for_the_rationale_is_kept():
  """The post is cut so that the longest rationale still fits."""
  fake = Scribe(['why', 'why'])
  fake.limit = 120
  thinking = ask.Thinking(max_tokens=60)
  post = {'text': 'POST: one\n' + 'word ' * 200}
  (label,) = preference.label_pairs(
    fake, COT, [('r', post, ('a', 'b'))], thinking=thinking
  )
  assert label.cut
  words = [len(text.split()) for _, text in fake.asked]
  assert max(words) <= 120 - 60
  (none,) = preference.label_pairs(
    fake, COT, [('r', post, ('a ' * 80, 'b'))], thinking=thinking
  )
  assert none is None


# -- a real (random) model ----------------------------------------------------


def test_writing_depends_on_the_row_alone(labeler):
  texts = [f'Summary {i} - the cat sat.\n\nRationale:' for i in range(5)]
  ids = [f'r{i}' for i in range(5)]
  options = dict(max_tokens=6, sampling=SAMPLED, seed=3)
  whole = labeler.write(texts, ids=ids, **options)
  assert len(set(whole)) == 5
  alone = labeler.write(texts[2:3], ids=ids[2:3], **options)
  assert alone == whole[2:3]
  backwards = labeler.write(texts[::-1], ids=ids[::-1], **options)
  assert backwards[::-1] == whole
  other = labeler.write(texts, ids=ids, **{**options, 'seed': 4})
  assert other != whole
  # The same prompt under another name is another sample.
  twice = labeler.write([texts[0]] * 2, ids=['a', 'b'], **options)
  assert twice[0] != twice[1]
  assert labeler.write([], **options) == []
  with pytest.raises(ValueError, match='r9: its prompt has'):
    labeler.write(['word ' * 300], ids=['r9'], **options)


def test_greedy_writing_equals_the_plain_argmax(labeler):
  text = 'Summary 1 - my cat.\n\nRationale:'
  (written,) = labeler.write(
    [text], max_tokens=5, sampling=SamplingConfig(greedy=True)
  )
  ids = labeler.tokenizer.encode(text)
  start = len(ids)
  apply = jax.jit(labeler.model.apply)
  for _ in range(5):
    logits = apply(labeler.params, np.array([ids])).logits
    ids.append(int(logits[0, -1].argmax()))
    if ids[-1] in labeler.tokenizer.eos_ids:
      ids.pop()
      break
  assert written == labeler.tokenizer.decode(ids[start:])


@pytest.mark.multidevice
def test_writing_on_a_mesh(labeler):
  texts = [f'The cat {i}.\n\nRationale:' for i in range(3)]
  options = dict(max_tokens=4, sampling=SamplingConfig(greedy=True))
  expected = labeler.write(texts, **options)
  mesh = sharding.make_mesh({'data': 4, 'fsdp': 2, 'tensor': 1})
  with jax.set_mesh(mesh):
    assert labeler.write(texts, **options) == expected


@pytest.mark.parametrize('name', ['summary_base_cot', 'harmless_base_cot'])
def test_swapping_mirrors_labels_with_rationales(labeler, name):
  prompt = prompts.load_prompt(name)
  field = prompt.field_names[0]
  thinking = ask.Thinking(max_tokens=8)
  pairs = [(f'r{i}', {field: 'My cat.'}, ('the cat', 'a' * i)) for i in (1, 3)]
  own = preference.label_pairs(labeler, prompt, pairs, thinking=thinking)
  swapped = preference.label_pairs(
    labeler,
    prompt,
    [(i, f, (b, a)) for i, f, (a, b) in pairs],
    thinking=thinking,
  )
  for a, b in zip(own, swapped, strict=True):
    assert a.p_first + b.p_first == pytest.approx(1, abs=1e-5)
    assert a.rationales == b.rationales[::-1]
    assert a.rationales[0] != a.rationales[1]


# -- criteria -----------------------------------------------------------------


def test_all_criteria_of_a_rubric_by_weight(labeler):
  rubric = prompts.load_prompt('summary_rubric')
  (found,) = direct.score_responses(labeler, rubric, [FIELDS], ['ill cat'])
  each = []
  for criterion in rubric.criteria:
    text = template.render(
      rubric, FIELDS, ('ill cat',), criterion=criterion.text
    )
    assert criterion.text in text
    logprobs = labeler.score_texts([text], rubric.labels)
    each.append(float(direct.expected_score(logprobs)[0]))
  weights = [c.weight for c in rubric.criteria]
  assert found == pytest.approx(np.average(each, weights=weights), abs=1e-4)
  assert found != pytest.approx(np.mean(each), abs=1e-6)


def test_principles_are_drawn_by_row_and_seed():
  prompt = prompts.load_prompt('harmless_constitution')
  drawn = [criteria.of_row(prompt, f'r{i}') for i in range(400)]
  assert all(len(found) == 1 for found in drawn)
  assert drawn == [criteria.of_row(prompt, f'r{i}') for i in range(400)]
  counts = {c: drawn.count((c,)) for c in prompt.criteria}
  assert min(counts.values()) > 10  # 25 expected
  other = [criteria.of_row(prompt, f'r{i}', seed=1) for i in range(400)]
  assert other != drawn
  four = dataclasses.replace(prompt, num_drawn=4)
  assert len(set(criteria.of_row(four, 'r0'))) == 4
  assert criteria.of_row(BASE, 'r0') == (prompts.Criterion(''),)


def test_an_ensemble_of_principles_is_averaged(labeler):
  prompt = dataclasses.replace(
    prompts.load_prompt('harmless_constitution'), num_drawn=2
  )
  pair = ('r0', {'context': 'Human: hi'}, ('go away', 'hello'))
  (label,) = preference.label_pairs(labeler, prompt, [pair])
  each = [
    preference.label_pairs(
      labeler,
      dataclasses.replace(prompt, criteria=(criterion,), num_drawn=0),
      [pair],
    )[0].p_first
    for criterion in criteria.of_row(prompt, 'r0')
  ]
  assert label.p_first == pytest.approx(np.mean(each), abs=1e-5)


def test_log_odds_of_yes(labeler):
  prompt = prompts.load_prompt('summary_yes_no')
  found = direct.score_responses(labeler, prompt, [FIELDS] * 2, ['ill', 'dog'])
  for response, score in zip(('ill', 'dog'), found, strict=True):
    text = template.render(prompt, FIELDS, (response,))
    no, yes = labeler.score_texts([text], ('No', 'Yes'))[0]
    assert score == pytest.approx(yes - no, abs=1e-4)
  np.testing.assert_allclose(
    direct.log_odds(np.array([[-1.0, -3.0]]), 'worse'), [2.0]
  )
  assert (direct.to_reward(found, prompt) == found).all()
