"""Weight averaging: one model whose parameters are the mean of several.

WARM (Rame et al. 2024, arXiv 2401.12187): M reward models fine-tuned from one
start, with other orders of the data and other hyper-parameters, are averaged
into one, which costs what one does and is more robust to a shift of the texts
and to wrong labels. Language models can be averaged just so. A reward model
gets its statistics anew, over the responses of `data`.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rlaif_jax.core.types import Params
from rlaif_jax.models import hf, locate
from rlaif_jax.models.heads import ScalarModel
from rlaif_jax.stages import _reward_stats, common, reward
from rlaif_jax.training import workdir as workdir_lib


def default_config() -> ConfigDict:
  """The plain mean of the models that are named."""
  c = common.base_config('average')
  c.models = ()  # paths of the models
  c.weights = ()  # of each, made to sum to 1; () = all alike
  c.data = common.data_config('tldr', 'valid')  # pairs, for a reward model
  c.demonstrations = common.data_config('', 'train')  # as in stages/reward.py
  c.max_prompt = 1024
  c.max_response = 128
  c.batch_size = 128  # pairs
  return c


def run(config: ConfigDict, workdir) -> None:
  """Leaves the average in `workdir/model`."""
  with common.session(config, workdir) as s:
    if s is None:
      return
    weights = check(config)
    paths = [locate.resolve(path) for path in config.models]
    scalar = isinstance(hf.describe(paths[0]), ScalarModel)
    load = common.load_reward_model if scalar else load_language_model
    loaded, params = average(s, load, paths, weights)
    summary = {'models': len(paths)}
    if scalar:
      pairs = reward.human_pairs(s, loaded, config.data)
      summary |= reward.evaluate_pairs(s, loaded, loaded.model, params, pairs)
    common.export_model(s, loaded, loaded.model, params)
    if scalar:
      _reward_stats.write_stats(s, loaded, loaded.model, params, pairs)
    workdir_lib.finish(s.workdir, summary)


def check(config: ConfigDict) -> list[float]:
  """The weights of the models, which sum to 1.

  Raises:
    ValueError: there are no models, or their weights cannot be.
  """
  if not config.models:
    raise ValueError('config.models is empty: name the models to average')
  weights = config.weights or (1.0,) * len(config.models)
  if len(weights) != len(config.models) or not all(w > 0 for w in weights):
    raise ValueError(
      f'config.weights={tuple(weights)} should have a number above 0 for each '
      f'of the {len(config.models)} models'
    )
  return [weight / sum(weights) for weight in weights]


def load_language_model(path: str, s: common.Session) -> common.Loaded:
  """The language model of a folder, as it is."""
  return common.load_policy(common.model_config(path), s)


def average(
  s: common.Session, load, paths: list[str], weights: list[float]
) -> tuple[common.Loaded, Params]:
  """(the first model, the weighted mean of all parameters, float32).

  One model more than the mean is in memory at a time.

  Raises:
    ValueError: a model is not of the first one's shape, or has other tokens.
  """
  first, total = None, None
  for path, weight in zip(paths, weights, strict=True):
    loaded = load(path, s)
    if first is None:
      first, total = loaded, jax.tree.map(jnp.zeros_like, loaded.params)
    check_alike(first, loaded)
    total = _add(total, loaded.params, weight)
  return first, total


def check_alike(first: common.Loaded, other: common.Loaded) -> None:
  """Raises ValueError where the two cannot be averaged."""
  shapes = [
    jax.tree.map(lambda x: (x.shape, x.dtype), m.params) for m in (first, other)
  ]
  if shapes[0] != shapes[1]:
    raise ValueError(
      f'{other.path}: its parameters are not of the shapes of {first.path}; '
      'only models that started as the same one can be averaged'
    )
  if first.tokenizer.fingerprint != other.tokenizer.fingerprint:
    raise ValueError(f'{other.path}: its tokenizer is not that of {first.path}')


@jax.jit
def _add(total: Params, params: Params, weight: float) -> Params:
  return jax.tree.map(lambda t, p: t + weight * p, total, params)
