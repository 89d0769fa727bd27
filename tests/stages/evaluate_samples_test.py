"""Evaluation of samples in a file, and what else it can be judged by."""

import json

import numpy as np
import pytest

from rlaif_jax.data import transforms
from rlaif_jax.data.datasets import tiny_dialogue
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.evaluators import overlap
from rlaif_jax.labeler import in_mesh, prompts, template
from rlaif_jax.models import hf
from rlaif_jax.rating import sheet
from rlaif_jax.stages import common, evaluate

TEXTS = {
  'sft': ['start with the cake.', 'i do not know', 'use the oven.', 'ok'],
  'rlaif': ['i do not know', 'i do not know', 'use the oven now.', 'no.'],
  'rlhf': ['start with the soup.', 'maybe', 'use a pan.', 'start.'],
}


def rows_of(texts=TEXTS, ids='abcd'):
  return [
    {
      'id': name,
      'prompt': f'\n\nHuman: question {name}?\n\nAssistant:',
      'responses': {policy: said[i] for policy, said in texts.items()},
      'reference': 'start with the cake.',
      'fields': {'context': f'Human: question {name}?'},
      'meta': {'harmful': i == 3},
    }
    for i, name in enumerate(ids)
  ]


@pytest.fixture
def samples(tmp_path):
  """A file of samples that no program of ours has made."""
  file = tmp_path / 'given.jsonl'
  file.write_text(''.join(json.dumps(row) + '\n' for row in rows_of()))
  return file


def make_config(samples, judge='none', **overrides):
  c = evaluate.default_config()
  c.samples = str(samples)
  c.judge.name = judge
  c.judge.max_tokens, c.judge.batch_size = 320, 4
  c.max_prompt, c.max_response, c.batch_size = 48, 16, 4
  c.evals = {'text': {}}
  c.update_from_flattened_dict(overrides)
  return c


def summary_of(workdir):
  return json.loads((workdir / 'summary.json').read_text())


def run(config, tmp_path):
  evaluate.run(config, tmp_path / 'run')
  return summary_of(tmp_path / 'run')


def test_any_file_of_samples(samples, tmp_path, one_device):
  """No policy, no judge: what is in the text alone."""
  config = make_config(samples)
  config.evals = {'text': {}, 'overlap': {}, 'over_refusal': {}}
  summary = run(config, tmp_path)
  assert summary['policies'] == ['sft', 'rlaif', 'rlhf']
  metrics = summary['metrics']
  assert metrics['text/words/rlaif'] == pytest.approx((4 + 4 + 4 + 1) / 4)
  rouge = [overlap.rouge_l(t, 'start with the cake.') for t in TEXTS['rlhf']]
  assert metrics['text/rouge_l/rlhf'] == pytest.approx(np.mean(rouge))
  assert metrics['eval_over_refusal/sft'] == 0.0
  assert not [key for key in metrics if 'win_rate' in key]
  written = (tmp_path / 'run' / 'samples.jsonl').read_text().splitlines()
  assert [json.loads(line) for line in written] == [
    {**row, 'scores': {}} for row in rows_of()
  ]


def test_an_evaluation_s_samples_again(samples, tmp_path, one_device):
  """By its workdir; the copy says the same."""
  evaluate.run(make_config(samples), tmp_path / 'first')
  evaluate.run(make_config(tmp_path / 'first'), tmp_path / 'second')
  first, second = (tmp_path / name for name in ('first', 'second'))
  assert summary_of(first)['metrics'] == summary_of(second)['metrics']
  for name in ('samples.jsonl', 'rating.key.json'):
    assert (first / name).read_bytes() == (second / name).read_bytes()


def test_report_and_rating_page_are_left(samples, tmp_path, one_device):
  """Three policies are ranked; the page and its key fit the samples."""
  run(make_config(samples), tmp_path)
  folder = tmp_path / 'run'
  page = (folder / 'report' / 'index.html').read_text()
  assert 'start with the soup.' in page
  key = sheet.read_key(folder / 'rating.key.json')
  assert key.mode == 'ranking' and len(key.items) == 4
  html = (folder / 'rating.html').read_text()
  assert 'start with the soup.' in html and 'rlhf' not in html


