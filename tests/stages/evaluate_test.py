"""The evaluation stage: samples, judges, tables, and what it refuses."""

import json
import shutil

import numpy as np
import pytest

from rlaif_jax.data import transforms
from rlaif_jax.data.datasets import tiny_tldr
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.models import hf
from rlaif_jax.stages import _report, _sampler, evaluate


def make_config(model, other='', **overrides):
  """Nine prompts, two policies that are one model, and perhaps a third."""
  c = evaluate.default_config()
  c.data.update(name='tiny_tldr', path='', split='test', size=9)
  c.human_data.update(
    name='tiny_tldr', path='', split='test_preferences', size=7
  )
  c.policies.sft, c.policies.copy = model, model
  if other:
    c.policies.other = other
  c.max_prompt, c.max_response, c.batch_size = 80, 8, 4
  c.judge.max_tokens, c.judge.batch_size = 320, 4
  c.evals = {'win_rate': {'num_samples': 50}, 'text': {}}
  c.update_from_flattened_dict(overrides)
  return c


def summary_of(workdir):
  return json.loads((workdir / 'summary.json').read_text())


def samples_of(workdir):
  lines = (workdir / 'samples.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.fixture(scope='module')
def evaluated(make_model, tmp_path_factory, one_device):
  """A finished run with three policies: (config, workdir)."""
  config = make_config(make_model(0), make_model(1))
  config.head_to_head = (('copy', 'other'),)
  workdir = tmp_path_factory.mktemp('evaluate')
  evaluate.run(config, workdir)
  return config, workdir


def test_samples_file(evaluated):
  """One line a prompt: every policy's text with its oracle score."""
  config, workdir = evaluated
  examples = evaluate.common.load_examples(config.data)
  rows = samples_of(workdir)
  assert [r['id'] for r in rows] == [e.id for e in examples]
  for row, example in zip(rows, examples, strict=True):
    assert row['prompt'] == example.prompt
    assert row['reference'] == example.response
    assert list(row['responses']) == ['sft', 'copy', 'other']
    for name, text in row['responses'].items():
      assert row['scores'][name] == tiny_tldr.oracle(example, text)
  assert len({r['responses']['sft'] for r in rows}) > 1
  assert any(r['responses']['sft'] != r['responses']['other'] for r in rows)


def test_baseline_against_itself(evaluated):
  """The same model with the same seed: 50%, and no KL."""
  metrics = summary_of(evaluated[1])['metrics']
  rows = samples_of(evaluated[1])
  assert all(r['responses']['sft'] == r['responses']['copy'] for r in rows)
  assert metrics['eval_win_rate/copy'] == 0.5
  assert metrics['eval_win_rate/copy_tie'] == 1.0
  assert metrics['objective/kl/sft'] == pytest.approx(0.0, abs=1e-5)
  assert metrics['objective/kl/copy'] == pytest.approx(0.0, abs=1e-5)
  assert abs(metrics['objective/kl/other']) > 0.1


def test_win_rates_are_counted_from_the_samples(evaluated):
  metrics = summary_of(evaluated[1])['metrics']
  scores = [r['scores'] for r in samples_of(evaluated[1])]
  wins = [
    0.5 if s['other'] == s['sft'] else float(s['other'] > s['sft'])
    for s in scores
  ]
  assert metrics['eval_win_rate/other'] == pytest.approx(np.mean(wins))
  assert metrics['eval_win_rate/copy_vs_other'] == pytest.approx(
    1 - np.mean(wins)
  )
  words = [
    len(r['responses']['other'].split()) for r in samples_of(evaluated[1])
  ]
  assert metrics['text/words/other'] == pytest.approx(np.mean(words))


def test_restart_reads_what_was_sampled(
  evaluated, tmp_path, one_device, monkeypatch
):
  config, workdir = evaluated
  (tmp_path / 'samples').mkdir()
  for name in ('config.json', 'samples/sft.json', 'samples/copy.json'):
    (tmp_path / name).write_bytes((workdir / name).read_bytes())
  loads = []
  load_policy = evaluate.common.load_policy

  def spy(block, s):
    loads.append(block.path)
    return load_policy(block, s)

  monkeypatch.setattr(evaluate.common, 'load_policy', spy)
  evaluate.run(config, tmp_path)
  assert loads == [config.policies.other, config.policies.sft]
  assert summary_of(tmp_path) == summary_of(workdir)
  assert samples_of(tmp_path) == samples_of(workdir)


def test_finished_run_only_shows_the_table(evaluated, monkeypatch, capsys):
  config, workdir = evaluated
  monkeypatch.setattr(evaluate, '_run', None)
  evaluate.run(config, workdir)
  shown = capsys.readouterr().out
  assert 'copy vs other' in shown
  assert '50.0%' in shown


# -- judges -------------------------------------------------------------------


def test_labeler_as_judge(tiny_model, tmp_path, one_device):
  config = make_config(tiny_model, **{'judge.name': 'labeler'})
  config.judge.path = tiny_model
  evaluate.run(config, tmp_path)
  scores = [s for r in samples_of(tmp_path) for s in r['scores'].values()]
  assert all(1.0 <= score <= 10.0 for score in scores)
  assert len(set(scores)) > 1
  assert summary_of(tmp_path)['metrics']['eval_win_rate/copy'] == 0.5


def test_reward_model_as_judge(
  make_model, tiny_reward_model, tmp_path, one_device
):
  """Its scores of prompt and response, by the statistics beside it."""
  model = tmp_path / 'reward_judge' / 'model'
  shutil.copytree(tiny_reward_model, model)
  (model / 'reward_stats.json').write_text('{"mean": 0.25, "std": 2.0}')
  for name, value in (('config', {}), ('summary', {'pairs': 77})):
    (model.parent / f'{name}.json').write_text(json.dumps(value))
  config = make_config(make_model(0), make_model(1))
  config.judge.name = 'reward_model'
  config.judge.path = str(model.parent)
  evaluate.run(config, tmp_path / 'run')
  rm, params = hf.load_reward_model(model)
  tokenizer = load_tokenizer(str(model))
  seen = set()
  for row in samples_of(tmp_path / 'run'):
    for name, text in row['responses'].items():
      ids = transforms.response_ids(row['prompt'], text, tokenizer)
      tokens, mask = transforms.right_pad([ids], 128, tokenizer.pad_id)
      score = (float(rm.apply(params, tokens, mask=mask)[0]) - 0.25) / 2
      assert row['scores'][name] == pytest.approx(score, abs=1e-4)
      seen.add(score)
  assert len(seen) > 9
  summary = summary_of(tmp_path / 'run')
  assert summary['judge'] == {
    'name': 'reward_model', 'of': 'reward_judge', 'pairs': 77,
  }  # fmt: skip
  assert summary['metrics']['eval_win_rate/copy'] == 0.5


def test_no_judge(tiny_model, tmp_path, one_device):
  config = make_config(tiny_model, **{'judge.name': 'none'})
  config.evals = {'text': {'repeat_size': 2}}
  evaluate.run(config, tmp_path)
  assert samples_of(tmp_path)[0]['scores'] == {}
  metrics = summary_of(tmp_path)['metrics']
  assert 'text/repeated_2grams/copy' in metrics
  assert not [key for key in metrics if 'win_rate' in key]


# -- labelers and reward models -----------------------------------------------


def test_labels_and_reward_models_are_reported(
  tiny_model, tiny_reward_model, tmp_path, one_device, capsys
):
  (tmp_path / 'labels').mkdir()
  labels = {'labeler/alignment': 0.75, 'labeler/flip_rate': 0.1}
  (tmp_path / 'labels' / 'summary.json').write_text(json.dumps(labels))
  config = make_config(tiny_model)
  config.reward_models.ai = tiny_reward_model
  config.labels.ai = str(tmp_path / 'labels')
  evaluate.run(config, tmp_path / 'run')
  summary = summary_of(tmp_path / 'run')
  assert summary['labelers'] == {'ai': labels}
  accuracy = summary['reward_models']['ai']['eval_rewards/accuracies/model']
  assert accuracy * 14 == pytest.approx(round(accuracy * 14))  # ties: half
  [curve] = summary['reward_models']['ai']['reliability'].values()
  assert sum(count for *_, count in curve) == 7
  shown = capsys.readouterr().out
  assert '75.0%' in shown
  assert f'{accuracy:.1%}' in shown


def test_rows_of_the_headline_table():
  metrics = {
    'eval_win_rate/rlaif': 0.7,
    'eval_win_rate/rlaif_ci_low': 0.6,
    'eval_win_rate/rlaif_ci_high': 0.8,
    'eval_win_rate/rlaif_p_value': 0.01,
    'eval_win_rate/rlaif_vs_rlhf': 0.5,
    'eval_win_rate/rlaif_vs_rlhf_p_value': 1.0,
    'eval_win_rate_lc/rlaif': 0.65,
    'objective/kl/rlaif': 1.234,
    'text/words/sft': 9.96,
  }
  rows = _report.policy_rows({'policies': ['sft', 'rlaif'], 'metrics': metrics})
  assert list(rows) == ['sft', 'rlaif', 'rlaif vs rlhf']
  assert rows['sft'] == {'words': '10.0'}
  assert rows['rlaif'] == {
    'win rate': '70.0%',
    '95% CI': '60.0% to 80.0%',
    'length-corrected': '65.0%',
    'KL to SFT': '1.23',
  }
  assert rows['rlaif vs rlhf'] == {'win rate': '50.0%'}


# -- what is refused before anything is sampled -------------------------------


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'baseline': 'stf'}, "baseline names 'stf', .* there are: sft, copy"),
    ({'head_to_head': (('sft', 'ppo'),)}, "head_to_head names 'ppo'"),
    ({'evals': {'winrate': {}}}, "'winrate' is not an evaluator"),
    (
      {'evals': {'win_rate': {'tie_margn': 1}}},
      r'config.evals.win_rate.tie_margn is unknown; did you mean tie_margin\?',
    ),
    ({'judge.name': 'humans'}, "judge.name='humans'; use 'oracle'"),
    (
      {'judge.name': 'human'},
      'judge.path is empty: name the key of the rating',
    ),
    ({'data.name': 'jsonl'}, "'jsonl' has no oracle"),
    ({'judge.name': 'reward_model'}, 'config.judge.path is empty'),
    (
      {'judge.name': 'labeler', 'judge.prompt': 'summary_scores'},
      "'summary_scores'; use one of",
    ),
    ({'policies.sft': '/no/such/model'}, '/no/such/model: no such model'),
    ({'max_response': 500}, 'max_prompt=80 . max_response=500 = 580 tokens'),
    ({'max_prompt': 9}, 'tiny_tldr: row test-0-0: its prompt has .* tokens'),
  ],
)
def test_bad_config(
  tiny_model, tmp_path, one_device, monkeypatch, overrides, message
):
  monkeypatch.setattr(_sampler.decode, 'make_generate', None)
  config = make_config(tiny_model)
  for key, value in overrides.items():
    block, _, field = key.rpartition('.')
    (config[block] if block else config)[field] = value
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    evaluate.run(config, tmp_path)
  assert not (tmp_path / 'config.json').exists()


def test_unfinished_label_stage_is_named(tiny_model, tmp_path, one_device):
  config = make_config(tiny_model)
  config.labels.ai = str(tmp_path / 'labels')
  with pytest.raises(FileNotFoundError, match=r'config.labels.ai: .*labels'):
    evaluate.run(config, tmp_path / 'run')


def test_prompts_too_long_for_one_policy(make_model, tmp_path, one_device):
  """'skip' leaves a prompt out for all; then there is one answer for each."""
  rows = [
    {'prompt': text, 'id': f'r{i}'}
    for i, text in enumerate(['dog', 'dog ' * 90, 'job'])
  ]
  file = tmp_path / 'p.jsonl'
  file.write_text('\n'.join(map(json.dumps, rows)))
  config = make_config(make_model(0), make_model(1), **{'judge.name': 'none'})
  config.data.update(
    name='jsonl', path=str(file), split='all', size=0, overflow='skip'
  )
  config.evals = {'text': {}}
  evaluate.run(config, tmp_path / 'run')
  assert [r['id'] for r in samples_of(tmp_path / 'run')] == ['r0', 'r2']
