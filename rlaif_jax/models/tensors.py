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
    key: name in the file, '{}' standing for the layer number; a second '{}'
      for the number along the parameter's next axis (a tensor per head).
    source: axes of the file's tensor, separated by spaces; an axis that merges
      several is written 'H*h'. A number is an axis of that many fused
      parameters, 'D 3*H*h' being query, key and value side by side. Fused
      parameters of different sizes are written 'H*h+K*h+K*h'.
    target: axes of the parameter, without those that `key` numbers; None = the
      same as `source`.
    part: which of the fused parameters this one is.
    dims: sizes of axes that only the other fused parameters have.
  """

  key: str
  source: str = 'D'
  target: str | None = None
  part: int = 0
  dims: tuple[tuple[str, int], ...] = ()

  @property
  def depth(self) -> int:
    """How many leading axes of the parameter are one tensor per entry."""
    return self.key.count('{}')

  def keys(self, *shape: int) -> list[str]:
    """Keys of all its tensors, for a parameter of this shape."""
    counts = (range(n) for n in shape[: self.depth])
    return [self.key.format(*numbers) for numbers in itertools.product(*counts)]

  def factors(self) -> list[list[str]]:
    """The names that each axis of the source merges, for this part."""
    terms = [axis.split('+') for axis in self.source.split()]
    return [(t[self.part] if len(t) > 1 else t[0]).split('*') for t in terms]

  def axes(self) -> list[str]:
    """Axis names of the parameter, without L."""
    target = self.source if self.target is None else self.target
    return target.split()


def source_shape(tensor: Tensor, shape: Sequence[int]) -> tuple[int, ...]:
  """Shape in the file of a parameter of this shape (without stacked axes)."""
  return tuple(sum(lengths) for lengths in _term_lengths(tensor, shape))


def read(
  tensor: Tensor,
  shape: Sequence[int],
  index: Sequence[slice],
  fetch: Callable[[tuple[slice, ...]], np.ndarray],
) -> np.ndarray:
  """The part `index` of a parameter, reading little more than that.

  Args:
    tensor: the parameter's place.
    shape: whole shape of the parameter, without stacked axes.
    index: which part of each axis; steps are not supported.
    fetch: reads a rectangle of the file's tensor.
  """
  sizes = _sizes(tensor, shape)
  ranges = {
    axis: s.indices(n)[:2]
    for axis, s, n in zip(tensor.axes(), index, shape, strict=True)
  }
  window, inner_shape, inner_index = [], [], []
  for factors, place in zip(
    tensor.factors(), _region(tensor, shape), strict=True
  ):
    parts = [ranges.get(f, (tensor.part, tensor.part + 1)) for f in factors]
    start, stop, kept, inside = _cover([sizes[f] for f in factors], parts)
    window.append(slice(place.start + start, place.start + stop))
    inner_shape += kept
    inner_index += inside
  block = fetch(tuple(window)).reshape(inner_shape)[tuple(inner_index)]
  return _to_target(tensor, block)


def write(parts: Sequence[tuple[Tensor, np.ndarray]]) -> np.ndarray:
  """The file's tensor that holds these parameters, all those of one key."""
  first, example = parts[0]
  out = np.empty(source_shape(first, example.shape), example.dtype)
  for tensor, value in parts:
    if '+' in tensor.source:
      region = out[_region(tensor, value.shape)]
      region[...] = _from_target(tensor, value).reshape(region.shape)
      continue
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
  known = dict(zip(tensor.axes(), shape, strict=True))
  return dict(tensor.dims) | known | fused


def _term_lengths(tensor: Tensor, shape: Sequence[int]) -> list[list[int]]:
  """Of each axis of the source, the lengths that are put end to end."""
  sizes = _sizes(tensor, shape)
  return [
    [math.prod(sizes[f] for f in term.split('*')) for term in axis.split('+')]
    for axis in tensor.source.split()
  ]


def _region(tensor: Tensor, shape: Sequence[int]) -> tuple[slice, ...]:
  """Where this part of unequal ones lies; whole axes where there are none."""
  region = []
  for lengths in _term_lengths(tensor, shape):
    part = tensor.part if len(lengths) > 1 else 0
    start = sum(lengths[:part])
    region.append(slice(start, start + lengths[part]))
  return tuple(region)


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
