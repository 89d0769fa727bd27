"""The command line: flags, config files, and what a person sees of an error."""

import os
import subprocess
import sys
import warnings

import pytest
from absl import flags
from ml_collections import config_flags

from rlaif_jax import main, stages


@pytest.fixture
def parse(repo, monkeypatch):
  """parse(file, *args) -> the config that the command line would give."""
  monkeypatch.syspath_prepend(str(repo))

  def parse_flags(file, *args):
    # Each process loads one config file; names of an earlier one would stay.
    monkeypatch.delitem(sys.modules, 'config_config', raising=False)
    argv = ['main', f'--config={repo / "configs" / file}', *args]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
      'config', flag_values=values, lock_config=True, sys_argv=argv
    )
    with warnings.catch_warnings():
      warnings.filterwarnings('ignore', 'the load_module', DeprecationWarning)
      main.read_flags(argv, values)
    return values['config'].value

  return parse_flags


def test_good_flags(parse):
  """Blocks whose keys are free are given as a whole."""
  config = parse(
    'sft.py:smoke',
    '--config.batch_size=3',
    "--config.data.options={'holdout': (0.1, 0.2)}",
  )
  assert config.batch_size == 3
  assert config.data.options.holdout == (0.1, 0.2)
  config = parse(
    'evaluate.py',
    "--config.policies={'sft': 'runs/sft', 'mine': 'runs/mine'}",
    "--config.evals={'win_rate': {'tie_margin': 0.1}}",
    "--config.head_to_head=(('mine', 'sft'),)",
  )
  assert config.policies.to_dict() == {'sft': 'runs/sft', 'mine': 'runs/mine'}
  options = stages.load('evaluate').evaluator_configs(config)['win_rate']
  assert options.tie_margin == 0.1
  assert options.head_to_head == (('mine', 'sft'),)


@pytest.mark.parametrize(
  ('args', 'needles'),
  [
    (['sft.py', '--config.modle.path=x'], ['modle', 'Did you mean "model"']),
    (['sft.py', '--config.zzz=x'], ['unknown config key', 'zzz']),
    (['sft.py', '--config.batch_size=many'], ['--config.batch_size=many']),
    (['sft.py', '--config.batch_size=0.5'], ['--config.batch_size=0.5']),
    (['rl.py', '--config.algorithm_config.betta=1'], ['betta', '"beta"']),
    (['rl.py:smok'], ["'smok' is unknown", 'direct, algorithm, shared, smoke']),
    (['paper.py:task=tldl'], ["task='tldl'", 'tldr']),
    (['paper.py:batch=many'], ['batch', 'many']),
    (['none.py'], ['none.py', 'No such file']),
    (['sft.py', '--config.model.path.x=1'], ['does not fit the config']),
    (['sft.py', 'seed=1'], ["unexpected argument 'seed=1'"]),
    (['sft.py', '--confg.seed=1'], ["'confg.seed'"]),
    (['sft.py', '--config.data.options=[1'], ['--config.data.options']),
  ],
  ids=lambda x: x[-1] if isinstance(x, list) else None,
)
def test_bad_flags(parse, args, needles):
  with pytest.raises(main.FLAG_ERRORS) as caught:
    parse(*args)
  line = main.explain(caught.value)
  assert '\n' not in line
  assert 'Traceback' not in line
  for needle in needles:
    assert needle in line, line


@pytest.mark.parametrize(
  ('text', 'needle'),
  [
    ('def get_config(arg): return (', "'(' was never closed (bad.py, line 1)"),
    ('import no_such_thing', "No module named 'no_such_thing'"),
    ('x = 1', 'the config file has no function get_config()'),
    ('def get_config(): return {}', 'must return a ConfigDict'),
    ('import no_such_thing as get_config', "named 'no_such_thing'"),
  ],
)
def test_bad_config_file(parse, tmp_path, text, needle):
  (tmp_path / 'bad.py').write_text(text)
  with pytest.raises(main.FLAG_ERRORS) as caught:
    parse(tmp_path / 'bad.py')
  line = main.explain(caught.value)
  assert '\n' not in line
  assert needle in line


def run_main(repo, *args):
  """Runs the command line; returns (exit code, stderr)."""
  done = subprocess.run(
    [sys.executable, '-m', 'rlaif_jax.main', *args],
    cwd=repo,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
  )
  return done.returncode, done.stderr


def contents(folder):
  return {f: f.read_bytes() for f in folder.rglob('*') if f.is_file()}


def test_real_processes_say_one_line(repo, tmp_path):
  data, run = tmp_path / 'data.jsonl', tmp_path / 'run'
  data.write_text(
    '{"prompt": "a", "response_1": "b", "response_2": "c", "p_first": 1}'
  )
  command = (
    '--config=configs/label.py:smoke', '--config.data.name=jsonl',
    '--config.data.split=all', '--config.data.size=0',
    '--config.source=human', f'--workdir={run}',
  )  # fmt: skip

  def refused_line(*args):
    code, err = run_main(repo, *command, *args)
    assert code == 1, err
    assert 'Traceback' not in err
    lines = [x for x in err.splitlines() if x.startswith('error: ')]
    assert len(lines) == 1, err
    return lines[0]

  line = refused_line(f'--config.data.path={tmp_path}/none')
  assert f'{tmp_path}/none: no such file' in line
  assert f'traceback: {run}/error.txt' in line
  assert list(contents(run)) == [run / 'error.txt']

  line = refused_line('--config.sede=1')
  assert '"seed" instead of "sede"' in line

  code, err = run_main(repo, *command, f'--config.data.path={data}')
  assert code == 0, err
  made = contents(run)
  assert run / 'error.txt' not in made  # of the run before

  line = refused_line(f'--config.data.path={data}', '--config.seed=7')
  assert f'{run} was made by another config: seed: 0 there, 7 now' in line
  (run / 'error.txt').unlink()
  assert contents(run) == made
