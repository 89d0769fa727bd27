"""Sweeps: which runs there are, how they are started, what came of them."""

import importlib.util
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time

import pytest

CONFIG = 'configs/sft.py:smoke'


@pytest.fixture(scope='module')
def sweep(repo):
  """The module launch/sweep.py, which is no part of the package."""
  spec = importlib.util.spec_from_file_location(
    'sweep', repo / 'launch/sweep.py'
  )
  module = importlib.util.module_from_spec(spec)
  sys.modules['sweep'] = module  # dataclasses look there
  spec.loader.exec_module(module)
  yield module
  del sys.modules['sweep']


@pytest.fixture
def read(sweep, tmp_path):
  """read(text, arg) -> runs of a file with this text."""

  def read_text(text, arg=''):
    (tmp_path / 'points.py').write_text(text)
    return sweep.read_sweep(str(tmp_path / 'points.py'), arg)

  return read_text


SEEDS = """
def sweep(add):
  for seed in (3, 4, 5):
    add(seed=seed, note=f'it is "{seed}"')
"""

# Writes what a stage would; seed 4 fails the first time.
FAKE_PYTHON = """#!{python}
import json, pathlib, sys
flags = dict(x.removeprefix('--').split('=', 1) for x in sys.argv[3:])
folder = pathlib.Path(flags['workdir'])
if (folder / 'summary.json').exists():
  print('nothing to do')
  sys.exit()
folder.mkdir(parents=True, exist_ok=True)
seed = int(flags['config.seed'])
print('flags', json.dumps(flags))
with (folder / 'metrics.jsonl').open('a') as f:
  f.write(json.dumps(dict(step=1, loss=seed / 2)) + '\\n')
if seed == 4 and not (folder / 'again').exists():
  (folder / 'again').touch()
  sys.exit(1)
(folder / 'summary.json').write_text(
  json.dumps(dict(loss=seed / 4, eval=dict(win=1 / seed)))
)
"""


@pytest.fixture
def fake(tmp_path):
  """fake(action, *arguments) -> the ended sweep.py, whose runs are fakes."""
  points, python = tmp_path / 'points.py', tmp_path / 'python'
  config = tmp_path / 'config.py'
  points.write_text(SEEDS)
  python.write_text(FAKE_PYTHON.format(python=sys.executable))
  python.chmod(python.stat().st_mode | stat.S_IXUSR)
  config.write_text("""
import ml_collections
def get_config(arg=''):
  return ml_collections.ConfigDict(dict(seed=0, note='', deep=dict(x=1)))
""")

  def run(action, *arguments, **variables):
    return subprocess.run(
      [
        sys.executable, 'launch/sweep.py', action, f'--config={config}',
        f'--workdir={tmp_path}/runs', f'--sweep={points}',
        f'--python={python}', *arguments,
      ],
      cwd=_REPO, env={**os.environ, **variables}, capture_output=True,
      text=True, check=False, timeout=120,
    )  # fmt: skip

  return run


_REPO = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))


# -- which runs ---------------------------------------------------------------


def test_add(read):
  runs = read("""
def sweep(add):
  add(seed=1, **{'steps.rlaif.policy.dtype': 'bfloat16', 'eval.dtype': 'f'})
  add(sizes=(1, 2))
  add()
""")
  assert [run.name for run in runs] == [
    '00-seed=1,policy.dtype=bfloat16,eval.dtype=f',
    '01-sizes=_1,_2',
    '02',
  ]
  assert runs[1].overrides == {'sizes': (1, 2)}


def test_hyper(read):
  runs = read("""
def get_hyper(hyper):
  return hyper.chainit([
    hyper.product([
      hyper.sweep('config.seed', range(2)),
      hyper.zipit([
        hyper.sweep('config.batch_size', (8, 16)),
        hyper.sweep('config.num_steps', (20, 10)),
        hyper.fixed('config.save_every', 5),
      ]),
    ]),
    hyper.fixed('config.seed', 7),
  ])
""")
  assert [dict(run.overrides) for run in runs] == [
    dict(seed=0, batch_size=8, num_steps=20, save_every=5),
    dict(seed=0, batch_size=16, num_steps=10, save_every=5),
    dict(seed=1, batch_size=8, num_steps=20, save_every=5),
    dict(seed=1, batch_size=16, num_steps=10, save_every=5),
    dict(seed=7),
  ]
  assert runs[4].id == 4


def test_config_argument(read):
  text = 'def sweep(add, arg):\n  for i in range(int(arg)): add(seed=i)'
  assert len(read(text, '101')) == 101
  assert read(text, '101')[7].name == '007-seed=7'


