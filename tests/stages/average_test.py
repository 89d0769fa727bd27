"""Weight averaging: means by hand, of reward models and language models."""

import functools
import json

import jax
import numpy as np
import pytest

from rlaif_jax import sharding
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.models import heads, hf
from rlaif_jax.rewards import reward_model
from rlaif_jax.stages import average


def make_config(*models, **overrides):
  c = average.default_config()
  c.models = models
  c.data.update(name='tiny_tldr', path='', split='test_preferences', size=6)
  c.demonstrations.update(name='tiny_tldr', split='train', size=3)
  c.max_prompt, c.max_response, c.batch_size = 80, 48, 4
  c.update_from_flattened_dict(overrides)
  return c


@pytest.fixture(scope='module')
def reward_models(make_model, tmp_path_factory):
  """Three reward models with other numbers in them."""
  folders = []
  for seed in range(3):
    trunk, params = hf.load(make_model(seed))
    model = heads.ScalarModel(trunk)
    folder = tmp_path_factory.mktemp('rewards') / f'reward_{seed}'
    params = model.init_from(params, jax.random.key(seed))
    hf.save(folder, model, params, load_tokenizer(make_model(seed)))
    folders.append(str(folder))
  return folders


def mean_of(folders, weights, load):
  trees = [load(folder)[1] for folder in folders]
  return jax.tree.map(
    lambda *xs: sum(
      w * np.asarray(x, np.float64) for w, x in zip(weights, xs, strict=True)
    ),
    *trees,
  )


def assert_close(one, other):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    one,
    other,
  )


def test_reward_models(reward_models, tmp_path, one_device):
  """Parameters are the mean; it is a reward with statistics of its own."""
  config = make_config(*reward_models)
  average.run(config, tmp_path)
  _, params = hf.load_reward_model(tmp_path / 'model')
  assert_close(
    params, mean_of(reward_models, [1 / 3] * 3, hf.load_reward_model)
  )
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert summary['models'] == 3
  assert 0 <= summary['eval_rewards/accuracies/model'] <= 1
  mean, std = reward_model.read_stats(str(tmp_path / 'model'))
  assert std > 0
  assert mean != 0
  before = (tmp_path / 'summary.json').stat().st_mtime_ns
  average.run(config, tmp_path)  # finished: nothing is done again
  assert (tmp_path / 'summary.json').stat().st_mtime_ns == before


def test_language_models_with_weights(make_model, tmp_path, one_device):
  models = [make_model(0), make_model(1)]
  average.run(make_config(*models, weights=(3.0, 1.0)), tmp_path)
  _, params = hf.load(tmp_path / 'model')
  assert_close(params, mean_of(models, [0.75, 0.25], hf.load))
  assert not (tmp_path / 'model' / reward_model.STATS_FILE).exists()


@pytest.mark.multidevice
def test_a_mesh_changes_nothing(
  reward_models, tmp_path, one_device, monkeypatch
):
  everywhere = functools.partial(sharding.make_mesh, devices=jax.devices())
  monkeypatch.setattr(sharding, 'make_mesh', everywhere)
  config = make_config(*reward_models[:2], batch_size=8)
  config.mesh.update(data=2, fsdp=2, tensor=2)
  average.run(config, tmp_path)
  _, params = hf.load_reward_model(tmp_path / 'model')
  assert_close(
    params, mean_of(reward_models[:2], [0.5, 0.5], hf.load_reward_model)
  )


def test_what_cannot_be_averaged(
  make_model, reward_models, tmp_path, one_device
):
  for models, overrides, message in (
    ((), {}, 'config.models is empty'),
    (('a', 'b'), {'weights': (1.0,)}, 'above 0 for each of the 2 models'),
    (('a', 'b'), {'weights': (1.0, 0.0)}, 'above 0 for each of the 2 models'),
    ((reward_models[0], make_model(0)), {}, 'not a reward model'),
    ((make_model(0), 'tiny:xs'), {}, 'not of the shapes'),
  ):
    with pytest.raises(ValueError, match=message):
      average.run(make_config(*models, **overrides), tmp_path / message[:5])
