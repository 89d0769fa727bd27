"""Which samples are learned from, against loops and by hand."""

import json

import jax
import numpy as np
import pytest

from rlaif_jax.core.types import Rollout
from rlaif_jax.data import transforms
from rlaif_jax.data.datasets import Example
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.models import hf
from rlaif_jax.stages import _samples, _selection, common, evaluate

SCORES = np.array([0.3, -1.0, 2.0, 0.3, 0.0, 2.0, 0.5])
GROUPS = ['a', 'a', 'b', 'a', 'b', 'b', 'c']


def kept(rule, threshold=0.0, scores=SCORES):
  places, limit = _selection.choose(scores, GROUPS, rule, threshold)
  return places.tolist(), limit


def test_rules_by_hand():
  assert kept('all') == ([0, 1, 2, 3, 4, 5, 6], None)
  # Of equal ones the first: a's two of 0.3, b's two of 2.0.
  assert kept('best') == ([0, 2, 6], None)
  # Above, and not at: 0.3 is out.
  assert kept('threshold', 0.3) == ([2, 5, 6], 0.3)
  assert kept('threshold', 9.0) == ([], 9.0)
  # Sorted: -1, 0, 0.3, 0.3, 0.5, 2, 2; the median is 0.3.
  assert kept('quantile', 0.5) == ([0, 2, 3, 5, 6], 0.3)
  assert kept('quantile', 0.0) == ([0, 1, 2, 3, 4, 5, 6], -1.0)


def test_quantile_equals_a_loop():
  """Linear between order statistics, and rising quantiles are nested."""
  scores = np.random.default_rng(0).normal(size=41)
  before = set(range(41))
  for share in (0.0, 0.25, 0.5, 0.75, 0.9, 0.99):
    places, limit = _selection.choose(scores, [0] * 41, 'quantile', share)
    ordered, at = sorted(scores), share * 40
    low, part = int(at), at - int(at)
    high = ordered[min(low + 1, 40)]
    expected = ordered[low] + part * (high - ordered[low])
    assert limit == pytest.approx(expected, abs=1e-12)
    assert places.tolist() == [i for i in range(41) if scores[i] >= limit]
    assert set(places.tolist()) <= before
    before = set(places.tolist())


def test_best_equals_a_loop():
  rng = np.random.default_rng(1)
  scores, groups = rng.integers(0, 5, 60), rng.integers(0, 12, 60)
  expected = []
  for group in set(groups.tolist()):
    rows = [i for i in range(60) if groups[i] == group]
    expected.append(max(rows, key=lambda i: (scores[i], -i)))
  places, _ = _selection.choose(scores, groups.tolist(), 'best', 0.0)
  assert places.tolist() == sorted(expected)


@pytest.mark.parametrize('count', [2, 3, 5])
def test_grades_are_equal_shares(count):
  scores = np.random.default_rng(2).permutation(30).astype(float)
  grades = _selection.grades(scores, count)
  assert np.bincount(grades).tolist() == [30 // count] * count
  # Whoever scores higher has no worse grade.
  order = np.argsort(scores)
  assert (np.diff(grades[order]) >= 0).all()


def test_grades_by_hand():
  # The median is 0.3; what scores as much is good.
  assert _selection.grades(SCORES, 2).tolist() == [1, 0, 1, 1, 0, 1, 1]
  assert _selection.grades(np.full(4, 1.5), 2).tolist() == [1, 1, 1, 1]


def test_instruction_comes_first():
  example = Example('x', 'POST: a', fields={'text': 'a'})
  assert _selection.instruct(example, '') is example
  told = _selection.instruct(example, 'Be good.')
  assert told.prompt == 'Be good.\n\nPOST: a'
  assert told.fields == example.fields


@pytest.mark.parametrize(
  ('rule', 'threshold', 'message'),
  [
    ('top', 0.0, "config.select='top'; use one of 'all', 'best'"),
    ('quantile', 1.0, 'config.threshold=1.0 is no quantile'),
    ('quantile', -0.1, 'config.threshold=-0.1 is no quantile'),
  ],
)
def test_bad_rules(rule, threshold, message):
  with pytest.raises(ValueError, match=message):
    _selection.check(rule, threshold)
  _selection.check('threshold', -7.0)


def test_kl_is_to_the_reference_as_it_is_asked(tiny_model, one_device):
  """log p(y | instruction, x) - log q(y | x), by the models' logits."""
  model, params = hf.load(tiny_model)
  tokenizer = load_tokenizer(tiny_model)
  plain = [Example('0', 'the dog ran'), Example('1', 'my job')]
  told = [_selection.instruct(e, 'go on') for e in plain]
  tokens, mask = transforms.right_pad(
    transforms.continuation_ids(['a dog', 'work is long'], tokenizer),
    8,
    tokenizer.pad_id,
  )

  def rollout(examples):
    prompts = transforms.prompt_batch(examples, tokenizer, 16)
    return Rollout(prompts.tokens, prompts.mask, tokens, mask, 0.0 * tokens)

  def logp(example, row):
    prompt = tokenizer.encode(example.prompt)
    ids = np.array([*prompt, *tokens[row][mask[row]]])[None]
    logits = model.apply(params, ids).logits[0]
    logprobs = np.asarray(jax.nn.log_softmax(logits / 0.9))
    places = range(len(prompt), ids.shape[1])
    return sum(logprobs[t - 1, ids[0, t]] for t in places)

  loaded = common.Loaded(model, params, tokenizer, '')
  divergence = _samples.make_divergence(loaded, loaded, 0.9)
  found = divergence(params, params, rollout(told), rollout(plain))
  expected = [logp(told[i], i) - logp(plain[i], i) for i in (0, 1)]
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert np.abs(expected).min() > 1e-3
  same = divergence(params, params, rollout(plain), rollout(plain))
  np.testing.assert_allclose(same, 0.0, atol=1e-6)


def test_evaluation_tells_a_policy_more(tiny_model, tmp_path, one_device):
  """The same model, told something: other answers, and KL to itself."""
  c = evaluate.default_config()
  c.data.update(name='tiny_tldr', path='', split='test', size=5)
  for name in ('sft', 'copy', 'told'):
    c.policies[name] = tiny_model
  c.instructions.told = 'i am so sad.'
  c.max_prompt, c.max_response, c.batch_size = 80, 6, 4
  c.evals = {'text': {}}
  c.rating.mode = ''
  evaluate.run(c, tmp_path)
  rows = [
    json.loads(x) for x in (tmp_path / 'samples.jsonl').read_text().splitlines()
  ]
  answers = [row['responses'] for row in rows]
  assert all(a['copy'] == a['sft'] for a in answers)
  assert any(a['told'] != a['sft'] for a in answers)
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert abs(summary['metrics']['objective/kl/copy']) < 1e-5
  assert abs(summary['metrics']['objective/kl/told']) > 1e-3
  c.instructions['nobody'] = 'x'
  with pytest.raises(ValueError, match="config.instructions names 'nobody'"):
    evaluate.check(c)
