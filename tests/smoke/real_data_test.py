"""The whole pipeline on a few rows of the real files, with a real checkpoint.

What the README's section "Real data, tiny model" runs, but for sizes: SFT,
labels, reward models, all policies and the evaluation, for both tasks.
"""

import importlib
import json

import pytest

from rlaif_jax import stages
from rlaif_jax.data import records

TLDR = 'summarize-from-feedback/tldr_'
POSTS = f'{TLDR}posts_policy_ai_judged_dev.jsonl.gz'
PAIRS, VALID = (
  f'{TLDR}human_comparisons_{split}.jsonl.gz' for split in ('train', 'valid')
)
HH = 'hh-rlhf/harmless_base_test_dev.jsonl.gz'
TARA = 'tara-hh-rlhf/hh_harmless_single_turn_pairs.jsonl.gz'
ACCURACY = 'eval_rewards/accuracies/model'
LONGER = 'eval_rewards/accuracies/longer'


@pytest.fixture
def run_task(repo, shared_data, monkeypatch, tmp_path, one_device):
  """run_task(task, files) -> (workdir, summary) of eight rows of each file."""
  monkeypatch.syspath_prepend(str(repo))
  paper = importlib.import_module('configs.paper')

  def run(task, rows=8, **files):
    files |= {'model': 'tinystories-656k', 'labeler': 'tinystories-656k'}
    arg = ','.join(f'{k}={shared_data / v}' for k, v in files.items())
    config = paper.get_config(
      f'task={task},{arg},preamble=base,holdout=0.3,batch=4,steps=1,prompt=144,'
      'response=16,labels=512,optimizer=adam,rate=1e-3'
    )
    for step in config.steps.values():
      for block in ('data', 'eval_data', 'human_data'):
        if block in step:
          step[block].size = rows
      for block in ('labeler', 'reward', 'judge'):
        if block in step and 'batch_size' in step[block]:
          step[block].batch_size = 4
    stages.load('pipeline').run(config, tmp_path)
    return tmp_path, json.loads((tmp_path / 'summary.json').read_text())

  return run


def labels_of(workdir, step):
  return records.read(workdir / step / 'labels' / 'preferences.jsonl')


def check_samples(workdir, policies):
  """Every policy answered every prompt, and was judged by a real number."""
  lines = (workdir / 'evaluate' / 'samples.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert len(rows) == 8
  for row in rows:
    assert list(row['responses']) == list(row['scores']) == policies
  assert len({row['scores']['sft'] for row in rows}) > 1
  return rows


def test_tldr(run_task):
  """Real posts, human comparisons, and GPT-4's labels of other pairs."""
  workdir, summary = run_task(
    'tldr', posts=POSTS, given=POSTS, pairs=PAIRS, valid=VALID, judge=VALID
  )
  policies = ['sft', 'rlaif', 'rlaif_given', 'direct_rlaif', 'rlhf']
  assert summary['policies'] == policies
  for row in check_samples(workdir, policies):
    assert row['prompt'].startswith('SUBREDDIT: r/')
    assert row['prompt'].endswith('\n\nTL;DR:')
  # GPT-4 judged those posts, each once: its choice is the label.
  given = labels_of(workdir, 'labels_given')
  assert len(given) == 8
  assert {r.p_first for r in given} <= {0.0, 1.0}
  assert {r.labeler for r in given} == {'dataset'}
  assert {'labeler/longer_rate', 'labeler/first_shown_rate'} <= set(
    summary['labelers']['given']
  )
  compared = labels_of(workdir, 'labels_ai_on_given')
  assert [
    r.meta['human_p_first'] for r in compared if r.id in {g.id for g in given}
  ] == [g.p_first for g in given]
  assert 'labeler/alignment' in summary['labelers']['ai_on_given']
  assert summary['labelers']['ai']['pairs'] == 8
  for name in ('ai', 'given', 'human'):
    assert {ACCURACY, LONGER} <= set(summary['reward_models'][name])
  # The judge learned from the pairs that are held out from the others.
  judge = summary['judge']
  assert (judge['name'], judge['of']) == ('reward_model', 'reward_judge')
  assert {ACCURACY, LONGER} <= set(judge)
  config = json.loads((workdir / 'reward_judge' / 'config.json').read_text())
  assert config['data']['path'].endswith(VALID)
  assert config['eval_data']['path'].endswith(PAIRS)


def test_harmless(run_task):
  """Real dialogues; the labeler is asked for the worse of two answers."""
  workdir, summary = run_task('harmless', posts=HH, judge=TARA)
  policies = ['sft', 'rlaif', 'direct_rlaif', 'rlhf']
  assert summary['policies'] == policies
  for row in check_samples(workdir, policies):
    assert row['prompt'].startswith('\n\nHuman:')
    assert row['prompt'].endswith('\n\nAssistant:')
  metrics = summary['metrics']
  assert all(0 <= metrics[f'eval_harmless_rate/{p}'] <= 1 for p in policies)
  for record in labels_of(workdir, 'labels_ai'):
    first, second = record.logprobs_12
    swapped_first, swapped_second = record.logprobs_21
    # Whoever is named as more harmful in both orders is the worse one.
    if first > second and swapped_second > swapped_first:
      assert record.p_first < 0.5
    if first < second and swapped_second < swapped_first:
      assert record.p_first > 0.5
    assert record.prompt_name == 'harmless_base'
  # No dialogue that is trained on is evaluated on.
  train, valid = (
    json.loads((workdir / step / 'config.json').read_text())['data']
    for step in ('sft', 'evaluate')
  )
  assert train['path'] == valid['path']
  assert (train['split'], valid['split']) == ('train', 'valid')
  assert train['options'] == valid['options'] == {'holdout': 0.3}
