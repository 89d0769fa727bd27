"""The label stage: where pairs come from, who decides, and restarts."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest

from rlaif_jax.data import records
from rlaif_jax.data.datasets import Example
from rlaif_jax.labeler import preference, prompts
from rlaif_jax.stages import _pairs, label

NAME = 'labels/preferences.jsonl'


def make_config(model, **overrides):
  """Twelve prompts of the tiny world in chunks of five, two samples each."""
  c = label.default_config()
  c.data.name, c.data.path, c.data.split, c.data.size = (
    'tiny_tldr',
    '',
    'rl',
    12,
  )
  c.pairs, c.policy.path = 'samples', model
  c.max_prompt, c.max_response = 80, 8
  c.labeler.path, c.labeler.prompt = model, 'summary_base'
  c.labeler.max_tokens, c.labeler.batch_size = 320, 4
  c.chunk = 5
  c.update_from_flattened_dict(overrides)
  return c


def write_rows(file, rows):
  file.write_text('\n'.join(map(json.dumps, rows)))
  return str(file)


def summary_of(workdir):
  return json.loads((workdir / 'summary.json').read_text())


def verdict(p_first):
  """1 for the first, -1 for the second, 0 for what counts as a tie."""
  return 0 if abs(p_first - 0.5) <= 1e-6 else np.sign(p_first - 0.5)


@pytest.fixture(scope='module')
def whole(tiny_model, tmp_path_factory, one_device):
  """A run from start to end: (config, workdir, its records)."""
  config = make_config(tiny_model)
  workdir = tmp_path_factory.mktemp('whole')
  label.run(config, workdir)
  return config, workdir, records.read(workdir / NAME)


# -- labels -------------------------------------------------------------------


def test_samples_are_compared_in_both_orders(whole):
  config, workdir, rows = whole
  examples = label.common.load_examples(config.data)
  assert [r.id for r in rows] == [e.id for e in examples]
  assert [r.prompt for r in rows] == [e.prompt for e in examples]
  assert len({text for r in rows for text in r.pair}) > 12
  prompt = prompts.load_prompt('summary_base')
  for row in rows:
    expected = preference.soft_label(
      np.array([row.logprobs_12]), np.array([row.logprobs_21]), prompt.prefers
    )
    assert row.p_first == pytest.approx(float(expected[0]), abs=1e-6)
    assert row.prompt_name == 'summary_base'
    assert row.labeler == config.labeler.path
    assert row.meta['human_p_first'] in (0.0, 1.0)
  assert len({r.p_first for r in rows}) > 6
  summary = summary_of(workdir)
  assert summary['pairs'] == 12
  assert summary['skipped'] == 0
  agreed = [
    0.5 + np.sign(r.meta['human_p_first'] - 0.5) * verdict(r.p_first) / 2
    for r in rows
  ]
  assert summary['labeler/alignment'] == pytest.approx(np.mean(agreed))
  assert {'labeler/flip_rate', 'labeler/position_bias'} <= summary.keys()


def test_dataset_pairs_are_labelled_as_they_are(
  tiny_model, tmp_path, one_device
):
  config = make_config(tiny_model, pairs='dataset')
  config.data.split, config.data.size = 'preferences', 6
  label.run(config, tmp_path)
  examples = label.common.load_examples(config.data)
  rows = records.read(tmp_path / NAME)
  assert [r.pair for r in rows] == [e.pair for e in examples]
  assert [r.meta['human_p_first'] for r in rows] == [
    e.p_first for e in examples
  ]


@pytest.mark.parametrize('prompt', ['summary_base', 'harmless_base'])
def test_swapped_pair_mirrors_its_label(
  tiny_model, tmp_path, one_device, prompt
):
  pairs = [('a dog', 'the big dog ran'), ('yes', 'no no no'), ('i', 'you')]
  rows = [
    {'prompt': 'say', 'response_1': a, 'response_2': b, 'id': f'{i}{side}'}
    for i, pair in enumerate(pairs)
    for side, (a, b) in (('own', pair), ('swapped', pair[::-1]))
  ]
  config = make_config(tiny_model, pairs='dataset')
  config.labeler.prompt = prompt
  config.data.update(
    name='jsonl', path=write_rows(tmp_path / 'p.jsonl', rows), split='all'
  )
  label.run(config, tmp_path / 'run')
  found = {r.id: r for r in records.read(tmp_path / 'run' / NAME)}
  assert len(found) == 6
  for i in range(3):
    own, swapped = found[f'{i}own'], found[f'{i}swapped']
    assert own.p_first == pytest.approx(1 - swapped.p_first, abs=1e-6)
    np.testing.assert_allclose(own.logprobs_12, swapped.logprobs_21, atol=1e-5)
    np.testing.assert_allclose(own.logprobs_21, swapped.logprobs_12, atol=1e-5)


def test_slot_of_a_prompt_that_asks_for_the_worse():
  """Naming slot 1 as the better one favours it, as the worse one does not."""
  rows = [
    records.PreferenceRecord(
      str(i), 'p', 'a', 'b', 0.5,
      logprobs_12=(-0.1, -2.0), logprobs_21=(-0.1, -2.0),
    )
    for i in range(3)
  ]  # fmt: skip
  config = label.default_config()
  favoured = []
  for config.labeler.prompt in ('summary_base', 'harmless_base'):
    favoured.append(label.summarise(rows, config)['labeler/favoured_slot'])
  assert favoured == [1.0, 2.0]


# -- human labels -------------------------------------------------------------


def test_human_labels_of_a_data_set(tmp_path, one_device):
  config = make_config('', pairs='dataset', source='human')
  config.data.split, config.data.size = 'preferences', 9
  label.run(config, tmp_path)
  examples = label.common.load_examples(config.data)
  rows = records.read(tmp_path / NAME)
  assert [r.p_first for r in rows] == [e.p_first for e in examples]
  assert {r.labeler for r in rows} == {'human'}
  assert summary_of(tmp_path)['pairs'] == 9


def test_simulated_human_judges_samples(whole, tmp_path, one_device):
  """The same samples as the labeler got; each verdict depends on its row."""
  config, _, labelled = whole
  config = config.copy_and_resolve_references()
  config.source, config.labeler.path = 'human', ''
  label.run(config, tmp_path)
  rows = records.read(tmp_path / NAME)
  assert [r.pair for r in rows] == [r.pair for r in labelled]
  assert [r.p_first for r in rows] == [
    r.meta['human_p_first'] for r in labelled
  ]
  example = label.common.load_examples(config.data)[3]
  alone = label.human_labels(config)(
    [dataclasses.replace(example, pair=rows[3].pair)]
  )
  assert alone == [rows[3].p_first]


def test_rows_nobody_labelled_are_skipped(tmp_path, one_device, capsys):
  rows = [
    {'prompt': 'a', 'response_1': 'b', 'response_2': 'c', 'p_first': 0.0},
    {'prompt': 'a', 'response_1': 'd', 'response_2': 'e'},
  ]
  config = make_config('', pairs='dataset', source='human')
  config.data.update(
    name='jsonl', path=write_rows(tmp_path / 'p.jsonl', rows), split='all'
  )
  label.run(config, tmp_path / 'run')
  assert [r.p_first for r in records.read(tmp_path / 'run' / NAME)] == [0.0]
  assert summary_of(tmp_path / 'run')['skipped'] == 1


def test_labels_that_a_data_set_came_with(tmp_path, one_device):
  """Those of GPT-4, say: labels, but no human's to be aligned with."""
  row = {'query': 'POST: a', 'reference_response': 'ref'}
  rows = [
    {**row, 'policy_response': text, 'ai_preferred': p, 'shuffled_index': i}
    for text, p, i in (
      ('longer', 'policy', 0),  # the longer, shown first
      ('longest', 'policy', 1),  # the longer, shown second
      ('p', 'policy', 0),  # the shorter, shown first
      ('of course', 'policy', 0),  # the longer, shown first
      ('other', None, 0),
    )
  ]
  config = make_config('', pairs='dataset', source='dataset')
  path = write_rows(tmp_path / 'judged.jsonl', rows)
  config.data.update(name='tldr', path=path, split='all', size=0)
  label.run(config, tmp_path / 'run')
  found = records.read(tmp_path / 'run' / NAME)
  assert [r.p_first for r in found] == [0.0] * 4
  assert {r.labeler for r in found} == {'dataset'}
  assert {r.meta['human_p_first'] for r in found} == {None}
  summary = summary_of(tmp_path / 'run')
  assert (summary['pairs'], summary['skipped']) == (4, 1)
  assert summary['labeler/longer_rate'] == 0.75
  assert summary['labeler/first_shown_rate'] == 0.75
  assert 'labeler/alignment' not in summary


