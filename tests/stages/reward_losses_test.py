"""Margins, rankings, several sources, and what scores are centred on."""

import functools
import itertools
import json

import jax
import numpy as np
import pytest

from rlaif_jax import sharding
from rlaif_jax.data import records, transforms
from rlaif_jax.data.datasets import Example
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.models import hf
from rlaif_jax.stages import _margins, _mixes, _rankings, reward
from rlaif_jax.training.metrics import read_metrics

CLOCK = ('time/', 'perf/')


def make_config(model, **overrides):
  """Pairs of the tiny world, three steps."""
  c = reward.default_config()
  c.model.path = model
  for block, split, size in (
    (c.data, 'preferences', 20),
    (c.eval_data, 'test_preferences', 6),
  ):
    block.update(name='tiny_tldr', path='', split=split, size=size)
  c.max_prompt, c.max_response = 80, 48
  c.batch_size, c.num_steps, c.eval_every = 4, 3, 0
  c.checkpoint.every = 2
  c.optimizer.name, c.optimizer.learning_rate = 'adam', 1e-2
  c.update_from_flattened_dict(overrides)
  return c


def nll(x):
  return np.log1p(np.exp(-x))


def scores_of(folder, rows):
  """Raw scores [n, k] of texts [n, k], one text at a time."""
  model, params = hf.load_reward_model(folder)
  tokenizer = load_tokenizer(str(folder))
  score = jax.jit(lambda tokens, mask: model.apply(params, tokens, mask=mask))
  found = [
    score(
      *transforms.right_pad(
        [transforms.response_ids(prompt, text, tokenizer)],
        128,
        tokenizer.pad_id,
      )
    )
    for prompt, texts in rows
    for text in texts
  ]
  return np.array(found).reshape(len(rows), -1)


@pytest.fixture(scope='module')
def loaded(tiny_reward_model):
  model, params = hf.load_reward_model(tiny_reward_model)
  return reward.common.Loaded(
    model, params, load_tokenizer(tiny_reward_model), ''
  )


def assert_goes_on(config, run, workdir, lost='3'):
  """A run that lost its last checkpoint is the run that never stopped."""
  run(config, workdir / 'whole')
  run(config, workdir / 'cut')
  for name in ('summary.json', f'checkpoints/{lost}'):
    (workdir / 'cut' / name).rename(workdir / name.rpartition('/')[2])
  run(config, workdir / 'cut')
  rows = [read_metrics(workdir / name) for name in ('whole', 'cut')]
  assert len(rows[0]) == len(rows[1]) == config.num_steps
  for one, other in zip(*rows, strict=True):
    for key in one.keys() - {k for k in one if k.startswith(CLOCK)}:
      assert one[key] == other[key], key
  weights = 'model/model.safetensors'
  whole, cut = (workdir / name / weights for name in ('whole', 'cut'))
  assert whole.read_bytes() == cut.read_bytes()


def assert_mesh_changes_nothing(config, run, workdir, monkeypatch):
  run(config, workdir / 'one')
  everywhere = functools.partial(sharding.make_mesh, devices=jax.devices())
  monkeypatch.setattr(sharding, 'make_mesh', everywhere)
  config.mesh.update(data=2, fsdp=2, tensor=2)
  run(config, workdir / 'eight')
  one, eight = (read_metrics(workdir / name) for name in ('one', 'eight'))
  for first, second in zip(one, eight, strict=True):
    for key in first.keys() - {k for k in first if k.startswith(CLOCK)}:
      rel = 1e-2 if 'grad_norm' in key else 1e-3
      assert second[key] == pytest.approx(first[key], rel=rel, abs=1e-4), key


# -- margins ------------------------------------------------------------------


def test_margins_by_hand():
  rows = [
    Example(id=str(i), prompt='', p_first=p, meta={'margin': m})
    for i, (p, m) in enumerate(
      [(1.0, 'significantly'), (0.0, 'better'), (0.8, 'slightly'), (0.5, 1.5)]
    )
  ]
  found = _margins.margins(rows, _margins.Config())
  np.testing.assert_allclose(found, [1, 2 / 3, 1 / 3, 1.5], rtol=1e-6)
  large = _margins.Config(grades='large', scale=2.0)
  np.testing.assert_allclose(_margins.margins(rows, large), [6, 4, 2, 3])
  sure = _margins.margins(rows, _margins.Config(key=''))
  np.testing.assert_allclose(sure, [1, 1, 0.6, 0], atol=1e-6)


