"""A toy regression through run_loop; run as a program to be killed by tests.

python toy_run.py WORKDIR NUM_STEPS SAVE_EVERY SECONDS_PER_STEP
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.training import (
  checkpoint,
  loop,
  metrics,
  optimizer,
  step,
  train_state,
)


def loss_fn(params, batch, key):
  noise = 0.1 * jax.random.normal(key, batch['y'].shape)
  error = batch['x'] @ params['w'] + params['b'] + noise - batch['y']
  loss = jnp.square(error).mean()
  return loss, {'loss/mse': loss}


def batch(index):
  rng = np.random.default_rng(index)
  return {
    'x': rng.normal(size=(4, 3)).astype(np.float32),
    'y': rng.normal(size=4).astype(np.float32),
  }


def make(learning_rate=0.05):
  """A new state and its step_fn(state, index)."""
  tx = optimizer.make_optimizer(
    optimizer.OptimizerConfig(
      name='adamw', learning_rate=learning_rate, warmup_steps=2
    )
  )
  params = {'w': jnp.ones(3), 'b': jnp.float32(0)}
  train = step.make_train_step(loss_fn, tx)
  key = jax.random.key(7)

  def step_fn(state, index):
    return train(state, batch(index), jax.random.fold_in(key, index))

  return train_state.create(params, tx), step_fn


def run(workdir, num_steps, step_fn=None, *, save_every=0, **options):
  """Runs or resumes the toy in `workdir`; returns the final state."""
  state, default_step = make()
  with checkpoint.Checkpointer(workdir / 'checkpoints') as checkpointer:
    return loop.run_loop(
      state,
      step_fn or default_step,
      num_steps=num_steps,
      checkpointer=checkpointer,
      writer=metrics.MetricWriter(workdir),
      save_every=save_every,
      **options,
    )


def untimed(workdir):
  """Metrics without what depends on the clock."""
  return [
    {k: v for k, v in row.items() if not k.startswith(('time/', 'perf/'))}
    for row in metrics.read_metrics(workdir)
  ]


if __name__ == '__main__':
  import pathlib

  _, fast_step = make()

  def slow_step(state, index):
    time.sleep(float(sys.argv[4]))
    return fast_step(state, index)

  run(
    pathlib.Path(sys.argv[1]),
    int(sys.argv[2]),
    slow_step,
    save_every=int(sys.argv[3]),
  )