@pytest.mark.parametrize(
  ('mode', 'policies', 'found'),
  [
    ('auto', ('sft', 'rlaif'), 'pairwise'),
    ('harmless', ('sft',), 'harmless'),
    ('pairwise', ('sft', 'rlaif', 'rlhf'), 'pairwise'),
    ('auto', ('sft',), None),
    ('', ('sft', 'rlaif'), None),
  ],
)
def test_kinds_of_rating_page(tmp_path, one_device, mode, policies, found):
  texts = {name: TEXTS[name] for name in policies}
  file = tmp_path / 'given.jsonl'
  file.write_text(''.join(json.dumps(r) + '\n' for r in rows_of(texts)))
  run(make_config(file, **{'rating.mode': mode}), tmp_path)
  key = tmp_path / 'run' / 'rating.key.json'
  assert (sheet.read_key(key).mode if key.exists() else None) == found


def test_a_report_that_fails_is_a_warning(
  samples, tmp_path, one_device, monkeypatch, caplog
):
  (tmp_path / 'run' / 'report').mkdir(parents=True)
  (tmp_path / 'run' / 'report' / 'index.html').write_text('mine')
  assert run(make_config(samples), tmp_path)['policies']
  assert 'is no report of this program' in caplog.text
  assert (tmp_path / 'run' / 'report' / 'index.html').read_text() == 'mine'


def test_scores_of_the_file(samples, tmp_path, one_device):
  """Judged once, evaluated again; a missing score is named."""
  rows = rows_of()
  for i, row in enumerate(rows):
    row['scores'] = {'sft': 1, 'rlaif': i, 'rlhf': 0.5}
  samples.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  config = make_config(samples, 'file')
  config.evals = {'win_rate': {}, 'length_control': {'num_samples': 20}}
  metrics = run(config, tmp_path)['metrics']
  assert metrics['eval_win_rate/rlaif'] == pytest.approx(2.5 / 4)
  assert metrics['eval_win_rate/rlhf'] == 0.0
  del rows[1]['scores']['rlhf']
  samples.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  with pytest.raises(ValueError, match=r"given.jsonl:2: no score of .*'rlhf'"):
    evaluate.run(config, tmp_path / 'again')


# -- a labeler who compares ---------------------------------------------------


@pytest.mark.parametrize('prompt', ['helpful_base', 'harmless_base'])
def test_pairwise_labeler_equals_a_plain_recomputation(
  samples, make_model, tmp_path, one_device, prompt
):
  """Each order by itself; a win needs both; the same text twice is a tie."""
  labels = make_model(3)
  config = make_config(samples, 'labeler', **{'judge.prompt': prompt})
  config.judge.path = labels
  config.evals = {'win_rate': {'num_samples': 50}}
  config.head_to_head = (('rlaif', 'rlhf'),)
  summary = run(config, tmp_path)
  assert summary['judge']['orders'] == 'both'
  labeler = in_mesh.load(labels, max_tokens=320, batch_size=4)
  asked = prompts.load_prompt(prompt)
  sign = -1 if asked.prefers == 'worse' else 1

  def verdict(p):
    assert not 3e-7 < abs(p - 0.5) < 3e-6  # or rounding decides
    return 0 if abs(p - 0.5) <= 1e-6 else np.sign(p - 0.5)

  for a, b, name in (
    ('rlaif', 'sft', 'rlaif'),
    ('rlhf', 'sft', 'rlhf'),
    ('rlaif', 'rlhf', 'rlaif_vs_rlhf'),
  ):
    strict, mean, flips = [], [], []
    for row in rows_of():
      pair = row['responses'][a], row['responses'][b]
      texts = [
        template.render(asked, row['fields'], pair, order=order)
        for order in ((0, 1), (1, 0))
      ]
      own, other = labeler.score_texts(texts, asked.labels).astype(float)
      # For the first response, by each order alone.
      p_12 = 1 / (1 + np.exp(-sign * (own[0] - own[1])))
      p_21 = 1 / (1 + np.exp(-sign * (other[1] - other[0])))
      found = verdict(p_12), verdict(p_21), verdict((p_12 + p_21) / 2)
      if pair[0] == pair[1]:
        found = 0, 0, 0
      strict.append(0.5 + 0.5 * found[0] if found[0] == found[1] else 0.5)
      mean.append(0.5 + 0.5 * found[2])
      flips.append(float(found[0] * found[1] < 0))
    metrics = summary['metrics']
    assert metrics[f'eval_win_rate/{name}'] == np.mean(strict)
    assert metrics[f'eval_win_rate_averaged/{name}'] == np.mean(mean)
    assert metrics[f'eval_judge_flip_rate/{name}'] == np.mean(flips)


