"""Two processes on one machine: agreed preemption and resuming."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from rlaif_jax.training import metrics

PROGRAM = """
import os, pathlib, sys, time
import jax
from rlaif_jax import host
host.add_threads(2)
jax.config.update('jax_num_cpu_devices', 2)
address, index, target, seconds = sys.argv[1:]
jax.distributed.initialize(
  coordinator_address=address, num_processes=2, process_id=int(index),
  initialization_timeout=60, heartbeat_timeout_seconds=10,
)
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from rlaif_jax.training import (
  checkpoint, loop, metrics, optimizer, step, train_state, workdir
)

def loss_fn(params, x, key):
  loss = jnp.square(x @ params['w']).mean()
  return loss, {'loss/a': loss}

def step_fn(state, i):
  time.sleep(float(seconds))
  rows = np.random.default_rng([i, int(index)]).normal(size=(4, 4))
  where = NamedSharding(mesh, P(('data', 'fsdp')))
  rows = jax.make_array_from_process_local_data(where, rows.astype('f4'))
  return train(state, rows, jax.random.key(i))

mesh = jax.make_mesh((2, 2), ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2)
with jax.set_mesh(mesh):
  folder = workdir.open_workdir(target, {})
  tx = optimizer.make_optimizer(optimizer.OptimizerConfig(name='adamw'))
  train = step.make_train_step(loss_fn, tx)
  where = NamedSharding(mesh, P('fsdp'))
  params = jax.jit(lambda: {'w': jnp.ones((4, 6))}, out_shardings=where)()
  with checkpoint.Checkpointer(folder / 'checkpoints') as checkpointer:
    loop.run_loop(
      train_state.create(params, tx, mesh), step_fn, num_steps=12,
      checkpointer=checkpointer, writer=metrics.MetricWriter(folder),
      save_every=5,
    )
"""


def start(workdir, seconds):
  with socket.socket() as s:
    s.bind(('localhost', 0))
    address = f'localhost:{s.getsockname()[1]}'
  repo = pathlib.Path(__file__).parents[2]
  return [
    subprocess.Popen(
      [sys.executable, '-c', PROGRAM, address, str(i), workdir, str(seconds)],
      env={**os.environ, 'PYTHONPATH': str(repo), 'JAX_PLATFORMS': 'cpu'},
    )
    for i in range(2)
  ]


def untimed(workdir):
  return [
    {k: v for k, v in row.items() if not k.startswith('time/')}
    for row in metrics.read_metrics(workdir)
  ]


@pytest.mark.slow
@pytest.mark.multidevice
def test_sigterm_to_one_process_stops_both_at_one_step(tmp_path):
  whole, cut = tmp_path / 'whole', tmp_path / 'cut'
  assert [p.wait(120) for p in start(whole, 0)] == [0, 0]
  processes = start(cut, 0.3)
  for _ in range(600):
    if len(metrics.read_metrics(cut)) >= 2:
      break
    time.sleep(0.1)
  processes[1].send_signal(signal.SIGTERM)
  assert [p.wait(120) for p in processes] == [42, 42]
  assert [p.wait(120) for p in start(cut, 0)] == [0, 0]
  assert len(untimed(whole)) == 12
  assert untimed(cut) == untimed(whole)
