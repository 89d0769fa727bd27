"""Whether a process starts alone or as one of several."""

import pytest

from rlaif_jax import main

STEP = {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '4', 'SLURM_STEP_NUM_TASKS': '4'}


@pytest.mark.parametrize('wanted', [None, False])
@pytest.mark.parametrize(
  'environ',
  [
    {},
    {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '4'},  # an interactive allocation
    {'SLURM_STEP_NUM_TASKS': '1'},
    {'JAX_COORDINATOR_ADDRESS': 'localhost:1'},
  ],
)
def test_alone(wanted, environ):
  assert main.distributed_options(wanted, environ) is None


def test_refused():
  assert main.distributed_options(False, STEP) is None
  assert main.distributed_options(False, {'JAX_NUM_PROCESSES': '2'}) is None


def test_jax_finds_the_others():
  assert main.distributed_options(None, STEP) == {}
  assert main.distributed_options(True, {}) == {}


@pytest.mark.parametrize('wanted', [None, True])
def test_environment_names_them(wanted):
  """It comes before what jax would find itself."""
  environ = {'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': '1', **STEP}
  assert main.distributed_options(wanted, environ) == dict(
    num_processes=2, process_id=1, cluster_detection_method='deactivate'
  )


@pytest.mark.parametrize(
  ('environ', 'needle'),
  [
    ({'JAX_NUM_PROCESSES': '2'}, "JAX_PROCESS_ID=''"),
    ({'JAX_NUM_PROCESSES': '', 'JAX_PROCESS_ID': '0'}, "JAX_NUM_PROCESSES=''"),
    ({'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': '-1'}, "PROCESS_ID='-1'"),
  ],
)
def test_broken_environment(environ, needle):
  with pytest.raises(ValueError, match=needle):
    main.distributed_options(None, environ)
