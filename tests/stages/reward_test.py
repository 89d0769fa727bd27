"""The reward model stage: labels, loss, accuracy and what it leaves."""

import json

import jax
import numpy as np
import pytest

from rlaif_jax.data import records, transforms
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.models import hf
from rlaif_jax.rewards import reward_model
from rlaif_jax.stages import reward
from rlaif_jax.training.metrics import read_metrics

BEST = 'eval_rewards/accuracies/model'
LONGER = 'eval_rewards/accuracies/longer'


def make_config(model, **overrides):
  """Pairs of the tiny world with the simulated human's labels."""
  c = reward.default_config()
  c.model.path = model
  for block, split, size in (
    (c.data, 'preferences', 20),
    (c.eval_data, 'test_preferences', 11),
  ):
    block.update(name='tiny_tldr', path='', split=split, size=size)
  c.max_prompt, c.max_response = 80, 48
  c.batch_size, c.num_steps, c.eval_every = 4, 6, 3
  c.optimizer.name, c.optimizer.learning_rate = 'adam', 1e-2
  c.update_from_flattened_dict(overrides)
  return c


def labelled(config, p_first):
  """The config's pairs as records, all with the same soft label."""
  return [
    records.PreferenceRecord(e.id, e.prompt, *e.pair, p_first)
    for e in reward.common.load_examples(config.data)
  ]


@pytest.fixture(scope='module')
def trained(tiny_model, tmp_path_factory, one_device):
  """A finished run: (config, workdir)."""
  config = make_config(tiny_model)
  workdir = tmp_path_factory.mktemp('reward')
  reward.run(config, workdir)
  return config, workdir


def raw_scores(folder, pairs):
  """Scores [n, 2] of a saved reward model, one text at a time."""
  model, params = hf.load_reward_model(folder)
  tokenizer = load_tokenizer(str(folder))
  score = jax.jit(lambda tokens, mask: model.apply(params, tokens, mask=mask))
  texts = [
    transforms.response_ids(e.prompt, text, tokenizer)
    for e in pairs
    for text in e.pair
  ]
  scores = [
    score(*transforms.right_pad([ids], 128, tokenizer.pad_id)) for ids in texts
  ]
  return np.array(scores).reshape(-1, 2)


def test_accuracy_is_that_of_the_saved_model(trained):
  config, workdir = trained
  steps = read_metrics(workdir)
  assert [r['step'] for r in steps] == [1, 2, 3, 4, 5, 6]
  assert [r['step'] for r in steps if BEST in r] == [3, 6]
  assert {'rewards/accuracies', 'rewards/margins', 'loss/reward'} <= set(
    steps[0]
  )
  summary = json.loads((workdir / 'summary.json').read_text())
  assert summary['pairs'] == 20
  human = reward.common.load_examples(config.eval_data)
  scores = raw_scores(workdir / 'model', human)
  first = np.array([e.p_first for e in human]) > 0.5
  right = (scores[:, 0] > scores[:, 1]) == first
  right = np.where(abs(scores[:, 0] - scores[:, 1]) <= 1e-6, 0.5, right)
  assert summary[BEST] == pytest.approx(right.mean())
  assert summary[BEST] == steps[-1][BEST]
  assert summary[f'{BEST}_ci_low'] <= right.mean()
  lengths = np.array([[len(text) for text in e.pair] for e in human])
  longer = np.where(
    lengths[:, 0] == lengths[:, 1],
    0.5,
    (lengths[:, 0] > lengths[:, 1]) == first,
  )
  assert summary[LONGER] == pytest.approx(longer.mean())


def test_statistics_are_those_of_training_responses(trained):
  config, workdir = trained
  stats = json.loads((workdir / 'model' / 'reward_stats.json').read_text())
  scores = raw_scores(
    workdir / 'model', reward.common.load_examples(config.data)
  )
  assert stats['mean'] == pytest.approx(scores.mean(), abs=1e-5)
  assert stats['std'] == pytest.approx(scores.std(), rel=1e-4)
  assert reward_model.read_stats(str(workdir / 'model')) == (
    stats['mean'],
    stats['std'],
  )


# -- the loss -----------------------------------------------------------------


def test_loss_is_the_soft_cross_entropy(trained):
  """Also: padding to the right of a text changes nothing."""
  config, workdir = trained
  model, params = hf.load_reward_model(workdir / 'model')
  loaded = reward.common.Loaded(
    model, params, load_tokenizer(str(workdir / 'model')), ''
  )
  rows = labelled(config, 0.8)[:3]
  batch = reward.pair_batch(config, loaded, rows)
  loss, metrics = jax.jit(reward.make_loss(model, 48))(params, batch, None)
  scores = raw_scores(workdir / 'model', rows)
  margin = scores[:, 0] - scores[:, 1]
  expected = 0.8 * np.log1p(np.exp(-margin)) + 0.2 * np.log1p(np.exp(margin))
  np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)
  np.testing.assert_allclose(metrics['loss/reward'], loss)
  np.testing.assert_allclose(metrics['rewards/accuracies'], (margin > 0).mean())
  np.testing.assert_allclose(
    metrics['rewards/margins'], margin.mean(), rtol=1e-4
  )