@pytest.mark.parametrize(
  ('text', 'needle'),
  [
    ('x = 1', 'neither sweep(add) nor get_hyper(hyper)'),
    ('def sweep(add): pass', 'has no runs'),
    ('def sweep(add):\n  add(a=1)\n  add(a=1)', 'runs 0 and 1 are the same'),
    (
      'def get_hyper(h): return h.zipit([h.sweep("a", (1, 2)), '
      'h.sweep("b", (1, 2, 3))])',
      'zipit of parts that are [2, 3] runs long',
    ),
    (
      'def get_hyper(h): return h.product([h.fixed("a", 1), h.fixed("a", 2)])',
      "'a' is set twice",
    ),
  ],
)
def test_broken_sweeps(read, text, needle):
  with pytest.raises(ValueError) as caught:
    read(text)
  assert needle in str(caught.value)


def test_long_names_are_cut(read):
  (run,) = read(f'def sweep(add): add(text="{"a/" * 200}")')
  assert len(run.name) < 110
  assert '/' not in run.name


# -- how they start -----------------------------------------------------------


def test_print(fake, tmp_path):
  done = fake('print', '--', '--config.x=a b', '--distributed')
  assert done.returncode == 0, done.stderr
  lines = [shlex.split(line) for line in done.stdout.splitlines()]
  assert len(lines) == 3
  assert lines[1][1:] == [
    '-m', 'rlaif_jax.main', f'--config={tmp_path}/config.py',
    f'--workdir={tmp_path}/runs/01-seed=4,note=it_is_4', '--config.seed=4',
    '--config.note=it is "4"', '--config.x=a b', '--distributed',
  ]  # fmt: skip
  assert not (tmp_path / 'runs').exists()


def test_commands_are_those_of_main(sweep, read, repo, monkeypatch):
  """Values come through the command line as they were."""
  from absl import flags
  from ml_collections import config_flags

  from rlaif_jax import main

  monkeypatch.syspath_prepend(str(repo))
  monkeypatch.delitem(sys.modules, 'config_config', raising=False)
  point = {
    'arg': 'smoke', 'seed': 5, 'data.options': {'holdout': (0.1, 0.2)},
    'data.name': 'tiny_tldr', 'optimizer.learning_rate': 3e-5,
  }  # fmt: skip
  (run,) = read(f'def sweep(add): add(**{point!r})')
  options = sweep.parse([
    'print', f'--config={repo}/configs/sft.py', '--workdir=w'
  ])  # fmt: skip
  argv = ['main', *sweep.command_of(run, options)[3:]]
  values = flags.FlagValues()
  flags.DEFINE_string('workdir', None, '', flag_values=values)
  config_flags.DEFINE_config_file(
    'config', flag_values=values, lock_config=True, sys_argv=argv
  )
  main.read_flags(argv, values)
  config = values['config'].value
  assert (config.seed, config.batch_size) == (5, 8)
  assert config.optimizer.learning_rate == 3e-5
  assert config.data.options.holdout == (0.1, 0.2)


def test_run_resume_and_table(fake, tmp_path):
  done = fake('table')
  assert (done.returncode, done.stdout) == (1, '')
  assert 'holds no sweep' in done.stderr

  done = fake('run', '--jobs=2')
  assert done.returncode == 1, done.stderr
  assert '2 of 3 runs finished, 1 failed' in done.stdout
  assert '01-seed=4,note=it_is_4  FAILED with code 1: see ' in done.stdout
  header, *rows = [x.split() for x in fake('table').stdout.splitlines()]
  assert header == ['id', 'seed', 'note', 'state', 'eval/win', 'loss']
  assert rows[0][-3:] == ['finished', '0.3333', '0.75']
  assert rows[1][-3:] == ['step', '1', '2']

  done = fake('run')
  assert done.returncode == 0, done.stderr
  log = (tmp_path / 'runs/logs/00-seed=3,note=it_is_3.log').read_text()
  assert log.splitlines()[1:] == ['nothing to do']
  done = fake('table', '--metrics=win', '--sort=eval/win')
  header, *rows = [x.split() for x in done.stdout.splitlines()]
  assert header[-2:] == ['state', 'eval/win']
  assert [row[0] for row in rows] == ['02', '01', '00']
  assert "no run has 'x' to sort by" in fake('table', '--sort=x').stderr


def test_longer_and_other_sweeps(fake, tmp_path):
  """A sweep may get longer, its folders stay; another one is refused."""
  assert fake('run').returncode == 1
  points = tmp_path / 'points.py'
  points.write_text(SEEDS + "  add(seed=6, **{'deep.x': 2})\n")
  done = fake('run')
  assert done.returncode == 0, done.stderr
  assert '4 of 4 runs finished' in done.stdout
  points.write_text(SEEDS.replace('3, 4', '4, 3'))
  done = fake('run')
  assert done.returncode == 1
  assert 'holds another sweep' in done.stderr
  points.write_text(SEEDS)
  assert 'holds a sweep of 4 runs, not 3' in fake('run').stderr


def test_unknown_key(fake, tmp_path):
  (tmp_path / 'points.py').write_text("def sweep(a): a(**{'deep.y': 2})")
  done = fake('run')
  assert done.returncode == 1
  assert done.stderr == "error: unknown config key 'deep.y' in the sweep\n"
  assert not (tmp_path / 'runs').exists()


