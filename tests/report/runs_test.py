"""Finding and reading runs, finished, unfinished or damaged."""

import json
import shutil

import pytest

from rlaif_jax.report import blocks, runs


def load(*paths):
  return runs.load_all(paths)


def names(run):
  return [step.name for step in run.steps]


def test_a_pipeline_has_its_steps_in_order(pipeline):
  (run,) = load(pipeline)
  assert names(run) == [
    'sft', 'labels_ai', 'reward_ai', 'rlaif', 'rlhf', 'evaluate',
  ]  # fmt: skip
  assert run.name == 'main' and run.finished() and not run.problems
  assert {step.state() for step in run.steps} == {'finished'}
  assert [step.seconds for step in run.steps[:2]] == [15.0, None]
  assert list(run.groups('rl')) == ['rlaif', 'rlhf']


def test_an_unfinished_pipeline(pipeline, write):
  (pipeline / 'summary.json').unlink()
  shutil.rmtree(pipeline / 'evaluate')
  shutil.rmtree(pipeline / 'rlhf')
  write.labels(pipeline / 'labels_ai', count=7)
  (pipeline / 'labels_ai' / 'summary.json').unlink()
  (pipeline / 'rlaif' / 'summary.json').unlink()
  (pipeline / 'error.txt').write_text('Traceback\n  ...\nValueError: too bad\n')
  (run,) = load(pipeline)
  states = {step.name: step.state() for step in run.steps}
  assert not run.finished()
  assert states['labels_ai'] == 'not finished: 7 labels'
  assert states['rlaif'] == 'not finished: step 50 of 60'
  assert states['rlhf'] == states['evaluate'] == 'not started'
  # In the pipeline's order all the same.
  assert names(run)[-3:] == ['rlaif', 'rlhf', 'evaluate']
  assert 'rlhf' not in run.groups('rl')


def test_the_error_of_a_step_is_its_last_line(tmp_path, write):
  write.rl(tmp_path / 'run', finished=False)
  (tmp_path / 'run' / 'error.txt').write_text('Trace\n  x\nValueError: bad\n')
  (run,) = load(tmp_path / 'run')
  assert run.steps[0].error == 'ValueError: bad'


def test_the_folder_of_one_stage(tmp_path, write):
  write.rl(tmp_path / 'mine')
  (run,) = load(tmp_path / 'mine')
  assert names(run) == ['mine'] and run.steps[0].label == 'mine'
  assert run.config['stage'] == 'rl' and run.finished()


def test_seeds_are_one_group_and_come_in_order(tmp_path, write):
  root = tmp_path / 'run'
  steps = {'rlaif': {'stage': 'rl'}, 'a': {'stage': 'rl'}}
  config = {'stage': 'pipeline', 'seeds': [0, 2, 10], 'steps': steps}
  write.json(root / 'config.json', config)
  for seed in (10, 2, 0):
    write.rl(root / f'seed_{seed}' / 'rlaif')
  (run,) = load(root)
  assert names(run) == [
    'seed_0/rlaif', 'seed_0/a', 'seed_2/rlaif', 'seed_2/a',
    'seed_10/rlaif', 'seed_10/a',
  ]  # fmt: skip
  assert [len(steps) for steps in run.groups('rl').values()] == [3]


def test_a_folder_that_holds_runs(tmp_path, write):
  write.rl(tmp_path / 'all' / 'one')
  write.rl(tmp_path / 'all' / 'group' / 'two')
  # What is inside of a run is no run, whatever it looks like.
  write.rl(tmp_path / 'all' / 'one' / 'checkpoints' / 'x')
  write.rl(tmp_path / 'all' / '.hidden')
  (run,) = load(tmp_path / 'all')
  assert names(run) == ['group/two', 'one']
  assert run.config == {} and run.finished()


def test_names_tell_runs_apart(tmp_path, write):
  for name in ('a/main', 'b/main', 'b/other'):
    write.rl(tmp_path / name)
  found = load(*(tmp_path / name for name in ('a/main', 'b/main', 'b/other')))
  assert [run.name for run in found] == ['a/main', 'b/main', 'other']
  # The same folder twice is one run.
  assert len(load(tmp_path / 'a/main', tmp_path / 'b/../a/main')) == 1


def test_no_run_there(tmp_path):
  with pytest.raises(FileNotFoundError, match='no such folder'):
    load(tmp_path / 'nothing')
  (tmp_path / 'model').mkdir()
  (tmp_path / 'config.json').write_text('{"model_type": "llama"}')
  with pytest.raises(ValueError, match='no run in this folder'):
    load(tmp_path)


def test_damage_is_a_problem_and_the_rest_is_read(pipeline):
  (pipeline / 'rlaif' / 'summary.json').write_text('{"half')
  metrics = pipeline / 'rlhf' / 'metrics.jsonl'
  metrics.write_text('not json\n' + metrics.read_text())
  (run,) = load(pipeline)
  assert len(run.problems) == 2
  assert 'rlaif/summary.json is damaged' in run.problems[0]
  assert 'rlhf/metrics.jsonl:1' in run.problems[1]
  found = {step.name: step for step in run.steps}
  assert found['rlaif'].metrics and not found['rlhf'].metrics


def test_half_written_lines_are_left_out(tmp_path, write):
  write.labels(tmp_path / 'run', count=3, finished=False)
  with (tmp_path / 'run/labels/preferences.jsonl').open('a') as file:
    file.write('{"id": "pair-3", "p_fir')
  # Beside the preferences lie those that a calibration was made from.
  write.lines(tmp_path / 'run/labels/calibration.jsonl', [{'p_first': 0.1}])
  labels = load(tmp_path / 'run')[0].steps[0].labels
  assert labels.p_first.tolist() == [0.8] * 3
  assert labels.human.tolist() == [0, 1, 1]
  assert labels.slot_12 == pytest.approx([1.5] * 3)
  assert labels.slot_21 == pytest.approx([1.5, -1.5, 1.5])


def test_averages():
  found = runs.average([{'a': 1.0, 'b': 'x', 'c': 1}, {'a': 3.0, 'b': 'x'}])
  assert found == {'a': 2.0, 'a_std': 1.0}
  assert runs.average([{'a': 1.0}]) == {'a': 1.0}
  assert runs.average([]) == {}


def test_a_metric_that_is_no_number(tmp_path, write):
  write.rl(tmp_path / 'run')
  row = {'step': 51, 'objective/kl': 'nan', 'objective/scores': 'inf'}
  with (tmp_path / 'run/metrics.jsonl').open('a') as file:
    file.write(json.dumps(row) + '\n')
  metrics = load(tmp_path / 'run')[0].steps[0].metrics
  assert not blocks.is_number(metrics[-1]['objective/kl'])
  assert blocks.is_number(metrics[0]['objective/kl'])
