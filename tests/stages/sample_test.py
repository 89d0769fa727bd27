"""The sample stage: what is sampled, scored, selected, pooled; restarts."""

import json

import jax
import numpy as np
import pytest

from rlaif_jax import rewards, sharding
from rlaif_jax.data import datasets, transforms
from rlaif_jax.rewards import reward_model
from rlaif_jax.stages import common, sample

PROMPTS, K = 6, 3


def make_config(policy, reward='', **overrides):
  """Six prompts of the tiny world in chunks of two, three samples each."""
  c = sample.default_config()
  c.policy.path = policy
  c.data.update(name='tiny_tldr', path='', split='rl', size=PROMPTS)
  c.max_prompt, c.max_response, c.num_samples = 80, 6, K
  c.batch_size, c.chunk, c.only_ended = 4, 2, False
  if reward:
    c.reward.name, c.reward.path = 'reward_model', reward
  c.update_from_flattened_dict(overrides)
  return c


def rows_of(workdir, name=sample.ALL):
  return [json.loads(x) for x in (workdir / name).read_text().splitlines()]


def summary_of(workdir):
  return json.loads((workdir / 'summary.json').read_text())


@pytest.fixture(scope='module')
def whole(tiny_model, tiny_reward_model, tmp_path_factory, one_device):
  """A run from start to end: (config, workdir, its rows)."""
  config = make_config(tiny_model, tiny_reward_model, select='best')
  workdir = tmp_path_factory.mktemp('whole')
  sample.run(config, workdir)
  return config, workdir, rows_of(workdir)


def test_every_prompt_gets_its_samples(whole):
  config, _, rows = whole
  examples = common.load_examples(config.data)
  names = [f'{e.id}/{k}' for e in examples for k in range(K)]
  assert [r['id'] for r in rows] == names
  assert [r['prompt'] for r in rows] == [
    e.prompt for e in examples for _ in 'abc'
  ]
  assert [r['prompt_id'] for r in rows[::K]] == [e.id for e in examples]
  assert rows[0]['fields'] == dict(examples[0].fields)
  assert len({r['response'] for r in rows}) > PROMPTS
  assert len({r['score'] for r in rows}) > PROMPTS


def test_scores_are_the_rewards_of_the_texts(whole, tiny_reward_model):
  config, _, rows = whole
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  reward = rewards.load('reward_model').make(
    config.reward, policy_tokenizer=None, mesh=mesh, rules=None
  )
  # A sample that was cut has no end token, which its text would get.
  ended = [r for r in rows if r['ended']]
  examples = {e.id: e for e in common.load_examples(config.data)}
  found = reward.score_texts(
    [examples[r['prompt_id']] for r in ended], [r['response'] for r in ended]
  )
  assert isinstance(reward, reward_model.RewardModel)
  np.testing.assert_allclose(found, [r['score'] for r in ended], atol=1e-4)


def test_the_best_of_each_prompt_is_selected(whole):
  _, workdir, rows = whole
  selected = rows_of(workdir, sample.SELECTED)
  expected = []
  for at in range(0, len(rows), K):
    known = [r for r in rows[at : at + K] if r['response']]
    if known:
      expected.append(max(known, key=lambda r: r['score'])['id'])
  assert [r['id'] for r in selected] == expected
  summary = summary_of(workdir)
  assert summary['samples'] == PROMPTS * K
  assert summary['selected'] == len(expected)
  mean = np.mean([r['score'] for r in selected])
  assert summary['score/selected'] == pytest.approx(mean)
  assert summary['score/mean'] < summary['score/selected']


def test_selected_rows_are_a_data_set(whole):
  """That SFT can learn from: prompt, response, fields, and the rest as meta."""
  _, workdir, _ = whole
  path = str(workdir / sample.SELECTED)
  examples = datasets.load_dataset('jsonl', path, 'all')
  rows = rows_of(workdir, sample.SELECTED)
  assert [e.response for e in examples] == [r['response'] for r in rows]
  assert examples[0].meta['score'] == rows[0]['score']
  assert set(examples[0].fields) == {'text'}


