"""Generation, RL, reward-model and DPO steps beside torch, TRL and Tunix.

  pip install torch                     # alone, then
  pip install trl transformers -e .
  python tests/benchmarks/engine.py [--quick] [--shapes=small,neo-125m]
  python tests/benchmarks/engine.py --sides=ours,tunix \
      --shapes=small-qwen3 --tunix-python=VENV_WITH_GOOGLE_TUNIX/bin/python

Each program of each side runs in a process of its own, on the same random
weights and as many threads, and the sides take turns, so that what else the
machine does hits all alike. Printed are medians of wall and CPU seconds, the
ratio to ours (median of the ratios of each turn), and the most memory that the
process held. Ours is compiled in another process before, and "first s" and
"first MiB" are those of its only step; torch's are of its first step. Batch 8,
prompt 128, 64 new tokens, float32 (and torch in bfloat16 beside):

  generate  sampling at 0.9       model.generate           Tunix's Sampler
  rl        REINFORCE and value   trl.RLOOTrainer          its PPO step
  rloo      RLOO                  trl.RLOOTrainer
  reward    soft Bradley-Terry    trl.RewardTrainer
  dpo       DPO                   trl.DPOTrainer

Greedy tokens must be equal, losses close (to 1e-4 for the small shape), else it
ends with an error. Where JAX finds a GPU (or with --platform=gpu) all run there
in bfloat16, and a table of what share of the chip ours uses comes first
(engine_gpu.py).
"""

import argparse
import contextlib
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import engine_common as common

HERE = pathlib.Path(__file__).resolve().parent
SIDES = {
  # name -> (file, dtype)
  'ours': ('engine_ours.py', 'float32'),
  'torch': ('engine_torch.py', 'float32'),
  'torch-bf16': ('engine_torch.py', 'bfloat16'),
  'tunix': ('engine_tunix.py', 'float32'),
}
COMPILED = ('ours', 'tunix')
PROGRAMS_OF = {'tunix': ('generate', 'rl')}
NEEDS = {'torch': ('torch', 'transformers'), 'trl': ('trl',)}


def main():
  args = arguments()
  gpu = args.platform == 'gpu' or (args.platform == 'auto' and finds_gpu())
  if gpu:
    command = [sys.executable, str(HERE / 'engine_gpu.py')]
    subprocess.run(command + ['--quick'] * args.quick, check=True)
  need('torch')
  trl = importlib.util.find_spec('trl') is not None
  if not trl:
    print('no trl here (pip install trl): generation alone is compared')
  for name in args.shapes.split(','):
    if 'tunix' in args.sides and common.SHAPES[name].family != 'qwen3':
      raise SystemExit(f'tunix reads Qwen3: --shapes=small-qwen3, not {name}')
    with tempfile.TemporaryDirectory() as folder:
      run('engine_torch.py', folder, 'make', name, args)
      for program in args.programs.split(','):
        if trl or program == 'generate':
          compare(name, program, folder, args, gpu)


def arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--shapes', default='small,neo-125m')
  parser.add_argument('--programs', default=','.join(common.PROGRAMS))
  parser.add_argument('--sides', default='ours,torch,torch-bf16')
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--threads', type=int, default=cores())
  parser.add_argument('--platform', choices=['auto', 'cpu', 'gpu'])
  parser.add_argument('--tunix-python', default=sys.executable)
  parser.add_argument(
    '--quick', action='store_true', help='the first shape alone, 2 repeats'
  )
  parser.set_defaults(platform='auto')
  args = parser.parse_args()
  if args.quick:
    args.shapes, args.repeats = args.shapes.split(',')[0], 2
  return args


def need(*groups: str) -> None:
  """Ends with what to install where something is missing."""
  missing = [
    name
    for group in groups
    for name in NEEDS[group]
    if importlib.util.find_spec(name) is None
  ]
  if missing:
    raise SystemExit(
      f'this benchmark needs {" and ".join(missing)}; in an environment of its '
      'own: pip install torch, then pip install trl transformers -e .'
    )


def compare(shape, program, folder, args, gpu) -> None:
  """Runs one program on all sides in turns, and prints the rows."""
  sides = [
    side
    for side in args.sides.split(',')
    if program in PROGRAMS_OF.get(side, common.PROGRAMS)
    and not (gpu and side.endswith('bf16'))
  ]
  with contextlib.ExitStack() as stack:
    programs = stack.enter_context(tempfile.TemporaryDirectory())

    def start(side):
      return Worker(side, program, shape, folder, args, gpu, programs)

    first = {}
    for side in sides:
      if side in COMPILED:
        with start(side) as worker:
          worker.turn()
        first[side] = worker.found[0]
    workers = {side: stack.enter_context(start(side)) for side in sides}
    for _ in range(1 + args.repeats):
      for worker in workers.values():
        worker.turn()
  found = {side: worker.found for side, worker in workers.items()}
  first = {side: first.get(side, rows[0]) for side, rows in found.items()}
  print_rows(f'{shape} {program}', found, first)
  if not gpu:
    check(workers, common.SHAPES[shape].agree)


