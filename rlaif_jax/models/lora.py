"""LoRA on whole models: attaching adapters, training only them, merging.

The adapters' parameters lie beside the kernels they belong to, as `lora_a`
[*inputs, R] and `lora_b` [R, *outputs], float32 whatever the kernels are. The
kernels are then frozen, and any number of models may share them.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from rlaif_jax import sharding
from rlaif_jax.core import types
from rlaif_jax.models import int8, weights, with_options
from rlaif_jax.models.config import Lora

A, B = 'lora_a', 'lora_b'


def attach(
  model: Any,
  params: types.Params,
  lora: Lora | None,
  key: types.Key,
  *,
  mesh: Mesh | None = None,
) -> tuple[Any, types.Params]:
  """Puts new adapters on a LanguageModel or ScalarModel.

  B is 0, so the model computes what it did; A is N(0, 1 / fan-in).

  Args:
    model: without adapters.
    params: its parameters; the arrays are shared, not copied.
    lora: which adapters; None leaves everything as it is.
    key: for A.
    mesh: where the adapters go; see `shardings`.

  Raises:
    ValueError: it has adapters already, or none of the targets.
  """
  if lora is None:
    return model, params
  if model.config.lora is not None:
    raise ValueError('the model has adapters already; merge them first')
  model = with_options(model, lora=lora)
  if not adapters(model.abstract_params()):
    raise ValueError(
      f'LoRA targets {", ".join(lora.targets)}: {model.config.family} has no '
      'such projection'
    )
  init = jax.jit(
    lambda key: adapters(model.init(key)), out_shardings=shardings(model, mesh)
  )
  return model, join(params, init(key))


def adapters(params: types.Params) -> types.Params:
  """The adapters' part of a tree."""
  return _part(params, _is_adapter)


def split(
  model: Any, params: types.Params
) -> tuple[types.Params, types.Params]:
  """(frozen, trained) parts of a model's parameters, for `join`.

  With LoRA the adapters are trained, and a ScalarModel's head, which is new.
  Without it everything is, and the frozen part is {}. Takes any tree of the
  parameters' shape.
  """

  def trained(path: str) -> bool:
    everything = model.config.lora is None
    return everything or _is_adapter(path) or path.startswith('head/')

  return _part(params, lambda path: not trained(path)), _part(params, trained)


def join(*trees: types.Params) -> types.Params:
  """One tree of all their leaves; where paths are the same the last counts."""
  leaves: dict[str, Any] = {}
  for tree in trees:
    leaves |= weights.flatten(tree)
  return weights.unflatten(leaves)


def joined(loss_fn: Callable) -> Callable:
  """loss(trained, batch, key, frozen) of a loss(params, batch, key).

  The frozen part is an argument, as a jitted function would otherwise hold
  its arrays as constants.
  """

  def loss(trained, batch, key, frozen):
    return loss_fn(join(frozen, trained), batch, key)

  return loss


def merge(model: Any, params: types.Params) -> tuple[Any, types.Params]:
  """The model without adapters that computes the same, and its parameters.

  Sums are float32, results have the type of the kernels or, where these are
  int8, of the token table. A model with neither comes back as it is.
  """
  c = model.config
  if c.lora is None and not c.int8:
    return model, params
  leaves = weights.flatten(params)
  parts = {k for k in leaves if k.rpartition('/')[2] in (A, B, int8.SCALE)}
  merged = {k: v for k, v in leaves.items() if k not in parts}
  table = next(v for k, v in leaves.items() if k.endswith('embed/tokens'))
  for owner in {k.rpartition('/')[0] for k in parts}:
    kernel = leaves[f'{owner}/kernel']
    merged[f'{owner}/kernel'] = _merged(
      kernel,
      *(leaves.get(f'{owner}/{name}') for name in (int8.SCALE, A, B)),
      c.lora.scale if c.lora else 0.0,
      dtype=table.dtype if c.int8 else kernel.dtype,
    )
  return with_options(model, lora=None, int8=False), weights.unflatten(merged)


def shardings(model: Any, mesh: Mesh | None = None) -> Any:
  """Where the adapters of `model` go, a tree of NamedShardings.

  Args:
    model: with adapters.
    mesh: None is the one set with `jax.set_mesh`; without any the result is
      None, which stands for the default device.
  """
  mesh = jax.sharding.get_mesh() if mesh is None else mesh
  if mesh.empty:
    return None
  return sharding.shardings(
    adapters(model.param_axes()),
    adapters(model.abstract_params()),
    mesh,
    getattr(model, 'trunk', model).rules,
  )


@functools.partial(jax.jit, static_argnames='dtype')
def _merged(
  kernel: Float[Array, 'L ...'],
  kernel_scale: Float[Array, 'L ...'] | None,
  a: Float[Array, 'L ...'] | None,
  b: Float[Array, 'L ...'] | None,
  scale: float,
  dtype: Any,
) -> Float[Array, 'L ...']:
  """kernel + A B * scale, layer by layer; [L, *inputs, *outputs]."""

  def product(a, b):
    return jnp.tensordot(a, b, axes=1, precision='highest')

  wide = kernel.astype(jnp.float32)
  if kernel_scale is not None:
    wide = int8.unpack(kernel, kernel_scale)
  if a is not None:
    wide += jax.vmap(product)(a, b) * scale
  return wide.astype(dtype)


def _is_adapter(path: str) -> bool:
  return path.rpartition('/')[2] in (A, B)


def _part(tree: types.Params, wanted: Callable[[str], bool]) -> types.Params:
  """The leaves of a tree whose paths are wanted."""
  leaves = weights.flatten(tree)
  return weights.unflatten({k: v for k, v in leaves.items() if wanted(k)})