# -- restarts -----------------------------------------------------------------


def leave(whole, workdir, num_lines, half=0.0):
  """What a run leaves that was killed while it wrote line `num_lines`."""
  source = whole[1]
  lines = (source / NAME).read_bytes().splitlines(keepends=True)
  (workdir / 'labels').mkdir(parents=True)
  (workdir / 'config.json').write_bytes((source / 'config.json').read_bytes())
  kept = b''.join(lines[:num_lines])
  if half:
    kept += lines[num_lines][: int(half * len(lines[num_lines]))]
  (workdir / NAME).write_bytes(kept)


@pytest.mark.parametrize(
  ('num_lines', 'half'), [(0, 0.5), (3, 0.0), (5, 0.0), (7, 0.7), (12, 0.0)]
)
@pytest.mark.filterwarnings('ignore:.*half-written')
def test_restart_ends_byte_identical(
  whole, tmp_path, one_device, monkeypatch, num_lines, half
):
  leave(whole, tmp_path, num_lines, half)
  asked = []
  pairs_of = preference.label_pairs

  def label_pairs(labeler, prompt, pairs, **options):
    asked.extend(name for name, *_ in pairs)
    return pairs_of(labeler, prompt, pairs, **options)

  monkeypatch.setattr(preference, 'label_pairs', label_pairs)
  label.run(whole[0], tmp_path)
  assert (tmp_path / NAME).read_bytes() == (whole[1] / NAME).read_bytes()
  # Chunks of five that are whole and followed by others are not made again.
  first = max(num_lines - 1, 0) // 5 * 5
  assert asked == [r.id for r in whole[2]][first:]
  assert summary_of(tmp_path)['labeler/alignment'] == pytest.approx(
    summary_of(whole[1])['labeler/alignment']
  )


