"""Linear maps, with what LoRA adds to them, and parameters with axis names.

Kernels keep heads as an axis of their own ([D, H, h], not [D, H * h]), so that
sharding rules can speak about heads.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlaif_jax import offload
from rlaif_jax.models import products, steps
from rlaif_jax.models.config import PROJECTIONS, ModelConfig


class Linear(nn.Module):
  """Contracts the trailing axes `inputs` of x with a kernel.

  Attributes:
    inputs: sizes of the contracted axes.
    outputs: sizes of the new axes.
    axes: logical axes of the kernel, inputs first.
    use_bias: adds one.
    gain: of the initial weights, times 1 / sqrt(fan-in).
    out_dtype: of the result and of the sum inside; None: as x.
  """

  config: ModelConfig
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  axes: tuple[str, ...]
  use_bias: bool = False
  gain: float = 1.0
  out_dtype: str | None = None

  @nn.compact
  def __call__(self, x: Float[Array, '...']) -> Float[Array, '...']:
    """x [..., *inputs] -> [..., *outputs]."""
    y = self._product(x)
    lora = self.config.lora
    if lora is not None and self.name in lora.targets:
      y += self._low_rank(x).astype(y.dtype)
    if self.use_bias:
      bias = self._vector('bias', nn.initializers.zeros)
      y += spread(bias.astype(y.dtype), y.ndim)
    return y

  def _product(self, x: Array) -> Array:
    """`x` times the kernel, in whichever form that is."""
    c, count = self.config, len(self.inputs)
    int8 = c.int8 and self.name in PROJECTIONS
    std = self.gain * math.prod(self.inputs) ** -0.5
    init = _any_int8 if int8 else nn.initializers.normal(std)
    shape, axes = self.inputs + self.outputs, self.axes
    tiled = c.tile is not None and not int8
    if tiled:
      shape, axes = steps.shape(shape, count, c.tile), (None,) * 3
    kernel = param(self, 'kernel', init, shape, axes, 'int8' if int8 else None)
    if tiled:
      return steps.contract(x, kernel, count, self.outputs, self.out_dtype)
    y = products.contract(x, kernel, count, self.out_dtype)
    if int8:
      init = nn.initializers.constant(std * 3**0.5 / 127)
      scale = self._vector('kernel_scale', init, 'float32')
      y = (y * spread(scale, y.ndim)).astype(y.dtype)
    return y

  def _vector(self, name: str, init, dtype: str | None = None) -> Array:
    """A parameter with one number an output."""
    axes = self.axes[len(self.inputs) :]
    # A vector of the model's width is too small to be worth splitting.
    axes = tuple('norm' if a == 'embed' else a for a in axes)
    return param(self, name, init, self.outputs, axes, dtype)

  def _low_rank(self, x: Float[Array, '...']) -> Float[Array, '...']:
    """What the adapter adds; 0 as long as B is as it begins."""
    lora, n = self.config.lora, len(self.inputs)
    a = param(
      self,
      'lora_a',
      nn.initializers.normal(math.prod(self.inputs) ** -0.5),
      (*self.inputs, lora.rank),
      (*self.axes[:n], 'lora'),
      'float32',
    )
    b = param(
      self,
      'lora_b',
      nn.initializers.zeros,
      (lora.rank, *self.outputs),
      ('lora', *self.axes[n:]),
      'float32',
    )
    return products.contract(products.contract(x, a, n), b, 1) * lora.scale


class Bias(nn.Module):
  """A bias by itself, for a projection whose kernel is another's."""

  config: ModelConfig
  axis: str

  @nn.compact
  def __call__(self, x: Float[Array, '... N']) -> Float[Array, '... N']:
    """Adds it to `x`."""
    bias = param(
      self, 'bias', nn.initializers.zeros, x.shape[-1:], (self.axis,)
    )
    return x + spread(bias.astype(x.dtype), x.ndim)


def spread(x: Array, ndim: int) -> Array:
  """`x` with leading axes of size 1, to be added to an array of rank `ndim`."""
  return x.reshape((1,) * (ndim - x.ndim) + x.shape)


def param(
  module: nn.Module, name: str, init, shape, axes, dtype: str | None = None
) -> Array:
  """A parameter whose axes carry their logical names, on the device.

  Its type is `dtype`, or by default `param_dtype` of the module's config.
  """
  value = module.param(
    name,
    nn.with_logical_partitioning(init, axes),
    shape,
    jnp.dtype(dtype or module.config.param_dtype),
  )
  return offload.on_device(value)


def _any_int8(key: Array, shape: tuple[int, ...], dtype) -> Array:
  """Evenly distributed integers, an initialiser."""
  return jax.random.randint(key, shape, -127, 128, dtype)