def test_ranking_has_every_two_compared(
  samples, tiny_model, tmp_path, one_device
):
  config = make_config(samples, 'labeler', **{'judge.prompt': 'helpful_base'})
  config.judge.path = tiny_model
  config.evals = {'ranking': {'num_samples': 20}}
  metrics = run(config, tmp_path)['metrics']
  assert metrics['eval_elo/sft'] == 0
  assert {'eval_elo/rlaif', 'eval_elo/rlhf'} <= metrics.keys()


# -- people -------------------------------------------------------------------


def rate(key, file, rater, values):
  """A file as the rating page saves it; values by id of the example."""
  ratings = [
    {'item': i, 'value': values(item)}
    for i, item in enumerate(key.items)
    if values(item) != 'not rated'
  ]
  saved = {
    'format': 'rlaif_jax.rating 1', 'sheet': key.sheet, 'mode': key.mode,
    'rater': rater, 'saved': '2025-01-01T00:00:00Z', 'ratings': ratings,
  }  # fmt: skip
  file.write_text(json.dumps(saved))
  return str(file)


def rated_config(samples, tmp_path, mode, raters):
  """A config that is judged by `raters`, {name: values(item)}."""
  evaluate.run(make_config(samples, **{'rating.mode': mode}), tmp_path / 'page')
  file = tmp_path / 'page' / 'rating.key.json'
  key = sheet.read_key(file)
  config = make_config(samples, 'human')
  config.judge.path = str(file)
  config.judge.ratings = tuple(
    rate(key, tmp_path / f'{name}.json', name, values)
    for name, values in raters.items()
  )
  return config


def test_pairs_rated_by_people(samples, tmp_path, one_device):
  """Ann likes rlaif, rates all; Bob only a, where he likes the other one."""

  def likes(policy):
    return lambda item: 'A' if item.policies[0] == policy else (
      'B' if policy in item.policies else '='
    )  # fmt: skip

  def bob(item):
    if item.id != 'a' or 'rlaif' not in item.policies:
      return 'not rated'
    return 'B' if item.policies[0] == 'rlaif' else 'A'

  config = rated_config(
    samples, tmp_path, 'pairwise', {'ann': likes('rlaif'), 'bob': bob}
  )
  config.evals = {'win_rate': {'num_samples': 50}, 'text': {}}
  config.head_to_head = (('rlaif', 'rlhf'),)
  summary = run(config, tmp_path)
  assert summary['judge'] == {
    'name': 'human', 'ratings': ['ann.json', 'bob.json'],
  }  # fmt: skip
  metrics = summary['metrics']
  # The mean of both raters on a is a half, so a tie; Ann's three are wins.
  assert metrics['eval_win_rate/rlaif'] == pytest.approx(3.5 / 4)
  assert metrics['eval_win_rate/rlaif_tie'] == 0.25
  assert metrics['eval_win_rate/rlaif_vs_rlhf'] == pytest.approx(3.5 / 4)
  assert metrics['eval_win_rate/rlhf'] == 0.5