def test_second_run_does_nothing(whole, one_device, monkeypatch):
  config, workdir, _ = whole
  before = {f: f.stat().st_mtime_ns for f in workdir.rglob('*') if f.is_file()}
  monkeypatch.setattr(label, 'make_judge', None)
  label.run(config, workdir)
  assert before == {
    f: f.stat().st_mtime_ns for f in workdir.rglob('*') if f.is_file()
  }


# -- what is left out ---------------------------------------------------------


def fake_sampler(s, config, loaded):
  """Samples that say who they are for; every third row gets two alike."""

  def sample(rows, numbers, key):
    who = jax.random.key_data(key)[1]
    return [f'to {n} as {0 if n % 3 == 0 else who}' for n in numbers]

  return sample


@pytest.mark.parametrize('num_lines', [0, 1, 5])
def test_identical_samples_are_skipped_and_counted(
  tiny_model, tmp_path, one_device, monkeypatch, num_lines
):
  """Also after a restart: rows 0, 3, 6 and 9 of the twelve have no label."""
  monkeypatch.setattr(_pairs, 'make_sampler', fake_sampler)
  config = make_config(tiny_model, source='human')
  label.run(config, tmp_path / 'whole')
  rows = records.read(tmp_path / 'whole' / NAME)
  assert [int(r.id.split('-')[-1]) for r in rows] == [1, 2, 4, 5, 7, 8, 10, 11]
  assert all(f'to {r.id.split("-")[-1]} as' in r.response_1 for r in rows)
  assert summary_of(tmp_path / 'whole')['skipped'] == 4
  leave((config, tmp_path / 'whole'), tmp_path / 'again', num_lines)
  label.run(config, tmp_path / 'again')
  assert records.read(tmp_path / 'again' / NAME) == rows
  assert summary_of(tmp_path / 'again')['skipped'] == 4


def test_only_identical_samples_is_an_error(tiny_model, tmp_path, one_device):
  config = make_config(tiny_model, source='human')
  config.sampling.greedy = True
  with pytest.raises(ValueError, match='no pair could be labelled'):
    label.run(config, tmp_path)


def test_identical_dataset_pair_is_named():
  config = make_config('', pairs='dataset')
  config.data.name, config.data.path = 'tldr', 'posts.jsonl'
  rows = [
    Example('r1', 'p', pair=('a', 'b')),
    Example('r2', 'p', pair=('a',) * 2),
  ]
  s = types.SimpleNamespace(config=config)
  with pytest.raises(ValueError, match=r'posts.jsonl: row r2: .* identical'):
    _pairs.make_pairs(s, rows)
  with pytest.raises(ValueError, match=r'posts.jsonl: row r3 has no pair'):
    _pairs.make_pairs(s, [rows[0], Example('r3', 'p')])


