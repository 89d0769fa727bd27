"""Shared test set-up: eight fake CPU devices, strict numerics, fixtures."""

import os
import pathlib

_REPO = pathlib.Path(__file__).resolve().parents[1]

# JAX and the tokenizers read these once, when first imported.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('HF_DATASETS_OFFLINE', '1')

import jax
import pytest

jax.config.update('jax_num_cpu_devices', 8)
# A silent [B] + [B, 1] broadcast is the classic bug of this kind of code.
jax.config.update('jax_numpy_rank_promotion', 'raise')
# Compiled programs survive between runs, which is most of the suite's time.
jax.config.update('jax_compilation_cache_dir', str(_REPO / '.cache' / 'jax'))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


@pytest.fixture(scope='session')
def repo() -> pathlib.Path:
  """The repository's root folder."""
  return _REPO


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
  """The folder of real data beside the repository; skips where absent."""
  path = _REPO.parent / 'shared' / 'data'
  if not path.is_dir():
    pytest.skip('the real-data folder ../shared/data is absent')
  return path
