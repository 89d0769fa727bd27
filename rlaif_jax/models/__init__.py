"""Language models: Linen inside, a pure init/apply pair outside.

A model is a frozen, hashable description; parameters are a nested dict that
its methods take. A family is one file of this folder named by its
Hugging Face `model_type`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax import sharding
from rlaif_jax.core import types
from rlaif_jax.models import cache as cache_lib
from rlaif_jax.models import families, steps
from rlaif_jax.models.config import Lora, ModelConfig, Origin, Rope
from rlaif_jax.models.transformer import Decoder

__all__ = [
  'LanguageModel',
  'Lora',
  'ModelConfig',
  'Origin',
  'Rope',
  'build',
  'for_training',
  'with_options',
]

_WRITTEN_OUT = 8  # layers at most that are not worth a loop when they train


@dataclasses.dataclass(frozen=True)
class LanguageModel:
  """A causal language model without its parameters.

  Hashable and comparable, so that it can be a static argument of `jax.jit`.

  Attributes:
    config: the architecture.
    rules: sharding rules over `sharding.DEFAULT_RULES`, as `freeze_rules`
      gives them; used for activations.
  """

  config: ModelConfig
  rules: tuple[tuple[str, sharding.MeshAxes], ...] = ()

  def init(self, key: types.Key) -> types.Params:
    """New parameters, of `config.param_dtype`.

    Residual branches end in weights scaled by 1/sqrt(2L), other kernels by
    1/sqrt(fan-in), tables are N(0, 0.02^2).
    """
    return jax.tree.map(lambda box: box.value, self._boxed(key), is_leaf=_boxed)

  def param_axes(self) -> types.Params:
    """Logical axis names of every parameter, a tree of tuples."""
    return jax.tree.map(
      lambda box: tuple(box.names), self._abstract(), is_leaf=_boxed
    )

  def abstract_params(self) -> types.Params:
    """Shapes and types of the parameters, a tree of ShapeDtypeStructs."""
    return jax.tree.map(lambda box: box.value, self._abstract(), is_leaf=_boxed)

  def apply(
    self,
    params: types.Params,
    tokens: Int[Array, 'B T'],
    *,
    mask: Bool[Array, 'B T'] | None = None,
    positions: Int[Array, 'B T'] | None = None,
    cache: types.Cache | None = None,
    logits: bool = True,
    ends: Int[Array, 'B T'] | None = None,
    prefix: types.Cache | None = None,
    reads: Int[Array, 'B I'] | None = None,
    fresh: bool = False,
  ) -> types.ModelOutput:
    """One forward pass.

    Args:
      params: what `init` or `hf.load` gives.
      tokens: ids; padding, on either side, may hold any.
      mask: True = real token; None = all are.
      positions: position ids; None counts the real tokens of each row, cached
        ones included.
      cache: continues after what it holds: the T tokens go to the slots from
        `cache.index` on, for every row. Slots beyond its size are the caller's
        mistake and overwrite the last ones.
      logits: False leaves the unembedding out.
      ends: makes each row a tree, depth first, in place of `mask`: the token
        at slot j is seen by those at slots j to ends[j] - 1, and by no others;
        0 is padding. Several texts thus share the tokens they begin with.
      prefix: the cache of one left-padded row that every row continues; it is
        read where it lies, not copied per row.
      reads: the slots whose results are wanted, in that order; None: all. The
        last layer is then computed at these alone, its keys and values apart.
      fresh: the cache holds nothing yet, so that the tokens need to look at one
        another alone and not at the slots that are still to be filled.

    Returns:
      Logits [B, T or I, V] float32 or None, hidden states [B, T or I, D] after
      the final norm, and the cache (None if none was given). A token or
      position id outside its table makes its row NaN.

    Raises:
      ValueError: more tokens than a cache has slots, or than there are learned
        positions; a tree with a mask or a cache.
    """
    if ends is not None and (mask is not None or cache is not None):
      raise ValueError('a tree of tokens (ends) takes no mask and no cache')
    length, limit = tokens.shape[1], self.config.max_positions
    counted = mask is None and positions is None and self.config.rope is None
    if counted and ends is None and length > limit:
      raise ValueError(f'{length} tokens, but the model has {limit} positions')
    if cache is not None and length > cache.mask.shape[1]:
      raise ValueError(
        f'{length} tokens do not fit a cache of {cache.mask.shape[1]} slots'
      )
    return self._module.apply(
      {'params': params},
      tokens,
      mask,
      positions,
      cache,
      logits,
      ends,
      prefix,
      reads,
      fresh,
    )

  def unembed(
    self, params: types.Params, hidden: Float[Array, '... D']
  ) -> Float[Array, '... V']:
    """Float32 logits of final hidden states."""
    return self._module.apply(
      {'params': params}, hidden, method=Decoder.unembed
    )

  def init_cache(self, batch: int, slots: int, dtype=None) -> types.Cache:
    """An empty cache for `batch` rows of up to `slots` tokens.

    Its layout follows the platform of the mesh set with `jax.set_mesh`, or of
    the default device; `dtype` defaults to the activations'.
    """
    return cache_lib.init(self.config, batch, slots, dtype, self.rules)

  def step_cache(self, cache: types.Cache) -> types.Cache:
    """`cache` as the model of `for_steps` takes it."""
    return steps.cache(self.config, cache)

  def for_steps(self, rows: int) -> 'LanguageModel':
    """This model in the form that reads weights and cache fastest, steps.py.

    It takes one token of each of `rows` rows at a time, its parameters from
    `step_params`, and a `step_cache`.
    """
    return dataclasses.replace(self, config=steps.config(self.config, rows))

  def step_params(self, params: types.Params, rows: int) -> types.Params:
    """`params` as the model of `for_steps` takes them.

    That model itself has them already. With `config.gather` each device gets
    what the others along fsdp have.
    """
    found = steps.params(self.config, params, rows)
    if not self.config.gather or sharding.on_one_device():
      return found
    # As they were cast: XLA would rather send what they were cast from.
    found = jax.lax.optimization_barrier(found)
    rules = sharding.without('fsdp', self.rules)
    return jax.tree.map(
      lambda x, axes: sharding.constrain(x, *axes, rules=rules),
      found,
      self.param_axes(),
    )

  def laid_out(
    self, params: types.Params, rows: int
  ) -> tuple['LanguageModel', types.Params]:
    """The model of `for_steps` and its parameters; or both as they are.

    They are laid out by a program of their own: in that of the steps XLA takes
    the memory twice, for what is laid out and for what the loop reads. Where
    they would only be cast, that is left to the steps.
    """
    model = self.for_steps(rows)
    if model == self:
      return self, params
    return model, _filled(_laid(self, params, rows), params)

  @property
  def _module(self) -> Decoder:
    return Decoder(self.config, self.rules)

  def _boxed(self, key: types.Key) -> types.Params:
    """Parameters in boxes that carry their logical axes."""
    return self._module.init(key, jnp.zeros((1, 1), jnp.int32))['params']

  def _abstract(self) -> types.Params:
    # The key is made inside: a mesh may have no devices to make one on.
    return jax.eval_shape(lambda: self._boxed(jax.random.key(0)))


@functools.partial(jax.jit, static_argnums=(0, 2))
def _laid(model, params, rows):
  """`step_params`, with None for what is as it was: jit would copy it."""
  same = set(map(id, jax.tree.leaves(params)))
  return jax.tree.map(
    lambda x: None if id(x) in same else x, model.step_params(params, rows)
  )


def _filled(tree, other):
  """A tree of dicts with its Nones from the same place of another."""
  if isinstance(tree, dict):
    return {k: _filled(v, other and other.get(k)) for k, v in tree.items()}
  return other if tree is None else tree


def build(config: Mapping[str, Any], **options: Any) -> LanguageModel:
  """Model of a Hugging Face style config, for example to train from scratch.

  Args:
    config: what config.json holds; `model_type` names the family.
    **options: fields of ModelConfig that say how it runs (dtype, remat, ...).

  Raises:
    ValueError: the family, or something that the config asks for, is not
      supported.
  """
  return with_options(LanguageModel(families.config_from_hf(config)), **options)


def with_options(model: Any, **options: Any) -> Any:
  """A LanguageModel or ScalarModel that runs otherwise: dtype, remat, ...

  Args:
    model: the model.
    **options: fields of ModelConfig to replace.
  """
  if hasattr(model, 'trunk'):
    return dataclasses.replace(
      model, trunk=with_options(model.trunk, **options)
    )
  config = dataclasses.replace(model.config, **options)
  return dataclasses.replace(model, config=config)


def for_training(model: Any) -> Any:
  """A LanguageModel or ScalarModel as its gradients are had fastest.

  On one CPU device the layers of a small model come one after the other, not in
  a loop: what they keep for the backward pass is then not copied into arrays of
  all layers and out again, a twentieth of a step.
  """
  c = model.config
  small = c.num_layers <= _WRITTEN_OUT and not c.remat
  if not small or not cache_lib.on_one_cpu():
    return model
  return with_options(model, unroll=c.num_layers)


def _boxed(x: Any) -> bool:
  return isinstance(x, nn.LogicallyPartitioned)
