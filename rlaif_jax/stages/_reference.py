"""The reference of RL and preference optimisation: frozen, the KL anchor.

It only computes, once for each batch, so it may be held smaller than what is
trained (`reference_param_dtype`), and wait in host memory between
(`reference_offload`). With LoRA it is the base that the policy shares.
"""

from typing import Any

from ml_collections import ConfigDict

from rlaif_jax import models
from rlaif_jax.core.types import Params
from rlaif_jax.models import hf, locate
from rlaif_jax.stages import _lora, _options, common


def check(config: ConfigDict) -> None:
  """Raises ValueError where LoRA's base is asked to be two things at once."""
  adapters = config.policy.lora
  if apart(config) and (adapters.rank or adapters.path):
    raise ValueError(
      'config.reference_param_dtype and config.reference_offload are of a '
      'reference by itself; with LoRA it shares its weights with the policy: '
      'leave them out, and set policy.lora.base_dtype'
    )


def apart(config: ConfigDict) -> bool:
  """Whether it shares nothing with the policy, not even at the start."""
  return bool(config.reference_param_dtype or config.reference_offload)


def load(s: common.Session, loaded: common.Loaded) -> common.Loaded:
  """The reference of a policy as loaded; that itself where they are one."""
  config = s.config
  if apart(config):
    path = locate.resolve(config.reference or config.policy.path)
    model, params = hf.load(
      path,
      dtype=config.reference_param_dtype or 'float32',
      offload=config.reference_offload,
      mesh=s.mesh,
      rules=s.rules,
    )
    model = models.with_options(model, **_options.running(config.policy))
    return common.Loaded(model, params, loaded.tokenizer, path)
  if not config.reference:
    return loaded
  block = _lora.like(config.policy, config.reference, loaded.model)
  return common.load_policy(block, s)


def freeze(
  reference: Any, policy: Params | None = None, value: Params | None = None
) -> _lora.Frozen:
  """`_lora.Frozen` of a reference, and of what others have of their own.

  Args:
    reference: anything with a `model` and `params`.
    policy: what lies over its base under the policy's adapters.
    value: what lies over that under the value model's.
  """
  shared = reference.model.config.lora is not None
  return _lora.Frozen(
    base=reference.params if shared else {},
    reference={} if shared else reference.params,
    policy=policy or {},
    value=value or {},
    model=reference.model,
  )