def test_one(fake):
  def note_of(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.removeprefix('flags '))['config.note']

  assert note_of(fake('one', '--id=0')) == 'it is "3"'
  assert note_of(fake('one', SLURM_ARRAY_TASK_ID='2')) == 'it is "5"'
  assert 'there is no run 3' in fake('one', '--id=3').stderr
  assert 'which run?' in fake('one').stderr


def test_stopping(tmp_path, fake):
  """Runs get SIGTERM and save; those that wait are not started."""
  (tmp_path / 'python').write_text(
    '#!/usr/bin/env bash\n'
    "trap 'exit 42' TERM\n"
    f'touch {shlex.quote(str(tmp_path))}/up$$\n'
    'while true; do sleep 0.05; done\n'
  )
  command = fake('print').args
  command[2] = 'run'
  process = subprocess.Popen(
    [*command, '--jobs=2'], cwd=_REPO, stdout=subprocess.PIPE, text=True
  )
  end = time.monotonic() + 60
  while len(list(tmp_path.glob('up*'))) < 2:
    assert process.poll() is None and time.monotonic() < end
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=60)
  assert process.returncode == 42
  assert output.count('stopped and saved') == 2
  assert '0 of 3 runs finished, 0 failed' in output
  assert len(list(tmp_path.glob('up*'))) == 2


def test_slurm(fake, tmp_path):
  done = fake('slurm', '--dry-run', '--jobs=2', '--slurm=--gpus=0 --name=s',
              '--', '--config.note=a b')  # fmt: skip
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert '#SBATCH --array=0-2%2' in lines
  assert '#SBATCH --job-name=s' in lines
  (line,) = [x for x in lines if x.startswith('  env')]
  assert shlex.split(line)[3:] == [
    'launch/sweep.py', 'one', f'--config={tmp_path}/config.py',
    f'--workdir={tmp_path}/runs', f'--sweep={tmp_path}/points.py', '--',
    '--config.note=a b',
  ]  # fmt: skip
  assert not (tmp_path / 'runs').exists()


def test_tpu(fake, tmp_path):
  """Lines that launch/tpu.sh understands."""
  done = fake('tpu', '--tpu=--zone=us-a --tpu=v5e:2x2 --spot --bucket=b')
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert len(lines) == 3
  create, setup, run = [shlex.split(x) for x in lines[1].split(' && ')]
  assert create == ['bash', 'launch/tpu.sh', 'create', 'runs-1', '--zone=us-a',
                    '--tpu=v5e:2x2', '--spot']  # fmt: skip
  assert setup[2:] == ['setup', 'runs-1', '--zone=us-a', '--bucket=b']
  assert run[2:5] == ['run', 'runs-1', '--zone=us-a']
  assert '--config.note=it is "4"' in run
  for command in (create, setup, run):
    at = command.index('--') if '--' in command else len(command)
    subprocess.run([*command[:at], '--dry-run', *command[at:]], cwd=_REPO,
                   check=True, capture_output=True)  # fmt: skip


@pytest.mark.parametrize(
  ('arguments', 'needle'),
  [
    (['begin'], 'invalid choice'),
    (['run', '--config=a'], '--workdir=... is missing'),
    (['run', '--workdir=a'], '--config=... is missing'),
    (['run', '--config=a', '--workdir=b', '--jobs=0'], '--jobs must be 1'),
    (['tpu', '--config=a', '--workdir=b'], "--tpu='--zone=..."),
    (['run', '--config=a', '--workdir=b', '--config.x=1'], 'unrecognized'),
  ],
)
def test_wrong_arguments(sweep, capsys, arguments, needle):
  with pytest.raises(SystemExit) as caught:
    sweep.main(arguments)
  assert caught.value.code == 2
  assert needle in capsys.readouterr().err


def test_help(sweep, capsys):
  with pytest.raises(SystemExit) as caught:
    sweep.main(['--help'])
  assert caught.value.code == 0
  assert 'def get_hyper(hyper):' in capsys.readouterr().out


@pytest.mark.slow
def test_real_runs(repo, tmp_path):
  """Two real stages, and again: nothing is repeated."""
  points = tmp_path / 'points.py'
  points.write_text("""
def get_hyper(hyper):
  return hyper.sweep('config.optimizer.learning_rate', (1e-3, 1e-4))
""")
  command = [
    sys.executable, 'launch/sweep.py', 'run', f'--config={CONFIG}',
    f'--workdir={tmp_path}/runs', f'--sweep={points}',
  ]  # fmt: skip
  for _ in range(2):
    subprocess.run(command, cwd=repo, check=True, timeout=600)
    for name in ('00-learning_rate=0.001', '01-learning_rate=0.0001'):
      file = tmp_path / 'runs' / name / 'metrics.jsonl'
      assert len(file.read_text().splitlines()) == 3
  table = subprocess.run(
    [*command[:2], 'table', f'--workdir={tmp_path}/runs'],
    cwd=repo, check=True, capture_output=True, text=True,
  ).stdout  # fmt: skip
  assert table.count('finished') == 2
