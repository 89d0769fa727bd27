"""What share of the chip our engine uses: prefill, decode, RL update.

  python tests/benchmarks/engine_gpu.py [--quick] [--shape=1b]

Weights are random and made on the device, in bfloat16; what the update trains
is float32. Needs jax alone. Arithmetic is counted by formula, 2 per weight and
token forward and 4 backward, attention by the keys a query may see, and what
is computed again in the backward pass is not counted (so: model FLOPs
utilisation). Decode counts the bytes of all weights and of the cache's filled
slots at each step. Medians of repeats; compile time apart.
"""

import argparse
import dataclasses
import functools
import statistics
import time

import engine_common as common
import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax import models, sharding
from rlaif_jax.core.types import PromptBatch, Rollout
from rlaif_jax.inference import decode
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.stages import _rl_update, rl
from rlaif_jax.stages import common as stages

# Dense bfloat16 operations and bytes a second, from the makers' data sheets.
PEAKS = {
  'H200': (989e12, 4.8e12),
  'H100 PCIe': (756e12, 2.0e12),
  'H100 NVL': (835e12, 3.9e12),
  'H100': (989e12, 3.35e12),
  'A100-SXM4-80GB': (312e12, 2.04e12),
  'A100': (312e12, 1.55e12),
  'L4': (121e12, 0.3e12),
  'TPU v5 lite': (197e12, 0.82e12),
  'TPU v6 lite': (918e12, 1.64e12),
}


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--shape', choices=list(common.SHAPES), default='1b')
  parser.add_argument('--dtype', default='bfloat16')
  parser.add_argument('--batch', type=int, help='rows; default by the shape')
  parser.add_argument('--microbatch', type=int, default=8, help='rows at once')
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--quick', action='store_true', help='2 repeats')
  args = parser.parse_args()
  shape = common.SHAPES[args.shape]
  if args.batch:
    shape = dataclasses.replace(shape, batch=args.batch)
  device = jax.devices()[0]
  print(
    f'{device.device_kind}, {args.shape}: {shape.layers} x {shape.width}, '
    f'vocabulary {shape.vocab}, batch {shape.batch}, prompt {shape.prompt}, '
    f'{shape.new} new tokens, {args.dtype}'
  )
  mesh = sharding.make_mesh(devices=[device])
  with jax.set_mesh(mesh):
    repeats = 2 if args.quick else args.repeats
    bench = Bench(shape, args.dtype, mesh, repeats)
    bench.rollout()
    bench.update(max(1, shape.batch // args.microbatch))


class Bench:
  """A model with random weights, and what its programs take."""

  def __init__(self, shape, dtype, mesh, repeats):
    self.shape, self.mesh, self.repeats = shape, mesh, repeats
    self.dtype = dtype
    self.model = models.build(
      shape.config(),
      dtype=dtype,
      param_dtype=dtype,
      remat=True,
    )
    self.params = jax.jit(self.model.init)(jax.random.key(0))
    tokens = common.prompts(shape).astype(np.int32)
    self.prompts = sharding.shard_batch(
      PromptBatch(tokens, np.ones(tokens.shape, bool)), mesh
    )
    self.kernels, self.unembedding = sizes(self.model)

  def rollout(self) -> None:
    """Prefill and decode, as `decode.make_generate` runs them."""
    shape, model = self.shape, self.model
    first = jax.jit(
      functools.partial(decode.prefill, model, max_new_tokens=shape.new)
    )
    second = jax.jit(
      functools.partial(
        decode.decode,
        model,
        max_new_tokens=shape.new,
        sampling=SamplingConfig(common.TEMPERATURE),
        eos_ids=(),
        pad_id=1,
      ),
      donate_argnums=1,
    )
    keys = decode.fold_rows(jax.random.key(0), shape.batch)
    held = {}

    def prefill():
      held['logits'], held['cache'] = first(self.params, self.prompts)
      return held['logits']

    def decode_all():
      # The cache comes back as it was taken, to be used again.
      _, held['cache'] = second(
        self.params, held['cache'], held['logits'], self.prompts, keys
      )
      held['cache'] = dataclasses.replace(
        held['cache'], index=jnp.int32(shape.prompt)
      )
      return held['cache']

    read = shape.batch * shape.prompt
    seconds, compiled = self.timed(prefill)
    work = 2 * self.kernels * read + self.attention(shape.prompt, 2)
    self.show('prefill', seconds, compiled, read, work=work)
    seconds, compiled = self.timed(decode_all)
    self.show(
      'decode',
      seconds,
      compiled,
      shape.batch * shape.new,
      moved=self.decode_bytes(),
    )

  def update(self, num_microbatches: int) -> None:
    """REINFORCE with a value model, by the stage's own update."""
    shape, mesh = self.shape, self.mesh
    config = rl.default_config()
    config.batch_size = shape.batch
    config.num_microbatches = num_microbatches
    config.max_prompt, config.max_response = shape.prompt, shape.new
    s = stages.Session(None, config, mesh, sharding.DEFAULT_RULES)
    loaded = stages.Loaded(self.model, self.params, None, '')
    tx = stages.make_optimizer(config.optimizer, 1)
    txs = {'policy': tx, 'value': tx}
    value_model, state, frozen = rl.init_state(
      s, loaded, txs, jax.random.key(0)
    )
    update = _rl_update.make_update(config, self.model, value_model, txs)
    response = common.responses(shape)[0].astype(np.int32)
    rollout = sharding.shard_batch(
      Rollout(
        np.asarray(self.prompts.tokens),
        np.asarray(self.prompts.mask),
        response,
        np.ones(response.shape, bool),
        np.full(response.shape, -1.0, np.float32),
      ),
      mesh,
    )
    scores = jnp.linspace(-1.0, 1.0, shape.batch)
    held = [state]

    def step():
      held[0], metrics = update(held[0], frozen, rollout, scores)
      return metrics

    seconds, compiled = self.timed(step)
    length = shape.prompt + shape.new
    tokens = shape.batch * length
    predicted = shape.batch * shape.new
    # Policy and value forward and backward (3 forwards each), the reference
    # forward; only responses are unembedded, by policy and reference.
    work = 2 * self.kernels * tokens * (3 + 3 + 1)
    work += 2 * self.unembedding * predicted * (3 + 1)
    work += self.attention(length, 2 * (3 + 3 + 1))
    self.show('RL update', seconds, compiled, tokens, work=work)

  def attention(self, length: int, factor: int) -> float:
    """Operations of scores and averages, over the keys that are seen."""
    shape = self.shape
    pairs = length * (length + 1) / 2
    return 2 * factor * shape.batch * shape.layers * shape.width * pairs

  def decode_bytes(self) -> float:
    """What decoding reads: weights, and filled slots of the cache."""
    shape, size = self.shape, jnp.dtype(self.dtype).itemsize
    config = self.model.config
    slots = sum(shape.prompt + t for t in range(1, shape.new))
    per_slot = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    weights = (self.kernels + self.unembedding) * (shape.new - 1)
    return size * (weights + shape.batch * slots * per_slot)

  def timed(self, program) -> tuple[float, float]:
    """(median seconds, seconds of the first run less that)."""
    found = []
    for _ in range(1 + self.repeats):
      start = time.perf_counter()
      jax.block_until_ready(program())
      found.append(time.perf_counter() - start)
    seconds = statistics.median(found[1:])
    return seconds, found[0] - seconds

  def show(self, name, seconds, compiled, tokens, work=None, moved=None):
    """One row: tokens a second, and the share of the chip's peak."""
    peak = next(
      (v for k, v in PEAKS.items() if k in jax.devices()[0].device_kind),
      (None, None),
    )
    if work is not None:
      rate, limit, unit = work / seconds / 1e12, peak[0], 'TFLOP/s, MFU'
    else:
      rate, limit, unit = moved / seconds / 1e12, peak[1], 'TB/s, of peak'
    share = f'{rate * 1e12 / limit:.1%}' if limit else 'unknown'
    stats = jax.devices()[0].memory_stats() or {}
    held = stats.get('peak_bytes_in_use', 0) / 2**30
    print(
      f'{name:10}{seconds:9.4f} s{tokens / seconds:12.0f} tokens/s'
      f'{rate:9.3f} {unit} {share}, compiled in {compiled:.0f} s, peak so far '
      f'{held:.1f} GiB',
      flush=True,
    )


def sizes(model) -> tuple[int, int]:
  """(weights of the layers' kernels, of the unembedding)."""
  flat = jax.tree_util.tree_flatten_with_path(model.abstract_params())[0]
  kernels = sum(
    x.size
    for path, x in flat
    if path[0].key == 'layers' and path[-1].key == 'kernel'
  )
  return kernels, model.config.vocab_size * model.config.hidden_width


if __name__ == '__main__':
  main()
