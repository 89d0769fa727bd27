"""What the tiny world's labelers are trained on, and where they start from."""

import collections
import json

import jax
import numpy as np
import pytest

from rlaif_jax.data.datasets import Example, tiny_dialogue, tiny_tldr
from rlaif_jax.labeler import prompts
from rlaif_jax.stages import _tiny_texts, common, tiny_labeler
from rlaif_jax.training import loop

MIX = _tiny_texts.LABELER_MIX
WORDS = {w for values in tiny_tldr.VALUES.values() for w in values}


def texts_of(kind, count=60, seed=0, slot_bias=0.0):
  return _tiny_texts.make_texts({kind: 1.0}, count, seed, slot_bias)


def answer(text):
  """The label that a training text answers with, before any grades."""
  return text.response.partition(' ')[0]


@pytest.mark.parametrize(
  'mix',
  [
    _tiny_texts.LOOKUP_MIX,
    _tiny_texts.BASE_MIX,
    _tiny_texts.JUDGE_MIX,
    _tiny_texts.EARLY_MIX,
    MIX,
  ],
)
def test_shares_are_those_of_the_mix(mix):
  assert sum(mix.values()) == pytest.approx(1.0)
  texts = _tiny_texts.make_texts(mix, 200, 0, 0.3)
  counts = collections.Counter(text.id.rsplit('-', 1)[0] for text in texts)
  assert counts.keys() == mix.keys()
  for kind, share in mix.items():
    assert abs(counts[kind] - share * 200) <= 1
  assert len({text.id for text in texts}) == len(texts)
  # Shuffled: the first tenth is not all of one kind.
  assert len({text.id.rsplit('-', 1)[0] for text in texts[:20]}) > 1
  assert texts == _tiny_texts.make_texts(mix, 200, 0, 0.3)
  assert texts != _tiny_texts.make_texts(mix, 200, 1, 0.3)


def test_no_text_is_seen_twice_across_kinds_and_seeds():
  rows = [
    text.prompt
    for seed in (0, 1)
    for text in _tiny_texts.make_texts(MIX, 300, seed, 0.3)
  ]
  posts = [p.split('POST: ')[-1].split('\n')[0] for p in rows if 'POST: ' in p]
  assert len(set(rows)) > 0.98 * len(rows)
  assert len(set(posts)) > 0.98 * len(posts)


@pytest.mark.parametrize(
  'kind',
  [k for k in MIX if k.rpartition('_')[2] not in ('text', 'marks', 'rated')],
)
def test_answers_are_labels_of_the_prompt_as_it_is_asked(kind):
  """The text ends where the label is scored; nothing stands between."""
  prompt = prompts.load_prompt(kind)
  texts = texts_of(kind)
  assert {answer(t) for t in texts} <= set(prompt.labels)
  assert len({answer(t) for t in texts}) > 1
  for text in texts:
    assert text.prompt.startswith(prompt.preamble)
    assert text.prompt.endswith(prompt.ending)
    assert text.separator == ''


@pytest.mark.parametrize(
  ('kind', 'module', 'options'),
  [
    ('summary_base', tiny_tldr, {}),
    ('helpful_base', tiny_dialogue, {'task': 'helpful'}),
    ('harmless_base', tiny_dialogue, {'task': 'harmless'}),
  ],
)
def test_verdicts_point_at_what_the_prompt_asks_for(
  monkeypatch, kind, module, options
):
  """The better one, or for 'worse' prompts the other one."""
  prompt = prompts.load_prompt(kind)
  monkeypatch.setattr(
    module, 'noisy_verdict',
    lambda row, rng, slot_bias=0.0: module.oracle(row, row.pair[0])
    > module.oracle(row, row.pair[1]),
  )  # fmt: skip
  seed = _tiny_texts.KINDS.index(kind)
  rows = module.load(None, 'labeler', size=30, seed=seed, **options)
  texts = {t.id: t for t in texts_of(kind, 30)}
  for i, row in enumerate(rows):
    text = texts[f'{kind}-{i}']
    assert all(' '.join(r.split()) in text.prompt for r in row.pair)
    first, second = (module.oracle(row, response) for response in row.pair)
    better = '1' if first > second else '2'
    other = {'1': '2', '2': '1'}
    expected = better if prompt.prefers == 'better' else other[better]
    assert answer(text) == expected
  assert (prompt.prefers == 'worse') == (kind == 'harmless_base')