def test_batches_and_chunks_change_no_text(
  whole, tiny_model, tmp_path, one_device
):
  """A sample is a function of the seed and its number."""
  _, _, rows = whole
  config = make_config(tiny_model, batch_size=7, chunk=5)
  sample.run(config, tmp_path)
  texts = [r['response'] for r in rows_of(tmp_path)]
  assert texts == [r['response'] for r in rows]
  assert 'score' not in rows_of(tmp_path)[0]
  other = make_config(tiny_model, seed=1)
  sample.run(other, tmp_path / 'other')
  assert [r['response'] for r in rows_of(tmp_path / 'other')] != texts


# -- restarts -----------------------------------------------------------------


@pytest.mark.parametrize(
  ('num_lines', 'half'), [(0, 0.5), (4, 0.0), (6, 0.3), (11, 0.9), (18, 0.0)]
)
@pytest.mark.filterwarnings('ignore:.*half-written')
def test_restart_ends_byte_identical(
  whole, tmp_path, one_device, monkeypatch, num_lines, half
):
  config, source, rows = whole
  workdir = tmp_path / source.name  # which is the round's name, too
  lines = (source / sample.ALL).read_bytes().splitlines(keepends=True)
  (workdir / 'samples').mkdir(parents=True)
  (workdir / 'config.json').write_bytes((source / 'config.json').read_bytes())
  left = b''.join(lines[:num_lines])
  if half:
    left += lines[num_lines][: int(half * len(lines[num_lines]))]
  (workdir / sample.ALL).write_bytes(left)
  asked, prompt_batch = [], transforms.prompt_batch
  monkeypatch.setattr(
    transforms,
    'prompt_batch',
    lambda e, *args, **kw: (
      asked.extend(x.id for x in e) or prompt_batch(e, *args, **kw)
    ),
  )
  sample.run(config, workdir)
  for name in (sample.ALL, sample.SELECTED):
    assert (workdir / name).read_bytes() == (source / name).read_bytes()
  # Chunks of two prompts that are whole are not made again.
  first = num_lines // (2 * K) * 2
  ids = list(dict.fromkeys(r['prompt_id'] for r in rows))
  assert list(dict.fromkeys(asked)) == ids[first:]


def test_second_run_does_nothing(whole, one_device, monkeypatch):
  config, workdir, _ = whole
  before = {f: f.stat().st_mtime_ns for f in workdir.rglob('*') if f.is_file()}
  monkeypatch.setattr(sample, 'sample_all', None)
  sample.run(config, workdir)
  assert before == {
    f: f.stat().st_mtime_ns for f in workdir.rglob('*') if f.is_file()
  }


# -- pools --------------------------------------------------------------------


@pytest.fixture(scope='module')
def second(whole, tmp_path_factory, one_device):
  """Another round, of the same prompts."""
  config = whole[0].copy_and_resolve_references()
  config.seed, config.pool = 1, (str(whole[1]),)
  workdir = tmp_path_factory.mktemp('second')
  sample.run(config, workdir)
  return config, workdir


def test_winners_of_all_rounds_are_pooled(whole, second):
  """The second round's, then the first's: each is the best of its round."""
  _, workdir = second
  selected = rows_of(workdir, sample.SELECTED)
  own = [r for r in selected if r['round'] == workdir.name]
  first = rows_of(whole[1], sample.SELECTED)
  assert selected[len(own) :] == first
  assert [r['prompt_id'] for r in own] == [r['prompt_id'] for r in first]
  assert len(rows_of(workdir)) == PROMPTS * K


def test_selecting_alone(whole, second, tmp_path, one_device):
  """ReST's Improve steps: no policy, a threshold on what others sampled."""
  pool = (str(whole[1]), str(second[1]))
  config = make_config('', pool=pool, select='quantile', threshold=0.75)
  sample.run(config, tmp_path)
  rows = [r for path in (whole[1], second[1]) for r in rows_of(path)]
  known = [r for r in rows if r['response']]
  limit = np.quantile([r['score'] for r in known], 0.75)
  expected = [r['response'] for r in known if r['score'] >= limit]
  found = rows_of(tmp_path, sample.SELECTED)
  assert [r['response'] for r in found] == expected
  assert not (tmp_path / sample.ALL).exists()
  assert summary_of(tmp_path)['score/limit'] == pytest.approx(limit)
  assert summary_of(tmp_path)['samples'] == 2 * PROMPTS * K