@pytest.mark.parametrize('value', [None, 'clearly', -1.0, True, float('nan')])
def test_a_bad_margin_is_named(value):
  row = Example(id='r7', prompt='', p_first=1.0, meta={'margin': value})
  with pytest.raises(ValueError, match="row r7: its 'margin' is .*slightly"):
    _margins.margins([row], _margins.Config())


def test_margin_loss_of_a_trl_file(loaded, tiny_reward_model, tmp_path):
  """From the column to the loss, by a loop over pairs."""
  texts = [('a dog ran', 'my job'), ('i quit', 'a cat'), ('so so', 'it was')]
  margins = (0.5, 2.0, 0.0)
  file = tmp_path / 'pairs.jsonl'
  file.write_text(
    '\n'.join(
      json.dumps({'prompt': 'well', 'chosen': a, 'rejected': b, 'margin': m})
      for (a, b), m in zip(texts, margins, strict=True)
    )
  )
  config = make_config('', labels=str(file), loss='margin')
  rows = reward.load_labels(config)
  batch = reward.train_batch(config, loaded, rows)
  loss_fn = jax.jit(reward.make_loss(loaded.model, 48, 'margin'))
  loss, metrics = loss_fn(loaded.params, batch, None)
  scores = scores_of(tiny_reward_model, [('well', pair) for pair in texts])
  gap = scores[:, 0] - scores[:, 1]
  np.testing.assert_allclose(loss, nll(gap - margins).mean(), atol=1e-5)
  np.testing.assert_allclose(metrics['rewards/margins'], gap.mean(), atol=1e-5)


# -- rankings -----------------------------------------------------------------

TEXTS = ['a dog ran', 'my job', 'so i quit it', 'it was a cat']


def ranking_file(path, prompts=6):
  """Rows with four responses, three, and two, by ranks and by scores."""
  rows = []
  for i in range(prompts):
    rows.append(
      [
        {'responses': TEXTS, 'ranking': [2, 1, 3, 3]},
        {'responses': TEXTS[:3], 'scores': [0.1, -1.0, 7]},
        {'response_1': TEXTS[0], 'response_2': TEXTS[3], 'p_first': 0.3},
      ][i % 3]
      | {'prompt': f'well {TEXTS[i % 4]}', 'id': f'r{i}'}
    )
  path.write_text('\n'.join(map(json.dumps, rows)))
  return str(path)


def rankings(tmp_path, **overrides):
  file = ranking_file(tmp_path / 'rankings.jsonl')
  return make_config(
    '',
    loss='kway',
    **{'data.name': 'jsonl', 'data.path': file, 'data.split': 'all'},
    **{'data.size': 0, **overrides},
  )


def test_ranking_loss_equals_loops(loaded, tiny_reward_model, tmp_path):
  """InstructGPT's equation 1, from the file to the gradient's loss."""
  config = rankings(tmp_path)
  s = reward.common.Session(None, config, None, {})
  rows = _rankings.fit(
    s, loaded, reward.load_labels(config), 'error', 'rankings'
  )
  size = _rankings.largest(rows)
  assert size == 4
  batch = _rankings.make_batch(config, loaded, rows, size)
  assert batch.tokens.shape[:2] == (6, 4)
  assert batch.there.sum() == 2 * (4 + 3 + 2)
  loss, metrics = jax.jit(reward.make_loss(loaded.model, 48, 'kway'))(
    loaded.params, batch, None
  )
  of_prompts, right = [], []
  for row in rows:
    texts = row.meta['responses']
    (scores,) = scores_of(tiny_reward_model, [(row.prompt, texts)])
    better = [
      (i, j)
      for i, j in itertools.permutations(range(len(texts)), 2)
      if row.meta['ranking'][i] < row.meta['ranking'][j]
    ]
    of_prompts.append(np.mean([nll(scores[i] - scores[j]) for i, j in better]))
    right.append(np.mean([scores[i] > scores[j] for i, j in better]))
  # One tie of the first row's six pairs is left out.
  assert len(better) == 1 and len(rows[0].meta['responses']) == 4
  np.testing.assert_allclose(loss, np.mean(of_prompts), atol=1e-5)
  np.testing.assert_allclose(
    metrics['rewards/accuracies'], np.mean(right), atol=1e-6
  )


