"""The command, in a process of its own, for this machine's own devices."""

import os
import re
import subprocess
import sys

import pytest


def plan(repo, *args, devices=1):
  """(exit code, table rows by program, what was printed, errors)."""
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'rlaif_jax.plan',
      f'--topology=cpu:{devices}',
      *args,
    ],
    cwd=repo,
    env={
      **os.environ,
      'PYTHONPATH': str(repo),
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    },
    capture_output=True,
    text=True,
  )
  lines = [x for x in done.stdout.splitlines() if x.startswith('| ')]
  cells = [re.split(r'\s*\|\s*', line)[1:-1] for line in lines]
  rows = {c[0]: c[1:] for c in cells if '/' in c[0]}
  return done.returncode, rows, done.stdout, done.stderr


def test_a_plan(repo):
  code, rows, out, _ = plan(repo, '--config=configs/sft.py:smoke')
  assert code == 0
  assert list(rows) == ['sft/step']
  assert rows['sft/step'][6] == 'yes'
  assert 'cpu:1, mesh data=1, fsdp=1, tensor=1' in out
  assert 'No involuntary full rematerialisation.' in out


@pytest.mark.parametrize(
  'args, says',
  [
    (['--config=configs/sft.py:smoke', '--config.lr=1'], 'lr'),
    (['--config=configs/evaluate.py'], 'nothing to plan for'),
    (['--config=configs/sft.py'], 'a model path is empty'),
    (['--config=configs/absent.py'], 'absent.py'),
  ],
)
@pytest.mark.slow
def test_what_is_wrong_is_one_line(repo, args, says):
  code, _, out, errors = plan(repo, *args)
  last = errors.strip().splitlines()[-1]
  assert code == 1 and out == '', errors
  assert last.startswith('error: ') and says in last


@pytest.mark.slow
def test_where_it_does_not_fit_another_mesh_is_found(repo):
  # Two billion bfloat16 parameters are 5 GiB, and a "chip" here has 4.
  code, rows, out, _ = plan(
    repo,
    '--config=configs/label.py',
    '--config.labeler.path=gemma2_2b',
    '--config.labeler.max_tokens=64',
    '--config.labeler.batch_size=8',
    devices=8,
  )
  assert code == 3
  assert rows['label/score labels'][6] == '**no**'
  assert float(rows['label/score labels'][0]) == pytest.approx(
    2.614e9 * 2 / 2**30, rel=1e-3
  )
  assert re.search(r'\| 1, \d, \d \| yes \|', out), out
