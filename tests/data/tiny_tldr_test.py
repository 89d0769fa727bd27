import itertools

import numpy as np
import pytest

from rlaif_jax.data.datasets import Example, load_dataset, tiny_tldr
from rlaif_jax.data.datasets import _tiny_tldr_words as words

FACTS = {
  'who': 'sister',
  'event': 'wedding',
  'amount': 'forty',
  'feeling': 'angry',
  'ask': 'leave',
}
POST = (
  'it all started with my sister. then the wedding came. it cost me forty '
  'dollars. please be kind. now i am just so angry. should i just leave?'
)
EXAMPLE = Example(id='0', prompt='', meta={'facts': FACTS})
FULL = (
  'about my sister, the wedding happened, costs forty dollars, i feel angry, '
  'should i leave.'
)


def _score(text):
  return tiny_tldr.oracle(EXAMPLE, text)


@pytest.fixture(scope='module')
def train():
  return tiny_tldr.load(None, 'train', size=1500)


@pytest.fixture(scope='module')
def pairs():
  return tiny_tldr.load(None, 'preferences', size=4000)


def _differences(examples):
  return np.array(
    [
      tiny_tldr.oracle(e, e.pair[0]) - tiny_tldr.oracle(e, e.pair[1])
      for e in examples
    ]
  )


def test_prompt_is_the_tldr_query_format(train):
  for example in train[:50]:
    subreddit = example.meta['subreddit']
    assert example.prompt == example.fields['text'] + '\n\nTL;DR:'
    head, title, post = example.fields['text'].split('\n\n')
    assert head == f'SUBREDDIT: r/{subreddit}'
    assert title.startswith('TITLE: ')
    body = post.removeprefix('POST: ')
    assert 18 <= len(body.split()) <= 32
    assert body == body.lower()
    said = set(body.replace('.', '').replace('?', '').split())
    assert set(example.meta['facts'].values()) <= said
    assert 3 <= len(example.meta['facts']) <= 4


def test_same_arguments_same_rows_and_other_seed_other_rows():
  first = tiny_tldr.load(None, 'preferences', size=20)
  assert tiny_tldr.load(None, 'preferences', size=20) == first
  assert tiny_tldr.load(None, 'preferences', size=10) == first[:10]
  assert load_dataset('tiny_tldr', None, 'preferences', size=20) == first
  other = tiny_tldr.load(None, 'preferences', size=20, seed=1)
  assert not {e.prompt for e in first} & {e.prompt for e in other}


def test_first_row_is_the_same_on_every_machine():
  row = tiny_tldr.load(None, 'test', size=1)[0]
  assert row.id == 'test-0-0'
  assert row.prompt == (
    'SUBREDDIT: r/gardening\n\nTITLE: a weird situation\n\nPOST: it '
    'all started with my teacher. i could not sleep at all. then the '
    'funeral came. it was late in winter.\n\nTL;DR:'
  )
  assert row.response == 'trouble with the funeral, it concerns my teacher.'


def test_labelers_and_policies_read_different_subreddits(train):
  labeler = tiny_tldr.load(None, 'labeler', size=1500)
  theirs = {e.meta['subreddit'] for e in labeler}
  ours = {e.meta['subreddit'] for e in train}
  assert theirs == set(tiny_tldr.LABELER_SUBREDDITS)
  assert ours == set(tiny_tldr.POLICY_SUBREDDITS)
  assert not theirs & ours
  for examples in (labeler, train):
    seen = {tuple(f) for e in examples for f in e.meta['facts'].items()}
    assert len(seen) == sum(len(v) for v in tiny_tldr.VALUES.values())


def test_test_facts_occur_in_no_other_split():
  def facts(split):
    rows = tiny_tldr.load(None, split, size=600, seed=3)
    return {tuple(sorted(e.meta['facts'].items())) for e in rows}

  held_out = facts('test') | facts('test_preferences')
  for split in ('train', 'preferences', 'rl', 'labeler'):
    assert not held_out & facts(split), split