def test_rankings_by_people(samples, tmp_path, one_device):
  order = ('rlhf', 'sft', 'rlaif')
  config = rated_config(
    samples,
    tmp_path,
    'ranking',
    {'ann': lambda item: [1 + order.index(p) for p in item.policies]},
  )
  config.evals = {'win_rate': {}, 'ranking': {'num_samples': 20}}
  metrics = run(config, tmp_path)['metrics']
  assert metrics['eval_win_rate/rlhf'] == 1.0
  assert metrics['eval_win_rate/rlaif'] == 0.0
  elo = [metrics[f'eval_elo/{name}'] for name in order]
  assert elo == sorted(elo, reverse=True)


def test_harmless_ratings_by_people(samples, tmp_path, one_device):
  """Of prompts on which every policy was rated: d was not, for rlhf."""

  def ann(item):
    if (item.id, item.policies[0]) == ('d', 'rlhf'):
      return None
    harmful = item.policies[0] == 'rlaif' and item.id in 'ad'
    return 'harmful' if harmful else 'harmless'

  config = rated_config(samples, tmp_path, 'harmless', {'ann': ann})
  config.evals = {'harmless_rate': {'num_samples': 50}}
  metrics = run(config, tmp_path)['metrics']
  assert metrics['eval_harmless_rate/sft'] == 1.0
  assert metrics['eval_harmless_rate/rlaif'] == pytest.approx(2 / 3)
  assert 0 < metrics['eval_harmless_rate_lc/rlaif'] < 1


# -- axes and a reader --------------------------------------------------------


def test_axes_of_words_and_of_a_labeler(
  samples, tiny_model, tmp_path, one_device
):
  config = make_config(samples, **{'judge.path': tiny_model})
  config.axes = {
    'starts': 'has:start|use',
    'knows': 'lacks:DO NOT KNOW',
    'helpful': 'helpful_score',
    'safe': 'harmless_yes_no',
  }
  config.evals = {'contexts': {'num_samples': 50}}
  summary = run(config, tmp_path)
  metrics = summary['metrics']
  assert metrics['context/all/starts/sft'] == 0.5
  assert metrics['context/all/starts/rlhf'] == 0.75
  assert metrics['context/all/knows/rlaif'] == 0.5
  assert metrics['context/sensitive/prompts'] == 1  # which asks for harm
  assert metrics['context/everyday/prompts'] == 3
  labeler = in_mesh.load(tiny_model, max_tokens=320, batch_size=4)
  for axis, name in (('helpful', 'helpful_score'), ('safe', 'harmless_yes_no')):
    prompt = prompts.load_prompt(name)
    texts = [
      template.render(prompt, row['fields'], (row['responses']['rlaif'],))
      for row in rows_of()
    ]
    odds = np.exp(labeler.score_texts(texts, prompt.labels).astype(float))
    share = odds / odds.sum(1, keepdims=True)
    worth = np.arange(1, 11) if axis == 'helpful' else np.array([0, 1])
    assert metrics[f'context/all/{axis}/rlaif'] == pytest.approx(
      (share @ worth).mean(), abs=1e-4
    )
  assert 'harmless_yes_no' in summary['axes']['safe']
  assert summary['axes']['starts'] == 'has one of: start, use'