# -- hindsight ----------------------------------------------------------------


def test_prompts_say_how_good_it_turned_out(whole, tmp_path, one_device):
  _, workdir, rows = whole
  told = ('Be bad.', 'Be good.')
  config = make_config('', pool=(str(workdir),), instructions=told)
  sample.run(config, tmp_path)
  known = [r for r in rows if r['response']]
  median = np.median([r['score'] for r in known])
  for row, source in zip(
    rows_of(tmp_path, sample.SELECTED), known, strict=True
  ):
    good = int(source['score'] >= median)
    assert row['prompt'] == f'{told[good]}\n\n{source["prompt"]}'
    assert row['other_prompts'] == [f'{told[1 - good]}\n\n{source["prompt"]}']
    assert row['response'] == source['response']


# -- what cannot be -----------------------------------------------------------


ROWS = [
  {'id': '1', 'prompt_id': 'a', 'prompt': 'p', 'response': '', 'ended': True},
  {'id': '2', 'prompt_id': 'a', 'prompt': 'p', 'response': 'x', 'ended': False},
]


def test_what_cannot_be_learned_from_is_left_out():
  config = sample.default_config()
  rows = [{**r, 'round': ''} for r in ROWS]
  with pytest.raises(ValueError, match='none of 2 samples .*only_ended'):
    sample.select(rows, config)
  config.only_ended = False
  selected, found = sample.select(rows, config)
  assert [r['id'] for r in selected] == ['2']
  assert found == {'samples': 2, 'usable': 1, 'selected': 1}
  config.select = 'best'
  with pytest.raises(ValueError, match='sample 2 has no score'):
    sample.select(rows, config)
  config.select, config.threshold = 'threshold', 0.5
  rows[1]['score'] = 0.5
  with pytest.raises(
    ValueError, match=r'threshold=0.5; .* from 0.500 to 0.500'
  ):
    sample.select(rows, config)


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'policy.path': ''}, 'policy.path and config.pool are empty'),
    ({'select': 'best'}, 'config.select goes by scores'),
    ({'instructions': ('a', 'b')}, 'config.instructions goes by scores'),
    ({'instructions': ('a',)}, 'instructions has one text'),
    ({'select': 'good'}, "config.select='good'; use one of 'all'"),
    ({'num_samples': 0}, 'num_samples=0; it must be at least 1'),
    ({'reward.name': 'rm'}, "'rm' is not a reward"),
    ({'pool': ('/no/such/run',)}, '/no/such/run: no finished sample stage'),
    ({'max_response': 500}, 'max_prompt=80 . max_response=500 = 580 tokens'),
  ],
)
def test_bad_config(tiny_model, tmp_path, one_device, overrides, message):
  config = make_config(tiny_model, **overrides)
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    sample.run(config, tmp_path)
  assert not (tmp_path / 'summary.json').exists()


def test_broken_line_is_named(whole, tmp_path, one_device):
  (tmp_path / 'samples').mkdir()
  file = tmp_path / sample.ALL
  file.write_text(json.dumps({'id': 'a', 'prompt': 'p'}) + '\n')
  with pytest.raises(ValueError, match=r"all.jsonl:1: no column 'prompt_id'"):
    list(sample.read_rows(file))


# -- eight devices ------------------------------------------------------------


@pytest.mark.multidevice
def test_sharded_samples_are_the_same(
  whole, tiny_model, tiny_reward_model, tmp_path, monkeypatch
):
  """Over data, fsdp and tensor: the texts and, nearly, the scores."""
  monkeypatch.setattr(sharding, 'make_mesh', sharding.make_mesh.func)
  config = make_config(tiny_model, tiny_reward_model, select='best')
  config.mesh.update(data=2, fsdp=2, tensor=2)
  sample.run(config, tmp_path)
  for row, expected in zip(rows_of(tmp_path), whole[2], strict=True):
    assert row['response'] == expected['response']
    assert row['score'] == pytest.approx(expected['score'], abs=1e-4)
    score = dict(score=0)
    assert {**row, **score} == {**expected, **score}
