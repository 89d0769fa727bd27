"""Bad input: one clear line, a non-zero exit, nothing overwritten."""

import json
import os
import subprocess
import sys

import pytest

GOOD = {'prompt': 'say it', 'response_1': 'yes', 'response_2': 'no'}


def run_main(repo, *args):
  """Runs the command line; returns (exit code, stderr)."""
  done = subprocess.run(
    [sys.executable, '-m', 'rlaif_jax.main', *args],
    cwd=repo,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  return done.returncode, done.stderr


def label_command(data, workdir):
  return (
    '--config=configs/label.py',
    f'--workdir={workdir}',
    '--config.data.name=jsonl',
    f'--config.data.path={data}',
    '--config.labeler.path=tiny:xs',
    '--config.labeler.max_tokens=256',
  )


@pytest.mark.parametrize(
  ('rows', 'needles'),
  [
    (None, ['missing.jsonl']),
    ([], ['empty', 'data.jsonl']),
    (['{"prompt": "a", '], ['data.jsonl:1']),
    ([json.dumps(GOOD), json.dumps({'prompt': 'x'})], ['data.jsonl:2']),
    (
      [json.dumps({**GOOD, 'response_2': 'yes'})],
      ['data.jsonl:1', 'identical'],
    ),
    ([json.dumps({**GOOD, 'p_first': float('nan')})], ['data.jsonl:1']),
  ],
  ids=['missing', 'empty', 'broken', 'column', 'identical', 'nan'],
)
def test_bad_data(repo, tmp_path, rows, needles):
  data = tmp_path / ('missing.jsonl' if rows is None else 'data.jsonl')
  if rows is not None:
    data.write_text('\n'.join(rows))
  code, err = run_main(repo, *label_command(data, tmp_path / 'run'))
  assert code == 1, err
  lines = [line for line in err.splitlines() if line.startswith('error: ')]
  assert len(lines) == 1, err
  assert 'Traceback' not in err
  for needle in needles:
    assert needle in lines[0], lines[0]
  assert not (tmp_path / 'run' / 'summary.json').exists()


@pytest.mark.parametrize(
  ('flag', 'needle'),
  [
    ('--config.labler.path=x', 'labler'),
    ('--config.chunk=many', 'chunk'),
    ('--config.stage=labels', 'labels'),
  ],
)
def test_bad_config(repo, tmp_path, flag, needle):
  code, err = run_main(
    repo, *label_command(tmp_path / 'x', tmp_path / 'run'), flag
  )
  assert code != 0
  assert 'Traceback' not in err, err
  assert needle in err


def test_long_prompt_and_other_config(repo, tmp_path):
  """A prompt over the limit is named; another config leaves the run alone."""
  data = tmp_path / 'data.jsonl'
  data.write_text(
    json.dumps({**GOOD, 'prompt': 'word ' * 400, 'response': 'a'})
  )
  command = (
    '--config=configs/sft.py',
    f'--workdir={tmp_path / "run"}',
    '--config.data.name=jsonl',
    f'--config.data.path={data}',
    '--config.eval_data.name=jsonl',
    f'--config.eval_data.path={data}',
    '--config.model.path=tiny:xs',
    '--config.max_prompt=32',
  )
  code, err = run_main(repo, *command)
  assert code == 1
  assert 'max_prompt=32' in err, err
  assert 'data.jsonl' in err or 'row ' in err
  before = (tmp_path / 'run' / 'config.json').read_bytes()
  code, err = run_main(repo, *command, '--config.seed=7')
  assert code == 1
  assert 'seed' in err, err
  assert (tmp_path / 'run' / 'config.json').read_bytes() == before