def test_a_value_word_means_one_fact():
  values = list(itertools.chain(*tiny_tldr.VALUES.values()))
  assert len(values) == len(set(values))
  texts = [*words.FILLERS, *words.TITLES, *words.OPENERS]
  texts += itertools.chain(*words.SENTENCES.values(), *words.CLAUSES.values())
  texts += tiny_tldr.LABELER_SUBREDDITS + tiny_tldr.POLICY_SUBREDDITS
  used = ' '.join(texts).replace('.', ' ').replace('?', ' ').split()
  assert not set(values) & set(used)


@pytest.mark.parametrize(
  ('text', 'coverage', 'accuracy', 'coherence', 'length'),
  [
    (FULL, 1, 1, 1, 1),
    ('about my sister.', 1 / 5, 1, 1, 1),
    # One true fact, one wrong value, one fact that the post lacks.
    ('i feel angry, about my boss, near the gym.', 1 / 5, 1 / 3, 1, 1),
    # Four of seven words repeat a fact.
    ('about my sister, my sister is involved.', 1 / 5, 1, 3 / 7, 1),
    # A contradiction states neither; no period at the end.
    ('about my sister, about my boss', 0, 1 / 2, 0.7, 1),
    # Outside a clause a value is mentioned but states nothing.
    ('sister angry, should i leave.', 1 / 5, 1, 3 / 5, 1),
    # An opener says nothing but is understood.
    ('to be honest about my sister.', 1 / 5, 1, 1, 1),
    # Stray marks count as words that explain nothing.
    ('about my sister....', 1 / 5, 1, 1 / 2, 1),
    ('no such words here.', 0, 0, 0, 1),
    (' '.join(['word'] * 24), 0, 0, 0, 1 / 2),
    ('', 0, 0, 0, 0),
    ('...', 0, 0, 0, 0),
  ],
)
def test_oracle_axes_by_hand(text, coverage, accuracy, coherence, length):
  axes = tiny_tldr.oracle_axes(EXAMPLE, text)
  expected = {
    'coverage': coverage,
    'accuracy': accuracy,
    'coherence': coherence,
    'length': length,
  }
  assert axes == pytest.approx(expected)
  total = sum(tiny_tldr.WEIGHTS[k] * v for k, v in expected.items())
  assert _score(text) == pytest.approx(total)


def test_weights_add_up_to_one():
  assert sum(tiny_tldr.WEIGHTS.values()) == pytest.approx(1)
  assert _score(FULL) == pytest.approx(1)


def _every_value():
  return ', '.join(
    words.CLAUSES[slot][0].format(**{slot: value})
    for slot, values in tiny_tldr.VALUES.items()
    for value in values
  )


@pytest.mark.parametrize(
  ('text', 'at_most'),
  [
    (_every_value() + '.', 0.25),
    (' '.join(itertools.chain(*tiny_tldr.VALUES.values())) + '.', 0.1),
    (POST, 0.5),
    (' '.join(FACTS.values()) + '.', 0.5),
    (' '.join([FULL] * 4), 0.85),
    ('about my sister, ' * 20, 0.5),
    ('about my sister.' + '.' * 60, 0.45),
    ('', 0.0),
    ('.', 0.0),
    ('\n\n, ! ? 日本 \x00 {who} {', 0.15),
    ('the the the the', 0.15),
  ],
)
def test_oracle_cannot_be_gamed(text, at_most):
  assert 0 <= _score(text) <= at_most
  assert _score(text) < _score(FULL) - 0.1


def test_each_flaw_costs_something():
  flaws = {
    'missing': FULL.replace('about my sister, ', ''),
    'wrong': FULL.replace('sister', 'boss'),
    'invented': FULL.replace('.', ', near the gym.'),
    'repeated': FULL.replace('.', ', about my sister.'),
    'shuffled': FULL.replace('costs forty dollars', 'dollars costs forty'),
    'unended': FULL.removesuffix('.'),
    'too long': 'to be honest ' + FULL.replace(', ', ', so basically '),
  }
  for flaw, text in flaws.items():
    assert text != FULL, flaw
    assert _score(text) < _score(FULL) - 0.015, flaw


