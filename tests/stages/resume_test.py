"""Stages killed at any moment go on as if nothing had happened.

Each case starts real processes of the command line on the CPU, kills them with
SIGKILL and starts them again; what they leave is compared with what a run
leaves that nobody disturbed.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from rlaif_jax.data import records
from rlaif_jax.stages import sample
from rlaif_jax.training.metrics import read_metrics

STEPS = 24
LABELS = 'labels/preferences.jsonl'


@pytest.fixture(scope='session')
def commands(tiny_model, tiny_reward_model):
  """Arguments of the command line, less --workdir, for each stage."""
  training = (f'--config.num_steps={STEPS}', '--config.checkpoint.every=5')
  rate = '--config.optimizer.learning_rate=1e-3'
  policy = f'--config.policy.path={tiny_model}'
  return {
    'sft': (
      '--config=configs/sft.py:smoke', *training, rate,
      f'--config.model.path={tiny_model}', '--config.eval_every=10',
    ),
    'reward': (
      '--config=configs/reward.py:smoke', *training, rate,
      f'--config.model.path={tiny_model}', '--config.eval_every=10',
    ),
    'rl': (
      '--config=configs/rl.py:smoke', *training, rate, policy,
      '--config.reward.name=reward_model',
      f'--config.reward.path={tiny_reward_model}',
      '--config.reward_scaling=running',
    ),
    'preference': (
      '--config=configs/preference.py:smoke', *training, rate, policy,
      '--config.eval_every=10', '--config.max_prompt=80',
    ),
    # Shuffled parts of each batch, a KL coefficient that moves.
    'ppo': (
      '--config=configs/rl.py:algorithm=ppo,smoke', *training, rate, policy,
      '--config.reward.name=reward_model',
      f'--config.reward.path={tiny_reward_model}',
      '--config.algorithm_config.inner_epochs=2',
      '--config.algorithm_config.num_minibatches=2',
      '--config.algorithm_config.kl_target=0.1',
      '--config.algorithm_config.kl_horizon=100.0',
    ),
    # No value model, groups of samples.
    'grpo': (
      '--config=configs/rl.py:algorithm=grpo,smoke', *training, rate, policy,
      '--config.reward.name=reward_model',
      f'--config.reward.path={tiny_reward_model}',
    ),
    # Rounds of rollouts, as many as a step needs.
    'dapo': (
      '--config=configs/rl.py:algorithm=dapo,smoke', *training, rate, policy,
      '--config.reward.name=length', '--config.reward.path=',
      "--config.reward.options={'target': 4}",
    ),
    # Policy and value on one trunk.
    'shared': (
      '--config=configs/rl.py:shared,smoke', *training, rate, policy,
      f'--config.reward.path={tiny_model}',
    ),
    # Other texts beside the rollouts.
    'ptx': (
      '--config=configs/rl.py:algorithm=instructgpt,smoke', *training, rate,
      policy, '--config.reward.name=reward_model',
      f'--config.reward.path={tiny_reward_model}',
      f'--config.value={tiny_reward_model}',
    ),
    # Rankings, of two responses each.
    'kway': (
      '--config=configs/reward.py:loss=kway,smoke', *training, rate,
      f'--config.model.path={tiny_model}', '--config.eval_every=10',
      '--config.max_prompt=80',
    ),
    'direct': (
      '--config=configs/rl.py:smoke', *training, rate, policy,
      f'--config.reward.path={tiny_model}',
    ),
    'label': (
      '--config=configs/label.py:smoke', '--config.data.split=rl',
      '--config.pairs=samples', policy, '--config.max_prompt=80',
      '--config.max_response=8', f'--config.labeler.path={tiny_model}',
      '--config.data.size=60', '--config.chunk=8',
    ),
    'sample': (
      '--config=configs/sample.py:smoke', policy, '--config.data.size=40',
      '--config.max_response=8', '--config.only_ended=False',
      '--config.reward.name=reward_model', '--config.select=best',
      f'--config.reward.path={tiny_reward_model}', '--config.chunk=4',
    ),
  }  # fmt: skip


@pytest.fixture(scope='session')
def start(repo):
  """start(args, workdir) -> running process of the command line."""

  def start_process(args, workdir):
    return subprocess.Popen(
      [sys.executable, '-m', 'rlaif_jax.main', *args, f'--workdir={workdir}'],
      cwd=repo,
      env={
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'JAX_COMPILATION_CACHE_DIR': str(repo / '.cache' / 'jax'),
      },
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )

  return start_process


def finish(process):
  """Waits for a process that has to succeed; returns its stderr."""
  _, err = process.communicate(timeout=900)
  assert process.returncode == 0, err
  assert 'Traceback' not in err, err
  return err


def kill_within(process, file, lines, rng):
  """SIGKILL at a random time after the process brought `file` to `lines`."""
  since = time.time()
  while process.poll() is None:
    new = file.is_file() and file.stat().st_mtime > since
    if new and file.read_bytes().count(b'\n') >= lines:
      time.sleep(rng.uniform(0, 0.05))
      process.send_signal(signal.SIGKILL)
      break
    time.sleep(0.002)
  _, err = process.communicate(timeout=60)
  assert process.returncode == -signal.SIGKILL, err


def untimed(mapping):
  """Without what depends on the clock."""
  return {
    k: v for k, v in mapping.items() if not k.startswith(('time/', 'perf/'))
  }


def assert_same_run(workdir, whole):
  """Metrics equal bit for bit, the model byte for byte, the summary too."""
  rows, expected = (
    [untimed(row) for row in read_metrics(folder)]
    for folder in (workdir, whole)
  )
  assert [row['step'] for row in rows] == list(range(1, STEPS + 1))
  assert rows == expected
  weights = 'model/model.safetensors'
  assert (workdir / weights).read_bytes() == (whole / weights).read_bytes()
  summaries = (
    untimed(json.loads((folder / 'summary.json').read_text()))
    for folder in (workdir, whole)
  )
  assert next(summaries) == next(summaries)


def kill_and_resume(start, args, workdir, kills):
  """Kills a run at `kills` random places, each time further on; finishes it."""
  seed = random.randrange(2**32)
  print(f'random.Random({seed})')  # shown when the test fails
  rng = random.Random(seed)
  for lines in sorted(rng.sample(range(1, STEPS - 4), kills)):
    kill_within(start(args, workdir), workdir / 'metrics.jsonl', lines, rng)
    assert not (workdir / 'summary.json').exists()
  return finish(start(args, workdir))


@pytest.mark.parametrize('stage', ['sft', 'rl', 'ppo'])
def test_killed_run_is_bit_identical(commands, start, tmp_path, stage):
  args = commands[stage]
  finish(start(args, tmp_path / 'whole'))
  kill_and_resume(start, args, tmp_path / 'killed', kills=1)
  assert_same_run(tmp_path / 'killed', tmp_path / 'whole')


@pytest.mark.slow
@pytest.mark.parametrize(
  'stage',
  [
    'sft', 'reward', 'kway', 'preference', 'rl', 'ppo', 'ptx', 'grpo', 'dapo',
    'shared', 'direct',
  ],
)  # fmt: skip
def test_killed_again_and_again(commands, start, tmp_path, stage):
  args = commands[stage]
  whole = tmp_path / 'whole'
  finish(start(args, whole))
  kill_and_resume(start, args, tmp_path / 'killed', kills=3)
  assert_same_run(tmp_path / 'killed', whole)
  # And as a run that lost its end and half of its newest checkpoint.
  cut = tmp_path / 'cut'
  shutil.copytree(whole, cut)
  (cut / 'summary.json').unlink()
  shutil.rmtree(cut / 'model')
  newest = max((cut / 'checkpoints').glob('[0-9]*'), key=lambda p: int(p.name))
  largest = max(newest.glob('*/**/*'), key=lambda p: p.stat().st_size)
  os.truncate(largest, largest.stat().st_size // 2)
  err = finish(start(args, cut))
  assert f'{newest.name} is damaged' in err
  assert_same_run(cut, whole)


@pytest.mark.slow
def test_killed_while_labelling(commands, start, tmp_path):
  """No id is lost and none there twice; samples and labels are the same."""
  args, rng = commands['label'], random.Random()
  finish(start(args, tmp_path / 'whole'))
  whole = records.read(tmp_path / 'whole' / LABELS)
  assert len({r.id for r in whole}) == len(whole) > 50
  for lines in (1, 20, 40):
    process = start(args, tmp_path / 'killed')
    kill_within(process, tmp_path / 'killed' / LABELS, lines, rng)
  finish(start(args, tmp_path / 'killed'))
  assert [r.id for r in records.read(tmp_path / 'killed' / LABELS)] == [
    r.id for r in whole
  ]
  texts = [
    (tmp_path / name / LABELS).read_bytes() for name in ('whole', 'killed')
  ]
  assert texts[0] == texts[1]


@pytest.mark.slow
def test_killed_while_sampling(commands, start, tmp_path):
  """Samples, scores and what is selected are the same to the last byte."""
  args, rng = commands['sample'], random.Random()
  finish(start(args, tmp_path / 'run'))
  whole = tmp_path / 'whole'
  (tmp_path / 'run').rename(whole)  # the name of a workdir is in its rows
  for lines in (1, 60, 110):
    process = start(args, tmp_path / 'run')
    kill_within(process, tmp_path / 'run' / sample.ALL, lines, rng)
  finish(start(args, tmp_path / 'run'))
  assert (whole / sample.ALL).read_bytes().count(b'\n') == 160
  for name in (sample.ALL, sample.SELECTED):
    assert (tmp_path / 'run' / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'file', 'prompt'),
  [
    (
      'tldr',
      'summarize-from-feedback/tldr_human_comparisons_valid.jsonl.gz',
      'summary_base',
    ),
    (
      'hh',
      'tara-hh-rlhf/hh_harmless_single_turn_pairs.jsonl.gz',
      'harmless_base_cot',
    ),
  ],
)
def test_killed_while_labelling_real_data(
  start, shared_data, tmp_path, name, file, prompt
):
  """A real checkpoint on real pairs: every id that fits once, none twice."""
  args = (
    '--config=configs/label.py', f'--config.data.name={name}',
    f'--config.data.path={shared_data / file}', '--config.data.split=all',
    '--config.data.size=48', f'--config.labeler.prompt={prompt}',
    f'--config.labeler.path={shared_data / "tinystories-656k"}',
    '--config.labeler.max_tokens=480', '--config.labeler.batch_size=8',
    '--config.labeler.rationale.max_tokens=16', '--config.chunk=8',
  )  # fmt: skip
  finish(start(args, tmp_path / 'whole'))
  whole = records.read(tmp_path / 'whole' / LABELS)
  summary = json.loads((tmp_path / 'whole' / 'summary.json').read_text())
  assert len({r.id for r in whole}) == len(whole) > 30
  assert len(whole) + summary['skipped'] == 48
  rng = random.Random()
  for lines in (1, 15, 25):
    kill_within(
      start(args, tmp_path / 'killed'), tmp_path / 'killed' / LABELS, lines, rng
    )
  finish(start(args, tmp_path / 'killed'))
  texts = [(tmp_path / n / LABELS).read_bytes() for n in ('whole', 'killed')]
  assert texts[0] == texts[1]