class Worker:
  """One side's process for one program."""

  def __init__(self, side, program, shape, folder, args, gpu, programs):
    self.side, self.found = side, []
    file, dtype = SIDES[side]
    self._log = tempfile.TemporaryFile('w+')  # noqa: SIM115
    self._process = subprocess.Popen(
      command(file, folder, program, shape, args, 'bfloat16' if gpu else dtype),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._log,
      text=True,
      env=environment(gpu, programs),
    )

  def __enter__(self):
    return self

  def turn(self) -> None:
    """Runs one step."""
    with contextlib.suppress(BrokenPipeError):
      print('go', file=self._process.stdin, flush=True)
    line = self._process.stdout.readline()
    if not line:
      self._log.seek(0)
      end = self._log.read()[-3000:]
      raise SystemExit(f'{self.side} ended with an error:\n{end}')
    self.found.append(json.loads(line))

  def __exit__(self, *_):
    with contextlib.suppress(BrokenPipeError):
      print('end', file=self._process.stdin, flush=True)
    self._process.kill()
    self._process.wait()


def command(file, folder, program, shape, args, dtype) -> list[str]:
  python = args.tunix_python if 'tunix' in file else sys.executable
  found = [python, str(HERE / file), str(folder), program]
  options = dict(shape=shape, dtype=dtype, threads=args.threads)
  return found + [f'--{k}={v}' for k, v in options.items()]


def run(file, folder, program, shape, args) -> None:
  subprocess.run(
    command(file, folder, program, shape, args, 'float32'),
    check=True,
    stderr=subprocess.DEVNULL,
  )


def environment(gpu: bool, programs: str) -> dict[str, str]:
  """Sides share a GPU, so that none may take it whole, and keep programs."""
  found = dict(
    os.environ,
    XLA_PYTHON_CLIENT_PREALLOCATE='false',
    JAX_COMPILATION_CACHE_DIR=programs,
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0',
  )
  if not gpu:
    found |= dict(JAX_PLATFORMS='cpu', CUDA_VISIBLE_DEVICES='')
  return found


def print_rows(
  title: str, found: dict[str, list[dict]], first: dict[str, dict]
) -> None:
  """One row a side: medians, ratios to ours, memory, and the first step."""
  print(
    f'\n{title:22}{"wall s":>9}{"CPU s":>9}{"wall":>9}{"CPU":>8}'
    f'{"peak MiB":>10}{"imports":>9}{"first s":>9}{"first MiB":>11}'
  )
  for side, rows in found.items():
    later = rows[1:]
    cells = ''.join(
      f'{statistics.median(r[clock] for r in later):9.3f}'
      for clock in ('wall', 'cpu')
    )
    for clock, width in (('wall', 8), ('cpu', 7)):
      ratios = [
        theirs[clock] / ours[clock]
        for ours, theirs in zip(found['ours'][1:], later, strict=True)
      ]
      cells += f'{statistics.median(ratios):{width}.2f}x'
    print(
      f'  {side:20}{cells}{rows[-1]["peak"]:10.0f}{rows[0]["imported"]:9.0f}'
      f'{first[side]["wall"]:9.1f}{first[side]["peak"]:11.0f}',
      flush=True,
    )


def check(workers, agree: float) -> None:
  """Ends with an error where float32 sides do not agree."""
  ours = workers['ours'].found
  for side, worker in workers.items():
    theirs = worker.found
    if side == 'ours' or SIDES[side][1] != 'float32':
      continue
    if 'tokens' in theirs[0]:
      pairs = zip(theirs[0]['tokens'], ours[0]['tokens'], strict=True)
      if side == 'tunix':
        pairs = (map(until_padding, pair) for pair in pairs)
      same = all(a == b for a, b in pairs)
      print(f'  greedy tokens equal those of {side}: {same}')
    elif theirs[0].get('comparable'):
      worst = max(
        abs(a['loss'] - b['loss']) for a, b in zip(ours, theirs, strict=True)
      )
      same = worst < agree
      print(f'  losses of {len(ours)} steps, from those of {side}: {worst:.1e}')
    else:
      continue
    if not same:
      raise SystemExit(f'ours and {side} are not equal')


def until_padding(tokens: list[int]) -> list[int]:
  """What comes before a sampled padding token, which Tunix's cache masks."""
  tokens = [*tokens, common.PAD]
  return tokens[: tokens.index(common.PAD)]


def cores() -> int:
  return len(os.sched_getaffinity(0))


def finds_gpu() -> bool:
  """Whether JAX has one; asked in another process, as asking takes memory."""
  code = 'import jax; print(jax.default_backend())'
  found = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True
  )
  return found.stdout.strip() == 'gpu'


if __name__ == '__main__':
  main()