def test_what_a_ranking_is():
  def of(**meta):
    row = Example(id='r1', prompt='a', meta=meta)
    return _rankings.ranking_of(row, 'file')

  assert of(responses=[' b ', 'c'], ranking=[2, 1]) == (['b', 'c'], [2, 1])
  assert of(responses=['b', 'c'], scores=[2, 1]) == (['b', 'c'], [-2, -1])
  assert of() is None
  pair = Example(id='1', prompt='a', pair=('b', 'c'), p_first=0.9)
  texts, ranks = _rankings.ranking_of(pair, 'file')
  assert texts == ['b', 'c'] and ranks[0] < ranks[1]
  for meta, message in (
    (dict(responses='bc', ranking=[1, 2]), 'a list of texts'),
    (dict(responses=['b', 3], ranking=[1, 2]), 'a list of texts'),
    (dict(responses=['b', 'c']), 'a number for each of its 2'),
    (dict(responses=['b', 'c'], ranking=[1]), 'a number for each of its 2'),
    (dict(responses=['b', 'c'], scores=[1, None]), 'scores should be numbers'),
    (dict(responses=['b', 'b'], scores=[1, 2]), 'responses are identical'),
  ):
    with pytest.raises(ValueError, match=f'file: row r1: .*{message}'):
      of(**meta)


def test_scored_samples_are_a_ranking_for_each_prompt():
  """As the sample stage leaves them, a response a row."""
  rows = [
    Example(id=str(i), prompt=p, response=r, meta={'score': s, 'ended': True})
    for i, (p, r, s) in enumerate(
      [('p', 'b', 1.0), ('q', 'b', 3.0), ('p', 'c', 2.0), ('p', 'b', 1.0)]
    )
  ]
  other = Example(id='o', prompt='p', pair=('b', 'c'), p_first=1.0)
  found = _rankings.grouped([rows[0], other, *rows[1:]])
  assert [row.id for row in found] == ['0', 'o', '1']
  assert found[1] == other
  assert _rankings.ranking_of(found[0], 'f') == (['b', 'c'], [-1.0, -2.0])
  assert _rankings.ranking_of(found[2], 'f') == (['b'], [-3.0])


def test_rankings_of_ties_only_are_left_out(loaded):
  s = reward.common.Session(None, make_config(''), None, {})
  rows = [
    Example(
      id='1', prompt='a', meta={'responses': ['b', 'c'], 'scores': [1, 1]}
    )
  ]
  with pytest.raises(ValueError, match='f.jsonl: .*not only ties'):
    _rankings.fit(s, loaded, rows, 'error', 'f.jsonl')
  rows.append(Example(id='2', prompt='a', pair=('b', 'c'), p_first=1.0))
  kept = _rankings.fit(s, loaded, rows, 'error', 'f.jsonl')
  assert [row.id for row in kept] == ['2']


def test_rankings_go_on_where_they_were(tiny_model, tmp_path, one_device):
  config = rankings(tmp_path, num_microbatches=2)
  config.model.path = tiny_model
  assert_goes_on(config, reward.run, tmp_path)
  summary = json.loads((tmp_path / 'whole' / 'summary.json').read_text())
  assert summary['pairs'] == 6
  stats = json.loads(
    (tmp_path / 'whole' / 'model' / 'reward_stats.json').read_text()
  )
  assert stats['std'] > 0


@pytest.mark.slow
@pytest.mark.multidevice
@pytest.mark.parametrize('loss', ['kway', 'margin'])
def test_losses_on_a_mesh(tiny_model, tmp_path, one_device, monkeypatch, loss):
  config = make_config(tiny_model, num_steps=2, batch_size=8, loss=loss)
  config.optimizer.name = 'sgd'  # adam's first steps are steep
  if loss == 'margin':
    config.loss_options = {'key': ''}
  assert_mesh_changes_nothing(config, reward.run, tmp_path, monkeypatch)


# -- several sources ----------------------------------------------------------


def part(name, count):
  return [Example(id=f'{name}{i}', prompt='') for i in range(count)]


def test_sources_in_turn():
  """Each for its share of the steps, its own epochs within it."""
  mix = _mixes.Mix((part('a', 6), part('h', 2)), 'in_turn')
  assert len(mix) == 8
  seen = [[e.id for e in mix.rows(0, at, 2, 8)] for at in range(8)]
  assert all(i[0] == 'a' for rows in seen[:6] for i in rows)
  assert all(i[0] == 'h' for rows in seen[6:] for i in rows)
  for first in (0, 3):  # three batches are an epoch of the first source
    epoch = {i for rows in seen[first : first + 3] for i in rows}
    assert epoch == {f'a{i}' for i in range(6)}
  assert set(seen[6]) == set(seen[7]) == {'h0', 'h1'}
  assert [[e.id for e in mix.rows(0, at, 2, 8)] for at in range(8)] == seen


