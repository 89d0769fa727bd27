"""Where the value model starts: at a language model, or at a reward model.

With `config.shared_trunk` it is a head on the policy's trunk and nothing else:
all that is kept, and trained by `config.value_optimizer`, is {'head': ...}. It
starts at 0, so that it draws at the trunk only once it has learned something.

InstructGPT (arXiv 2203.02155, section 3.5) and Stiennon et al. (arXiv
2009.01325, appendix B.1) start it at the reward model. What that model scores
is then what the values are from the first step, in the reward's units.
"""

from typing import Any

import jax.numpy as jnp

from rlaif_jax import models
from rlaif_jax.core.types import Key, Params
from rlaif_jax.models import hf, locate
from rlaif_jax.models.heads import ScalarModel
from rlaif_jax.rewards import reward_model
from rlaif_jax.stages import _lora, _options, common


def load(
  s: common.Session, loaded: common.Loaded, path: str, key: Key
) -> tuple[ScalarModel, Params]:
  """(value model, parameters) that start at `path`; '' = as the policy does.

  Everything is as for the policy otherwise: types, adapters, sharding.
  """
  if s.config.shared_trunk:
    model = ScalarModel(loaded.model)
    new = model.init_from(loaded.params, key, zeros=True)
    return model, {'head': new['head']}
  if not path:
    return common.scalar_from(loaded, s, key)
  block = _lora.like(s.config.policy, path, loaded.model)
  if not isinstance(hf.describe(locate.resolve(path)), ScalarModel):
    return common.scalar_from(common.load_policy(block, s), s, key)
  folder = locate.resolve(path)
  model, params = hf.load_reward_model(
    folder, dtype=_lora.base_dtype(block), mesh=s.mesh, rules=s.rules
  )
  model = models.with_options(model, **_options.running(block))
  model, params = _lora.start(block, model, params, s.config.seed)
  mean, std = reward_model.read_stats(folder)
  return model, {**params, 'head': scaled(params['head'], mean, std)}


def scaled(head: dict[str, Any], mean: float, std: float) -> dict[str, Any]:
  """A head that gives (score - mean) / std where `head` gives the score."""
  return {
    'kernel': jnp.asarray(head['kernel'], jnp.float32) / std,
    'bias': (jnp.asarray(head['bias'], jnp.float32) - mean) / std,
  }
