"""What both sides of the engine benchmark share: shapes, data, taking turns.

Imports neither jax nor torch: each process loads its own side alone, so that
its peak memory is that side's.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import sys
import time

import numpy as np

BATCH, PROMPT, NEW = 8, 128, 64
BETA, TEMPERATURE, RATE, CLIP = 0.05, 0.9, 1e-5, 1.0
PAD = 1
ROPE_THETA = 1e6  # Tunix's Qwen3 knows no other
PROGRAMS = ('generate', 'rl', 'rloo', 'reward', 'dpo')


@dataclasses.dataclass(frozen=True)
class Shape:
  """A decoder and the batch that it reads."""

  vocab: int
  width: int
  layers: int
  heads: int
  family: str = 'gpt_neo'
  batch: int = BATCH
  prompt: int = PROMPT
  new: int = NEW
  kv_heads: int | None = None  # None: as heads
  mlp: int | None = None  # None: 4 * width
  # How close losses must be. Adam's first steps have the size of the gradient's
  # sign, which tears rounding apart in wide models of random weights.
  agree: float = 1e-4

  def config(self) -> dict:
    """As config.json has it; random weights of a size that matters."""
    shared = dict(
      vocab_size=self.vocab,
      hidden_size=self.width,
      max_position_embeddings=2048,
      bos_token_id=0,
      eos_token_id=0,
      pad_token_id=PAD,
    )
    if self.family == 'gpt_neo':
      return shared | dict(
        model_type='gpt_neo',
        num_layers=self.layers,
        num_heads=self.heads,
        attention_types=[[['global', 'local'], self.layers // 2]],
        window_size=256,
        initializer_range=0.05,
        resid_dropout=0.0,
        embed_dropout=0.0,
        attention_dropout=0.0,
      )
    return shared | dict(
      model_type=self.family,
      num_hidden_layers=self.layers,
      num_attention_heads=self.heads,
      num_key_value_heads=self.kv_heads or self.heads,
      head_dim=self.width // self.heads,
      intermediate_size=self.mlp or 4 * self.width,
      initializer_range=0.05,
      tie_word_embeddings=self.family != 'qwen3',
      rms_norm_eps=1e-6,
      rope_theta=ROPE_THETA,
    )


SHAPES = {
  'small': Shape(vocab=8192, width=256, layers=6, heads=8),
  'neo-125m': Shape(vocab=50257, width=768, layers=12, heads=12, agree=1e-2),
  'small-qwen3': Shape(8192, 256, 6, 8, 'qwen3'),
  '125m-qwen3': Shape(50257, 768, 12, 12, 'qwen3'),
  '1b': Shape(
    128256, 2048, 16, 32, 'llama', 64, 512, 512, kv_heads=8, mlp=8192
  ),
}


def prompts(shape: Shape) -> np.ndarray:
  """[B, P] int64 tokens; ids 0 to 9 are special or reserved."""
  rng = np.random.default_rng(0)
  return rng.integers(10, shape.vocab, (shape.batch, shape.prompt))


def responses(shape: Shape, count: int = 2) -> list[np.ndarray]:
  """`count` times [B, R] tokens."""
  rng = np.random.default_rng(1)
  size = (shape.batch, shape.new)
  return [rng.integers(10, shape.vocab, size) for _ in range(count)]


def text(ids) -> str:
  """What the benchmark's tokenizer reads as these tokens."""
  return ' '.join(f'w{i}' for i in ids)


def worker_args(description: str) -> argparse.Namespace:
  """The command line of a worker."""
  parser = argparse.ArgumentParser(description=description)
  parser.add_argument('folder', type=pathlib.Path)
  parser.add_argument('program', choices=[*PROGRAMS, 'make'])
  parser.add_argument('--shape', choices=list(SHAPES), required=True)
  parser.add_argument('--dtype', default='float32')
  parser.add_argument('--threads', type=int, default=1)
  args = parser.parse_args()
  # XLA takes as many threads as there are cores that it may run on.
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-args.threads :])
  return args


class Turns:
  """Waits for the parent's word before each step, and reports each.

  What libraries print goes to stderr; the true stdout carries one JSON object
  a step: seconds of wall and CPU, and what the step found.
  """

  def __init__(self):
    self._out = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    self._base = _peak()
    self._started = None

  def wait(self) -> bool:
    """True at the next turn; False when there are no more."""
    if sys.stdin.readline().strip() != 'go':
      return False
    self._started = time.perf_counter(), time.process_time()
    return True

  def report(self, **found) -> None:
    """Ends the turn."""
    wall, cpu = self._started
    self._say(
      wall=time.perf_counter() - wall,
      cpu=time.process_time() - cpu,
      peak=_peak(),
      imported=self._base,
      **found,
    )

  def _say(self, **what) -> None:
    with contextlib.suppress(BrokenPipeError):
      print(json.dumps(what), file=self._out, flush=True)


def take_turns(make) -> None:
  """Runs `make() -> (step, first)`: step() at every turn.

  `first`, if any, is computed once outside the clock and reported with the
  first step.
  """
  turns = Turns()
  step, first = make()
  found = first() if first else {}
  while turns.wait():
    turns.report(**(step() or {}), **found)
    found = {}


def _peak() -> float:
  """Most memory that this process has held, in MiB."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