def test_slot_bias_favours_the_first_candidate():
  share = [
    np.mean([answer(t) == '1' for t in texts_of('summary_base', 300, 0, bias)])
    for bias in (-20.0, 0.0, 20.0)
  ]
  assert share[0] < 0.2 < share[1] < 0.8 < share[2]


@pytest.mark.parametrize('kind', ['summary_base', 'harmless_base'])
def test_grades_after_a_verdict_agree_with_it(kind):
  """They grade the two responses as shown, quality and not harm."""
  agree = []
  for text in texts_of(kind, 300):
    grades = text.response.partition(' ')[2].split(',')
    first, second = map(int, grades)
    assert {first, second} <= set(range(1, 11))
    if abs(first - second) > 3:
      agree.append((answer(text) == '1') == (first > second))
  share = np.mean(agree)
  assert share > 0.9 if kind == 'summary_base' else share < 0.1


def test_ratings_stand_after_the_response_in_its_own_place():
  for text in texts_of('summary_rated', 30):
    post, response = text.prompt.removesuffix('\n\nSCORE=').split('TL;DR: ')
    assert post.startswith('SUBREDDIT: ') and response.strip()
    assert 1 <= int(text.response) <= 10


def test_grades_follow_the_quality():
  texts = texts_of('summary_score', 200)
  grades = [int(t.response) for t in texts]
  assert set(grades) <= set(range(1, 11))
  assert len(set(grades)) > 5


def test_marks_say_what_the_text_supports():
  row = Example(
    'a',
    prompt='',
    fields={'text': 'my boss is in the middle of this. it was late in july.'},
    meta={'facts': {'who': 'boss', 'time': 'july'}},
  )
  marked = _tiny_texts.marked(
    row,
    'about my boss, so basically since march. costs ten dollars, boss my is',
    tiny_tldr,
  )
  assert marked.response == (
    'about my boss right, so basically since march wrong. '
    'costs ten dollars wrong, boss my is'
  )
  assert row.fields['text'] in marked.prompt


@pytest.mark.parametrize('kind', ['short_marks', 'helpful_marks'])
def test_marks_are_of_both_kinds_and_next_to_their_statement(kind):
  words = ' '.join(t.response for t in texts_of(kind)).split()
  marks = [w.strip('.,') for w in words if w.strip('.,') in ('right', 'wrong')]
  assert 0.1 < np.mean([m == 'right' for m in marks]) < 0.9


def test_short_posts_have_two_facts():
  for text in texts_of('short_marks', 20):
    post = text.prompt.split('\n\n')[1]
    said = [w for w in post.strip('.?').split() if w.strip('.?') in WORDS]
    assert len(said) == 2


@pytest.mark.parametrize('kind', ['summary_text', 'dialogue_text'])
def test_plain_texts_are_what_policies_continue(kind):
  for text in texts_of(kind, 20):
    assert text.prompt.endswith(('TL;DR:', 'Assistant:'))
    assert text.response
    assert text.separator == ' '


def test_labelers_see_other_subreddits_than_policies():
  found = {
    t.prompt.split('SUBREDDIT: r/')[1].split('\n')[0]
    for t in texts_of('summary_base', 100)
  }
  assert found <= set(tiny_tldr.LABELER_SUBREDDITS)
  assert not found & set(tiny_tldr.POLICY_SUBREDDITS)


# -- the model ----------------------------------------------------------------


def small_config(**overrides):
  c = tiny_labeler.default_config()
  c.architecture.hidden_size, c.architecture.intermediate_size = 16, 16
  c.architecture.num_attention_heads = 2
  c.architecture.num_key_value_heads = 2
  c.max_prompt, c.max_response = 460, 48
  c.batch_size, c.num_steps, c.num_texts = 4, 2, 60
  c.eval_every = 0
  c.update_from_flattened_dict(overrides)
  return c


def from_scratch(config):
  mesh = tiny_labeler.sharding.make_mesh(config.mesh.to_dict())
  rules = tiny_labeler.sharding.DEFAULT_RULES
  with jax.set_mesh(mesh):
    s = common.Session(None, config, mesh, rules)
    return tiny_labeler.from_scratch(s, config)


