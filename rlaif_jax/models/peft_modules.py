"""The modules that PEFT has adapters for, in terms of our projections.

A module's weight may hold several projections: A is [R, in] and B [out, R] of
the whole. A family's NAME_MAP says which modules there are, and how their axes
relate to ours.

Written, a module of n projections gets the rank n * R: their A stacked, their
B along the diagonal. Read, its A goes to each of its projections, unless B has
such a diagonal.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlaif_jax.models import families, lora, tensors, weights, with_options
from rlaif_jax.models.config import PROJECTIONS
from rlaif_jax.models.tensors import Tensor

# A and B of one layer.
Pair = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Part:
  """One projection's share of a module.

  Attributes:
    path: of the projection in the trunk's parameters.
    a: from the module's A [R, in] to [*inputs, R], in one layer.
    b: from its B [out, R], of several projections maybe, to [R, *outputs].
    inputs: sizes of the projection's input axes.
    outputs: sizes of its output axes.
  """

  path: str
  a: Tensor
  b: Tensor
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]

  def read(self, a: np.ndarray, b: np.ndarray) -> Pair:
    """This projection's A [*inputs, R] and B [R, *outputs]."""
    rank = len(a)
    return (
      _read(self.a, (*self.inputs, rank), a),
      _read(self.b, (rank, *self.outputs), b),
    )


@dataclasses.dataclass(frozen=True)
class Module:
  """What PEFT has one adapter for.

  Attributes:
    name: in the base model, '{}' standing for the layer.
    parts: the projections that its weight holds.
    fan_in_fan_out: whether that is stored [in, out].
  """

  name: str
  parts: tuple[Part, ...]
  fan_in_fan_out: bool

  def adapted(self, leaves: Mapping[str, Any]) -> list[Part]:
    """The projections that have adapters among a trunk's `leaves`."""
    return [p for p in self.parts if f'{p.path}/{lora.A}' in leaves]

  def write(self, leaves: Mapping[str, np.ndarray], layer: int) -> Pair:
    """A [R, in] and B [out, R] in one layer of a trunk's `leaves`."""
    mine = self.adapted(leaves)
    low = [leaves[f'{p.path}/{lora.A}'][layer] for p in mine]
    rank = low[0].shape[-1]
    high = []
    for part in self.parts:
      b = np.zeros((len(mine) * rank, *part.outputs), low[0].dtype)
      if part in mine:
        start = mine.index(part) * rank
        b[start : start + rank] = leaves[f'{part.path}/{lora.B}'][layer]
      high.append((part.b, b))
    a = mine[0].a, np.concatenate(low, axis=-1)
    return tensors.write([a]), tensors.write(high)

  def read(self, layers: Sequence[Pair]) -> dict[str, list[Pair]]:
    """{path: its A and B in every layer} of A [R, in] and B [out, R].

    A projection that B leaves out has no adapter, unless B is all 0.
    """
    found = {p.path: [p.read(a, b) for a, b in layers] for p in self.parts}
    used = {
      path: pairs
      for path, pairs in found.items()
      if any(b.any() for _, b in pairs)
    }
    found = used or found
    split = [_on_diagonal(pairs) for pairs in zip(*found.values(), strict=True)]
    return dict(zip(found, map(list, zip(*split, strict=True)), strict=True))


def of(model: Any) -> list[Module]:
  """The modules that hold the projections of `model`, in file order."""
  trunk = with_options(getattr(model, 'trunk', model), lora=None)
  c = trunk.config
  shapes = weights.flatten(trunk.abstract_params())
  dims = (('H', c.num_heads), ('K', c.num_kv_heads), ('h', c.head_dim))
  found: dict[str, Module] = {}
  for path, tensor in families.find(c.family).NAME_MAP.items():
    owner, _, leaf = path.rpartition('/')
    projection = leaf == 'kernel' and owner.rpartition('/')[2] in PROJECTIONS
    if not projection or path not in shapes:
      continue
    tensor = dataclasses.replace(tensor, dims=dims)
    part, flipped = _part(owner, tensor, shapes[path].shape[1:])
    name = tensor.key.removesuffix('.weight')
    module = found.get(name, Module(name, (), flipped))
    found[name] = dataclasses.replace(module, parts=(*module.parts, part))
  return list(found.values())


def short_names(wanted: Sequence[str], every: Sequence[str]) -> dict[str, str]:
  """{module: the end of its name by which PEFT finds it and no other}.

  Args:
    wanted: names of modules.
    every: names of all there are.
  """

  def short(name: str) -> str:
    words = name.split('.')
    ends = ('.'.join(words[-count:]) for count in range(1, len(words)))
    for end in ends:
      if all(n in wanted for n in every if n.endswith(f'.{end}')):
        return end
    return name

  return {name: short(name) for name in wanted}


def _part(path: str, kernel: Tensor, shape: Sequence[int]) -> tuple[Part, bool]:
  """A projection by its kernel, and whether that is stored [in, out].

  Our kernel's axes are the inputs and then the outputs, so the file's axis
  that holds the first of them is the input.
  """
  axes, factors = kernel.axes(), kernel.factors()
  at = 0 if axes[0] in factors[0] else 1
  source, count = kernel.source.split(), len(factors[at])
  a = dataclasses.replace(
    kernel,
    source=f'R {source[at]}',
    target=' '.join([*axes[:count], 'R']),
    part=0,
  )
  b = dataclasses.replace(
    kernel,
    source=f'{source[1 - at]} R',
    target=' '.join(['R', *axes[count:]]),
  )
  part = Part(path, a, b, tuple(shape[:count]), tuple(shape[count:]))
  return part, at == 0


def _on_diagonal(pairs: Sequence[Pair]) -> list[Pair]:
  """Each its block of the rank, where no B goes beyond its own block."""
  size, rest = divmod(len(pairs[0][1]), len(pairs))
  cuts = [slice(i * size, (i + 1) * size) for i in range(len(pairs))]
  inside = (
    np.count_nonzero(b) == np.count_nonzero(b[cut])
    for (_, b), cut in zip(pairs, cuts, strict=True)
  )
  if rest or not all(inside):
    return list(pairs)
  return [
    (a[..., cut], b[cut]) for (a, b), cut in zip(pairs, cuts, strict=True)
  ]


def _read(tensor: Tensor, shape: Sequence[int], whole: np.ndarray):
  index = (slice(None),) * len(shape)
  return tensors.read(tensor, shape, index, whole.__getitem__)