def test_harden():
  soft = np.array([0.0, 0.2, 0.5, 0.500001, 1.0], np.float32)
  hard = reward.harden(soft)
  np.testing.assert_array_equal(hard, [0.0, 0.0, 0.5, 1.0, 1.0])
  assert hard.dtype == np.float32


def test_soft_and_hard_labels(tiny_model, tmp_path, one_device):
  """Hard labels from soft ones train as those labels themselves do."""
  first_loss = {}
  for name, p_first, hard in (
    ('soft', 0.7, False),
    ('hard', 0.7, True),
    ('certain', 1.0, False),
  ):
    file = tmp_path / f'{name}.jsonl'
    config = make_config(tiny_model, num_steps=2, hard_labels=hard)
    records.write(file, labelled(config, p_first))
    config.labels = str(file)
    reward.run(config, tmp_path / name)
    first_loss[name] = [r['loss/reward'] for r in read_metrics(tmp_path / name)]
  assert first_loss['hard'] == first_loss['certain']
  assert first_loss['soft'] != first_loss['hard']


# -- where labels come from ---------------------------------------------------


def make_label_workdir(folder, rows, finished=True):
  (folder / 'labels').mkdir(parents=True)
  (folder / 'config.json').write_text('{}')
  records.append(folder / 'labels' / 'preferences.jsonl', rows)
  if finished:
    (folder / 'summary.json').write_text('{}')
  return str(folder)


def test_labels_by_file_and_by_workdir(tmp_path):
  config = make_config('')
  rows = labelled(config, 0.3)
  config.labels = make_label_workdir(tmp_path / 'labels', rows)
  by_workdir = reward.load_labels(config)
  config.labels += '/labels/preferences.jsonl'
  by_file = reward.load_labels(config)
  assert by_file == by_workdir
  assert [(e.id, e.prompt, e.pair, e.p_first) for e in by_file] == [
    (r.id, r.prompt, r.pair, 0.3) for r in rows
  ]
  config.labels = ''
  own = reward.load_labels(config)
  assert [e.pair for e in own] == [r.pair for r in rows]
  assert {e.p_first for e in own} <= {0.0, 1.0}


def test_unfinished_labels_are_refused(tmp_path):
  config = make_config('')
  rows = labelled(config, 0.3)
  config.labels = make_label_workdir(tmp_path / 'run', rows, finished=False)
  with pytest.raises(FileNotFoundError, match='run: this label stage has not'):
    reward.load_labels(config)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'p_first': float('nan')}, 'p_first is nan'),
    ({'p_first': 1.5}, r'outside \[0, 1\]'),
    ({'p_first': 'yes'}, 'should be a number'),
    ({'response_2': 'b'}, 'identical'),
    ({'p_first': None}, 'should be a number but is None'),
  ],
)
def test_bad_labels_are_named(
  tiny_model, tmp_path, one_device, change, message
):
  good = {'prompt': 'a', 'response_1': 'b', 'response_2': 'c', 'p_first': 0.5}
  file = tmp_path / 'labels.jsonl'
  file.write_text('\n'.join(map(json.dumps, (good, {**good, **change}))))
  config = make_config(tiny_model, labels=str(file))
  with pytest.raises(ValueError, match=f'labels.jsonl:2: .*{message}'):
    reward.run(config, tmp_path / 'run')


def test_pairs_without_labels(tiny_model, tmp_path, one_device):
  """They are left out; where there are no others, the file is named."""
  rows = [
    {'prompt': 'a', 'response_1': 'b', 'response_2': 'c', 'id': 'one'},
    {'prompt': 'a', 'response_1': 'd', 'response_2': 'c', 'id': 'two'},
  ]
  file = tmp_path / 'pairs.jsonl'
  config = make_config(tiny_model, num_steps=1)
  config.data.update(name='jsonl', path=str(file), split='all')
  file.write_text('\n'.join(map(json.dumps, rows)))
  with pytest.raises(ValueError, match='pairs.jsonl: .* pairs with a label'):
    reward.run(config, tmp_path / 'run')
  rows[1]['p_first'] = 1.0
  file.write_text('\n'.join(map(json.dumps, rows)))
  reward.run(config, tmp_path / 'run')
  summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
  assert summary['pairs'] == 1