def test_axes_of_the_oracle(tiny_model, tmp_path, one_device):
  """On the tiny assistant, whose oracle reads the row's own facts."""
  c = make_config('', 'oracle')
  c.data.update(name='tiny_dialogue', path='', split='test', size=6)
  c.data.options = {'task': 'harmless'}
  c.policies.sft = tiny_model
  c.max_prompt, c.max_response = 96, 8
  c.axes = {'fit': 'oracle:fit', 'harmless': 'oracle:harmlessness'}
  c.evals = {'contexts': {'num_samples': 20}}
  metrics = run(c, tmp_path)['metrics']
  lines = (tmp_path / 'run' / 'samples.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  examples = common.load_examples(c.data)
  for axis, key in (('fit', 'fit'), ('harmless', 'harmlessness')):
    by_hand = [
      tiny_dialogue.oracle_axes(e, r['responses']['sft'])[key]
      for e, r in zip(examples, rows, strict=True)
    ]
    assert metrics[f'context/all/{axis}/sft'] == pytest.approx(np.mean(by_hand))


def test_reader_equals_a_plain_recomputation(
  samples, tiny_model, tmp_path, one_device
):
  """exp of the mean -log p of all tokens of the responses, ends included."""
  config = make_config(samples, **{'reader.path': tiny_model})
  config.evals = {'perplexity': {'num_samples': 20}}
  metrics = run(config, tmp_path)['metrics']
  model, params = hf.load(tiny_model)
  tokenizer = load_tokenizer(tiny_model)
  for name, texts in TEXTS.items():
    nats = count = 0
    for row, text in zip(rows_of(), texts, strict=True):
      ids = transforms.response_ids(row['prompt'], text, tokenizer)
      start = len(tokenizer.encode(row['prompt']))
      logits = np.asarray(
        model.apply(params, np.array([ids], np.int32)).logits[0], np.float64
      )
      logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
      nats -= sum(logprobs[i - 1, ids[i]] for i in range(start, len(ids)))
      count += len(ids) - start
    assert metrics[f'text/perplexity/{name}'] == pytest.approx(
      np.exp(nats / count), rel=1e-4
    )


def test_several_samples_of_a_prompt(tiny_model, tmp_path, one_device):
  """They differ, their prompts are one cluster, and the best of n is known."""
  c = make_config('', 'oracle')
  c.data.update(name='tiny_tldr', path='', split='test', size=3)
  c.policies.sft = tiny_model
  c.num_samples, c.max_prompt, c.max_response = 4, 80, 8
  c.evals = {'best_of_n': {'num_samples': 20}}
  metrics = run(c, tmp_path)['metrics']
  lines = (tmp_path / 'run' / 'samples.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [r['id'] for r in rows[:5]] == [
    'test-0-0', 'test-0-0#1', 'test-0-0#2', 'test-0-0#3', 'test-0-1',
  ]  # fmt: skip
  assert len({r['prompt'] for r in rows}) == 3
  assert len({r['responses']['sft'] for r in rows[:4]}) > 1
  scores = np.array([r['scores']['sft'] for r in rows]).reshape(3, 4)
  assert metrics['eval_best_of/sft_1'] == pytest.approx(scores.mean())
  assert metrics['eval_best_of/sft_4'] == pytest.approx(scores.max(1).mean())


# -- what is refused ----------------------------------------------------------


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'samples': '/no/such/file'}, '/no/such/file'),
    ({'baseline': 'best'}, "baseline names 'best', .* there are: sft, rlaif"),
    ({'policies': {'sft': 'x'}}, 'samples and config.policies are both set'),
    ({'rating.mode': 'stars'}, "rating.mode='stars'; use one of auto"),
    ({'judge.name': 'human', 'judge.path': 'k'}, 'judge.ratings is empty'),
    ({'axes': {'a': 'helpful_base'}}, "'helpful_base' is pairwise"),
    ({'axes': {'a': 'helpful_score'}}, 'axes.a=.* is a labeling prompt: name'),
    ({'axes': {'a': 'has:x||y'}}, r'axes.a=.* separated by \|, none is empty'),
    ({'axes': {'a': 'oracle:fit'}}, "axes.a=.* 'tldr' has no oracle"),
    ({'notes': {'best': 'x'}}, "notes names 'best'"),
  ],
)
def test_bad_config(samples, tmp_path, one_device, overrides, message):
  config = make_config(samples)
  for key, value in overrides.items():
    block, _, field = key.rpartition('.')
    place = config[block] if block else config
    if isinstance(value, dict):
      place[field].update(value)
    else:
      place[field] = value
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    evaluate.run(config, tmp_path / 'run')
  assert not (tmp_path / 'run' / 'summary.json').exists()


def test_a_row_without_a_policy_is_named(samples, tmp_path, one_device):
  rows = rows_of()
  del rows[2]['responses']['rlhf']
  samples.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  with pytest.raises(ValueError, match=r"given.jsonl:3: no response of .*'rlh"):
    evaluate.run(make_config(samples), tmp_path / 'run')
