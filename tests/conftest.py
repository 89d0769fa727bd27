"""Shared test set-up: eight fake CPU devices, strict numerics, fixtures."""

import functools
import importlib
import os
import pathlib

_REPO = pathlib.Path(__file__).resolve().parents[1]

# JAX and the tokenizers read these once, when first imported.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('HF_DATASETS_OFFLINE', '1')
# Most of the suite's time is compilation, and tests run their programs once.
os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')

import jax
import pytest

from rlaif_jax import host

jax.config.update('jax_num_cpu_devices', 8)
# A silent [B] + [B, 1] broadcast is the classic bug of this kind of code.
jax.config.update('jax_numpy_rank_promotion', 'raise')
# Compiled programs survive between runs; JAX does not lock the folder, so each
# of several processes has its own.
_CACHE = _REPO / '.cache' / os.environ.get('PYTEST_XDIST_WORKER', 'main')
jax.config.update('jax_compilation_cache_dir', str(_CACHE))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
# For this process alone: those that tests start choose for themselves.
_chosen = 'PJRT_NPROC' in os.environ
host.add_threads(8)
jax.devices()
if not _chosen:
  del os.environ['PJRT_NPROC']


@pytest.fixture(scope='session')
def repo() -> pathlib.Path:
  """The repository's root folder."""
  return _REPO


@pytest.fixture
def config_module(repo, monkeypatch):
  """config_module(name) -> the module configs/<name>.py."""
  monkeypatch.syspath_prepend(str(repo))
  return lambda name: importlib.import_module(f'configs.{name}')


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
  """The folder of real data beside the repository; skips where absent."""
  path = _REPO.parent / 'shared' / 'data'
  if not path.is_dir():
    pytest.skip('the real-data folder ../shared/data is absent')
  return path


@pytest.fixture(scope='module')
def one_device():
  """Stages run on one device, however many the process has."""
  from rlaif_jax import sharding

  make_mesh = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sharding, 'make_mesh', make_mesh)
    yield


@pytest.fixture(scope='session')
def make_model(tmp_path_factory):
  """make_model(seed, positions) -> folder of a random two-layer Llama.

  It reads and writes the tiny world's tokens, and is small enough to run
  whole stages in seconds.
  """
  from rlaif_jax import models
  from rlaif_jax.data.tokenizer import load_tokenizer
  from rlaif_jax.models import hf, locate

  tokenizer = load_tokenizer(locate.resolve('tiny:tokenizer'))

  @functools.cache
  def make(seed=0, positions=512):
    model = models.build(
      dict(
        model_type='llama',
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=positions,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_id,
      )
    )
    params = jax.jit(model.init)(jax.random.key(seed))
    # As initialised, every token would be as likely whatever the text.
    params['embed'] = jax.tree.map(lambda x: 4.0 * x, params['embed'])
    params['layers'] = jax.tree.map(lambda x: 3.0 * x, params['layers'])
    path = tmp_path_factory.mktemp('models') / f'model_{seed}_{positions}'
    hf.save(path, model, params, tokenizer)
    return str(path)

  return make


@pytest.fixture(scope='session')
def tiny_model(make_model):
  """Folder of such a model."""
  return make_model()


@pytest.fixture(scope='session')
def tiny_reward_model(tiny_model, tmp_path_factory):
  """Folder of a reward model with that trunk."""
  from rlaif_jax.data.tokenizer import load_tokenizer
  from rlaif_jax.models import heads, hf

  trunk, params = hf.load(tiny_model)
  model = heads.ScalarModel(trunk)
  path = tmp_path_factory.mktemp('models') / 'reward_model'
  params = model.init_from(params, jax.random.key(0))
  hf.save(path, model, params, load_tokenizer(tiny_model))
  return str(path)


@pytest.fixture(scope='session')
def slope():
  """slope(fn, x) -> the gradient of a NumPy function, by differences.

  In float64, so that it is good to 1e-8 or so; not at a kink.
  """
  import numpy as np

  def gradient(fn, x, step=1e-5):
    x = np.array(x, np.float64)
    found = np.zeros_like(x)
    for place in np.ndindex(x.shape):
      ends = []
      for sign in (1, -1):
        moved = x.copy()
        moved[place] += sign * step
        ends.append(fn(moved))
      found[place] = (ends[0] - ends[1]) / (2 * step)
    return found

  return gradient
