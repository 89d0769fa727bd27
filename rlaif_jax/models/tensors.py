"""Where a parameter lies inside a checkpoint file's tensors.

A checkpoint merges axes ([H * h, D]), swaps them, fuses tensors (one for
query, key and value) and keeps layers apart; parameters have one axis per
meaning and are stacked over layers. A `Tensor` says how one relates to the
other, and is used in both directions.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

Range = tuple[int, int]  # start, stop


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One parameter's place in a file.

  Attributes:
    key: name in the file, '{}' standing for the layer number.
    source: axes of the file's tensor, separated by spaces; an axis that merges
      several is written 'H*h'. A number is an axis of that many fused
      parameters, 'D 3*H*h' being query, key and value side by side.
    target: axes of the parameter, without L; None = the same as `source`.
    part: which of the fused parameters this one is.
  """

  key: str
  source: str = 'D'
  target: str | None = None
  part: int = 0

  @property
  def stacked(self) -> bool:
    """Whether there is one tensor per layer."""
    return '{}' in self.key

  def keys(self, num_layers: int) -> list[str]:
    """Keys of all its tensors: one per layer, or one."""
    count = num_layers if self.stacked else 1
    return [self.key.format(i) for i in range(count)]

  def factors(self) -> list[list[str]]:
    """The names that each axis of the source merges."""
    return [axis.split('*') for axis in self.source.split()]

  def axes(self) -> list[str]:
    """Axis names of the parameter, without L."""
    target = self.source if self.target is None else self.target
    return target.split()


def source_shape(tensor: Tensor, shape: Sequence[int]) -> tuple[int, ...]:
  """Shape in the file of a parameter of this shape (without L)."""
  sizes = _sizes(tensor, shape)
  return tuple(
    math.prod(sizes[f] for f in factors) for factors in tensor.factors()
  )


def read(
  tensor: Tensor,
  shape: Sequence[int],
  index: Sequence[slice],
  fetch: Callable[[tuple[slice, ...]], np.ndarray],
) -> np.ndarray:
  """The part `index` of a parameter, reading little more than that.

  Args:
    tensor: the parameter's place.
    shape: whole shape of the parameter, without L.
    index: which part of each axis; steps are not supported.
    fetch: reads a rectangle of the file's tensor.
  """
  sizes = _sizes(tensor, shape)
  ranges = {
    axis: s.indices(n)[:2]
    for axis, s, n in zip(tensor.axes(), index, shape, strict=True)
  }
  window, inner_shape, inner_index = [], [], []
  for factors in tensor.factors():
    parts = [ranges.get(f, (tensor.part, tensor.part + 1)) for f in factors]
    start, stop, kept, inside = _cover([sizes[f] for f in factors], parts)
    window.append(slice(start, stop))
    inner_shape += kept
    inner_index += inside
  block = fetch(tuple(window)).reshape(inner_shape)[tuple(inner_index)]
  return _to_target(tensor, block)


def write(parts: Sequence[tuple[Tensor, np.ndarray]]) -> np.ndarray:
  """The file's tensor that holds these parameters (without L) of one key."""
  first, example = parts[0]
  out = np.empty(source_shape(first, example.shape), example.dtype)
  for tensor, value in parts:
    sizes = _sizes(tensor, value.shape)
    names = list(itertools.chain.from_iterable(tensor.factors()))
    view = out.reshape([sizes[n] for n in names])
    place = tuple(
      slice(tensor.part, tensor.part + 1) if n.isdigit() else slice(None)
      for n in names
    )
    view[place] = _from_target(tensor, value)
  return out


def _sizes(tensor: Tensor, shape: Sequence[int]) -> dict[str, int]:
  """Size of every named axis, fused ones included."""
  names = set(itertools.chain.from_iterable(tensor.factors()))
  fused = {n: int(n) for n in names if n.isdigit()}
  return dict(zip(tensor.axes(), shape, strict=True)) | fused


def _cover(
  sizes: Sequence[int], ranges: Sequence[Range]
) -> tuple[int, int, list[int], list[slice]]:
  """Smallest run of a merged axis that holds the wanted part of its factors.

  Returns (start, stop) of the run, its shape by factors, and the index of the
  wanted part inside it.
  """
  start, inner = 0, math.prod(sizes)
  for i, (size, (low, high)) in enumerate(zip(sizes, ranges, strict=True)):
    inner //= size
    start += low * inner
    if high - low != 1 or i == len(sizes) - 1:
      break
  # Factors before i are one wide, i itself is cut, those after come whole.
  shape = [1] * i + [high - low, *sizes[i + 1 :]]
  index = [slice(None)] * (i + 1) + [slice(*r) for r in ranges[i + 1 :]]
  return start, start + (high - low) * inner, shape, index


def _to_target(tensor: Tensor, block: np.ndarray) -> np.ndarray:
  """Source order, fused axes of size 1 included -> the parameter's order."""
  names = list(itertools.chain.from_iterable(tensor.factors()))
  fused = tuple(i for i, n in enumerate(names) if n.isdigit())
  block = block.squeeze(fused)
  kept = [n for n in names if not n.isdigit()]
  return block.transpose([kept.index(a) for a in tensor.axes()])


def _from_target(tensor: Tensor, value: np.ndarray) -> np.ndarray:
  """The inverse of `_to_target`."""
  names = list(itertools.chain.from_iterable(tensor.factors()))
  axes = tensor.axes()
  kept = [n for n in names if not n.isdigit()]
  value = value.transpose([axes.index(n) for n in kept])
  fused = tuple(i for i, n in enumerate(names) if n.isdigit())
  return np.expand_dims(value, fused)