def test_sources_mixed_are_one():
  mix = _mixes.Mix((part('a', 6), part('h', 2)))
  epoch = [e.id for at in range(4) for e in mix.rows(3, at, 2, 4)]
  assert sorted(epoch) == sorted(e.id for e in mix.every)
  assert epoch != [e.id for e in mix.every]


def test_counts():
  block = _mixes.config()
  block.labels, block.counts = ('b',), (3, 1)
  mix = _mixes.take(block, [part('a', 6), part('h', 2)], ['a', 'b'])
  assert [e.id for e in mix.every] == ['a0', 'a1', 'a2', 'h0']
  block.counts = (3, 5)
  with pytest.raises(ValueError, match='counts: 5 of b, which has 2'):
    _mixes.take(block, [part('a', 6), part('h', 2)], ['a', 'b'])


@pytest.mark.slow
def test_human_labels_after_ai_labels(tiny_model, tmp_path, one_device):
  """A run on two sources learns from both, and goes on where it was."""
  config = make_config(tiny_model)
  pairs = reward.common.load_examples(config.data)
  for name, rows, p in (('ai', pairs[:9], 0.7), ('human', pairs[9:12], 1.0)):
    records.write(
      tmp_path / f'{name}.jsonl',
      [records.PreferenceRecord(e.id, e.prompt, *e.pair, p) for e in rows],
    )
  config.labels = str(tmp_path / 'ai.jsonl')
  config.mix.labels = (str(tmp_path / 'human.jsonl'),)
  config.mix.counts, config.mix.order = (8, 3), 'in_turn'
  assert_goes_on(config, reward.run, tmp_path)
  summary = json.loads((tmp_path / 'whole' / 'summary.json').read_text())
  assert summary['pairs'] == 11


def test_pairs_of_like_length():
  rows = [
    Example(id=str(i), prompt='', pair=('x' * a, 'x' * b))
    for i, (a, b) in enumerate([(10, 10), (9, 10), (10, 8), (5, 10)])
  ]
  kept = _mixes.match_lengths(rows, 0.1, 'f')
  assert [row.id for row in kept] == ['0', '1']
  assert len(_mixes.match_lengths(rows, 0.5, 'f')) == 4
  with pytest.raises(ValueError, match=r'f: no pair .* at most 0 of the long'):
    _mixes.match_lengths(rows[1:], 0.0, 'f')


# -- what scores are centred on -----------------------------------------------


def test_demonstrations_score_zero(tiny_model, tmp_path, one_device):
  """InstructGPT's bias, as the reward takes it; the deviation stays."""
  config = make_config(tiny_model, num_steps=1)
  reward.run(config, tmp_path / 'plain')
  config.demonstrations.update(name='tiny_tldr', split='train', size=7)
  reward.run(config, tmp_path / 'centred')
  found = [
    json.loads((tmp_path / name / 'model' / 'reward_stats.json').read_text())
    for name in ('plain', 'centred')
  ]
  shown = reward.common.load_examples(config.demonstrations)
  scores = scores_of(
    tmp_path / 'centred' / 'model', [(e.prompt, [e.response]) for e in shown]
  )
  assert found[1]['mean'] == pytest.approx(scores.mean(), abs=1e-5)
  assert found[1]['mean'] != pytest.approx(found[0]['mean'], abs=1e-4)
  assert found[1]['std'] == found[0]['std']


# -- what cannot be -----------------------------------------------------------


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'loss': 'hinge'}, "loss='hinge'; use one of soft, margin, kway"),
    ({'loss_options': {'key': ''}}, 'config.loss_options.key is unknown'),
    (
      {'loss': 'margin', 'loss_options': {'grade': 'small'}},
      'loss_options.grade .*mean grades',
    ),
    ({'loss': 'margin', 'loss_options': {'grades': 'big'}}, 'small, large'),
    ({'length_gap': 2.0}, r'length_gap=2.0 is outside'),
    ({'mix.order': 'turns'}, "order='turns'; use one of mixed, in_turn"),
    ({'mix.counts': (1, 2)}, 'should have 1 numbers'),
    ({'loss': 'margin'}, "its 'margin' is None"),
    (
      {'demonstrations.name': 'tiny_tldr', 'demonstrations.split': 'none'},
      'none',
    ),
  ],
)
def test_bad_config(tiny_model, tmp_path, one_device, overrides, message):
  config = make_config(tiny_model, num_steps=1)
  options = overrides.pop('loss_options', {})
  config.update_from_flattened_dict(overrides)
  config.loss_options = options
  with pytest.raises(ValueError, match=message):
    reward.run(config, tmp_path)