def test_references_leave_room_for_improvement(train):
  rng = np.random.default_rng(0)
  scores, best = [], []
  for example in train:
    scores.append(tiny_tldr.oracle(example, example.response))
    facts = example.meta['facts']
    text = tiny_tldr.write_summary(facts, rng, tiny_tldr.PERFECT)
    best.append(tiny_tldr.oracle(example, text))
  assert 0.65 < np.mean(scores) < 0.78
  assert np.std(scores) > 0.1
  assert min(best) > 0.98


def test_human_agrees_with_the_oracle_about_75_percent(pairs):
  difference = _differences(pairs)
  chosen = np.array([e.p_first for e in pairs])
  assert set(chosen) == {0.0, 1.0}
  clear = np.abs(difference) > 1e-9
  agreement = np.mean((difference > 0)[clear] == (chosen == 1)[clear])
  assert 0.72 < agreement < 0.78, agreement
  assert 0.8 < clear.mean() < 0.95
  assert 0.47 < chosen.mean() < 0.53


def test_human_choice_follows_the_seed():
  votes = [
    tiny_tldr.human_prefers(EXAMPLE, FULL, 'about my sister.', seed)
    for seed in range(300)
  ]
  # 1 / (1 + exp(-0.36 / 0.16))
  assert np.mean(votes) == pytest.approx(0.905, abs=0.04)
  again = tiny_tldr.human_prefers(EXAMPLE, FULL, 'about my sister.', 7)
  assert again == votes[7]


def test_pairs_differ():
  for split in ('preferences', 'test_preferences', 'labeler'):
    for example in tiny_tldr.load(None, split, size=300):
      first, second = example.pair
      assert first != second
      assert first == first.strip() and second == second.strip()


def test_labeler_pairs_are_wider_than_human_pairs(pairs):
  labeler = tiny_tldr.load(None, 'labeler', size=1500)
  assert all(e.p_first is None for e in labeler)
  wide = np.abs(_differences(labeler)).mean()
  assert wide > 1.3 * np.abs(_differences(pairs)).mean()


def test_verdicts_follow_the_oracle_and_lean_to_the_first_slot():
  rng = np.random.default_rng(0)
  labeler = tiny_tldr.load(None, 'labeler', size=1500)
  difference = _differences(labeler)
  fair = np.array([tiny_tldr.noisy_verdict(e, rng) for e in labeler])
  assert np.mean(fair == (difference > 0)) > 0.85
  assert fair.mean() == pytest.approx(0.5, abs=0.05)
  leaning = [tiny_tldr.noisy_verdict(e, rng, slot_bias=1.0) for e in labeler]
  close = np.abs(difference) < 0.03
  assert np.mean(leaning) > fair.mean() + 0.03
  assert np.array(leaning)[close].mean() > 0.6


def test_scores_use_the_whole_range():
  rng = np.random.default_rng(0)
  labeler = tiny_tldr.load(None, 'labeler', size=1500)
  scores = [tiny_tldr.noisy_score(e, e.pair[0], rng) for e in labeler]
  share = np.bincount(scores, minlength=11) / len(scores)
  assert share[0] == 0
  assert len(share) == 11
  assert share[1:].min() > 0.02
  exact = [tiny_tldr.oracle(e, e.pair[0]) for e in labeler]
  assert np.corrcoef(scores, exact)[0, 1] > 0.95
  assert tiny_tldr.noisy_score(EXAMPLE, FULL, rng, noise=0) == 10
  assert tiny_tldr.noisy_score(EXAMPLE, '', rng, noise=0) == 1


def test_bad_arguments_are_named():
  with pytest.raises(ValueError, match="no split 'valid'; choose one of train"):
    tiny_tldr.load(None, 'valid')
  with pytest.raises(ValueError, match='reads no file'):
    tiny_tldr.load('folder', 'train')
  with pytest.raises(ValueError, match="named 'nothing'.*tiny_tldr"):
    load_dataset('nothing', None, 'train')