def test_pairs_too_long_for_the_labeler_are_skipped(
  tiny_model, tmp_path, one_device
):
  rows = [
    {'prompt': 'a', 'response_1': 'b', 'response_2': 'c', 'id': 'short'},
    {'prompt': 'a', 'response_1': 'dog ' * 400, 'response_2': 'e', 'id': 'x'},
  ]
  config = make_config(tiny_model, pairs='dataset')
  config.data.update(
    name='jsonl', path=write_rows(tmp_path / 'p.jsonl', rows), split='all'
  )
  label.run(config, tmp_path / 'run')
  assert [r.id for r in records.read(tmp_path / 'run' / NAME)] == ['short']
  assert summary_of(tmp_path / 'run')['skipped'] == 1


def test_prompts_over_the_limit(tiny_model, tmp_path, one_device):
  """'skip' leaves the row out and the others with their own responses."""
  rows = [
    {'prompt': text, 'id': f'r{i}'}
    for i, text in enumerate(['dog', 'dog ' * 90, 'job', 'so'])
  ]
  config = make_config(tiny_model)
  config.data.update(
    name='jsonl', path=write_rows(tmp_path / 'p.jsonl', rows), split='all'
  )
  with pytest.raises(ValueError, match=r'p.jsonl: row r1: .* max_prompt=80'):
    label.run(config, tmp_path / 'run')
  config.data.overflow = 'skip'
  label.run(config, tmp_path / 'run')
  found = records.read(tmp_path / 'run' / NAME)
  assert [r.id for r in found] == ['r0', 'r2', 'r3']
  config.data.overflow = 'drop'
  with pytest.raises(ValueError, match="overflow='drop'"):
    label.run(config, tmp_path / 'other')


def test_random_labels(tmp_path, one_device):
  """A coin for each pair: half of them, whatever the human or the order."""
  found = {}
  for seed in (0, 1):
    config = make_config('', source='random', pairs='dataset', seed=seed)
    config.data.update(split='preferences', size=400)
    label.run(config, tmp_path / str(seed))
    found[seed] = records.read(tmp_path / str(seed) / NAME)
  rows = found[0]
  said = np.array([r.p_first for r in rows])
  human = np.array([r.meta['human_p_first'] for r in rows])
  assert set(said) == {0.0, 1.0}
  assert {r.labeler for r in rows} == {'random'}
  # Four standard deviations of 400 coins are 0.1.
  assert abs(said.mean() - 0.5) < 0.1
  assert abs((said == human).mean() - 0.5) < 0.1
  other = np.array([r.p_first for r in found[1]])
  assert abs((said == other).mean() - 0.5) < 0.1
  examples = label.common.load_examples(config.data)
  assert [label.coin(0, e) for e in examples[:50]] == said[:50].tolist()


def test_random_labels_are_not_the_simulated_human_s(one_device):
  """That draws a number for each row, too."""
  config = make_config('', source='random')
  config.data.size = 300
  human = label.human_labels(config)
  rows = [
    dataclasses.replace(e, pair=('a b', 'a b c'))
    for e in label.common.load_examples(config.data)
  ]
  same = [
    label.coin(config.seed, e) == p
    for e, p in zip(rows, human(rows), strict=True)
  ]
  assert abs(np.mean(same) - 0.5) < 0.12


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'source': 'oracle'}, "source='oracle'; use one of labeler, human"),
    ({'pairs': 'sample'}, "pairs='sample'; use 'dataset'"),
    ({'source': 'dataset'}, "source='dataset' takes labels of .* own pairs"),
    ({'labeler.prompt': 'summery'}, "'summery'; use one of .*summary_base"),
    ({'labeler.prompt': 'summary_score'}, 'choose a pairwise prompt'),
    ({'data.name': 'tiny_tldl'}, "'tiny_tldl'. Known are: .*tiny_tldr"),
    ({'max_response': 500}, 'max_prompt=80 . max_response=500 = 580 tokens'),
    ({'policy.path': '/no/such/model'}, '/no/such/model'),
    ({'labeler.path': ''}, 'model path is empty'),
  ],
)
def test_bad_config(tiny_model, tmp_path, one_device, overrides, message):
  config = make_config(tiny_model, **overrides)
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    label.run(config, tmp_path)
  assert not (tmp_path / 'summary.json').exists()