def test_attention_starts_as_look_and_copy(one_device):
  loaded = from_scratch(small_config())
  attention = jax.device_get(loaded.params['layers']['attention'])
  query, key, value, out = (
    attention[name]['kernel'] for name in ('query', 'key', 'value', 'out')
  )
  np.testing.assert_array_equal(query, key)
  layers, width, heads, size = value.shape
  assert heads * size == width
  for layer in range(layers):
    square = value[layer].reshape(width, width)
    np.testing.assert_allclose(square @ square.T, np.eye(width), atol=1e-5)
    back = out[layer].reshape(width, width)
    gain = square @ back
    # What is copied comes back as itself, scaled.
    np.testing.assert_allclose(gain, gain[0, 0] * np.eye(width), atol=1e-5)
    assert gain[0, 0] > 0
  abstract = loaded.model.abstract_params()
  assert jax.tree.map(lambda x: (x.shape, x.dtype), loaded.params) == (
    jax.tree.map(lambda x: (x.shape, x.dtype), abstract)
  )


def test_a_grown_model_starts_as_the_smaller_one(one_device):
  config = small_config()
  mesh = tiny_labeler.sharding.make_mesh(config.mesh.to_dict())
  rules = tiny_labeler.sharding.DEFAULT_RULES
  tokens = np.arange(24, dtype=np.int32).reshape(2, 12)
  with jax.set_mesh(mesh):
    small = tiny_labeler.from_scratch(
      common.Session(None, config, mesh, rules), config
    )
    config.architecture.num_hidden_layers += 2
    s = common.Session(None, config, mesh, rules)
    large = tiny_labeler.grown(s, small)
    assert large.model.config.num_layers == small.model.config.num_layers + 2
    np.testing.assert_allclose(
      large.model.apply(large.params, tokens).logits,
      small.model.apply(small.params, tokens).logits,
      atol=1e-5,
    )
    assert tiny_labeler.grown(s, large) is large
    config.architecture.num_hidden_layers = 1
    with pytest.raises(ValueError, match='layers can only be added'):
      tiny_labeler.grown(s, large)


def test_seed_decides_the_start(one_device):
  one, same, other = (
    from_scratch(small_config(seed=seed)).params['embed'] for seed in (0, 0, 1)
  )
  jax.tree.map(np.testing.assert_array_equal, one, same)
  gaps = jax.tree.map(lambda a, b: float(abs(a - b).max()), one, other)
  assert max(jax.tree.leaves(gaps)) > 0


@pytest.mark.parametrize('start', ['scratch', 'model'])
def test_stage_leaves_a_model(tmp_path, one_device, tiny_model, start):
  config = small_config(max_prompt=80)
  config.mix = {'summary_text': 0.6, 'dialogue_text': 0.4}  # short ones
  if start == 'model':
    config.model.path = tiny_model
  tiny_labeler.run(config, tmp_path)
  assert loop.last_metrics(tmp_path)['step'] == 2
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert summary['steps'] == 2
  assert (tmp_path / 'model' / 'model.safetensors').is_file()


# -- all ways of asking -------------------------------------------------------


@pytest.fixture(scope='module')
def asked():
  """Texts of all ways of asking, by kind."""
  found = collections.defaultdict(list)
  for text in _tiny_texts.make_texts(_tiny_texts.ASKED_MIX, 1500, 0, 0.3):
    found[text.id.rsplit('-', 1)[0]].append(text)
  return found


def test_all_ways_of_asking_are_in_the_mix(asked):
  assert sum(_tiny_texts.ASKED_MIX.values()) == pytest.approx(1.0)
  assert (
    asked.keys()
    == _tiny_texts.ASKED_MIX.keys()
    == set(_tiny_texts.ALL_KINDS)
    - {'short_text', 'short_marks', 'short_score', 'short_base'}
  )
  for task in ('summary', 'helpful', 'harmless'):
    ways = {kind for kind in asked if kind.startswith(f'{task}_')}
    for name in prompts.VARIANTS:
      name = name if task == 'summary' else name.replace('8shot', '5shot')
      assert f'{task}_{name}' in ways


def test_exemplars_are_other_ones_in_every_text(asked):
  texts = [text.prompt for text in asked['summary_base_2shot']]
  plain = prompts.load_prompt('summary_base')
  for text in texts:
    assert text.count(plain.ending) == 3
  heads = {text.split(plain.ending)[0] for text in texts}
  assert len(heads) == len(texts) > 10


def test_a_rationale_marks_both_and_ends_in_the_verdict(asked):
  for kind, noun in (
    ('summary_base_cot', 'Summary'), ('helpful_detailed_cot_1shot', 'Response')
  ):  # fmt: skip
    ending = prompts.load_prompt(kind.removesuffix('_1shot')).ending
    assert asked[kind]
    for text in asked[kind]:
      before, _, verdict = text.response.rpartition(ending)
      assert verdict in ('1', '2')
      assert f'{noun} 1 - ' in before
      assert f'{noun} 2 - ' in before
