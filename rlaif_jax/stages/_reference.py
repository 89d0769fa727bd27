"""The reference of RL and preference optimisation: frozen, the KL anchor.

It only computes, once for each batch, so it may be held smaller than what is
trained (`reference_param_dtype`), and wait in host memory between
(`reference_offload`). With LoRA it is the base that the policy shares.
"""

import dataclasses
import functools
from typing import Any

import jax
from ml_collections import ConfigDict

from rlaif_jax.core.types import Params
from rlaif_jax.models import lora
from rlaif_jax.stages import _lora, common


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('base', 'reference', 'policy', 'value'),
  meta_fields=('model',),
)
@dataclasses.dataclass(frozen=True)
class Frozen:
  """What a step reads and never changes.

  Every array is in it once: trees lie over each other as in `lora.join`. What
  is trained comes on top; without LoRA it is everything.

  Attributes:
    base: what all models lie over, with LoRA; else {}.
    reference: the KL anchor, over the base.
    policy: under the policy's adapters, over the base.
    value: under the value model's, over the trunk that the policy has.
    model: the reference's, which may hold its weights otherwise than the
      policy; None where a loss needs no reference.
  """

  base: Params
  reference: Params = dataclasses.field(default_factory=dict)
  policy: Params = dataclasses.field(default_factory=dict)
  value: Params = dataclasses.field(default_factory=dict)
  model: Any = None

  def reference_params(self) -> Params:
    """The whole reference."""
    return lora.join(self.base, self.reference)

  def policy_params(self, trained: Params) -> Params:
    """The whole policy."""
    return lora.join(self.base, self.policy, trained)

  def value_params(self, trained: Params) -> Params:
    """The whole value model."""
    trunk = lora.join(self.base, self.policy)
    return lora.join({'trunk': trunk}, self.value, trained)


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
  if not config.reference and not apart(config):
    return loaded
  path = config.reference or config.policy.path
  return common.load_policy(
    _lora.like(config.policy, path, loaded.model),
    s,
    dtype=config.reference_param_dtype or _lora.base_dtype(config.policy),
    offload=config.reference_offload,
  )


def freeze(
  reference: Any, policy: Params | None = None, value: Params | None = None
) -> Frozen:
  """`Frozen` of a reference, and of what others have of their own.

  Args:
    reference: anything with a `model` and `params`.
    policy: what lies over its base under the policy's adapters.
    value: what lies over that under the value model's.
  """
  shared = reference.model.config.lora is not None
  return Frozen(
    base=reference.params if shared else {},
    reference={} if shared else reference.params,
    policy=policy or {},
    value=value or {},
    model=reference.model,
  )
