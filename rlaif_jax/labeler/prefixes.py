"""What prompts begin with, read once and kept for the next ones."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from rlaif_jax import sharding
from rlaif_jax.core import types
from rlaif_jax.data import transforms
from rlaif_jax.inference import score
from rlaif_jax.models import LanguageModel

_KEPT = 2  # of prompts with all exemplars, and of those with fewer
_prefill = jax.jit(score.prefill, static_argnums=0)


@dataclasses.dataclass(frozen=True, eq=False)
class Prefixes:
  """The latest prefixes of a labeler.

  Attributes:
    model: the language model.
    params: its parameters.
    pad_id: fills the padding.
    lengths: what prefixes are padded to, each compiled once.
  """

  model: LanguageModel
  params: types.Params = dataclasses.field(repr=False)
  pad_id: int
  lengths: tuple[int, ...]
  _kept: dict[Any, types.Cache] = dataclasses.field(
    default_factory=dict, init=False, repr=False
  )

  def get(self, ids: Sequence[int]) -> types.Cache | None:
    """Keys and values of one row of tokens, on each device of the mesh.

    None for no tokens.
    """
    if not ids:
      return None
    mesh = jax.sharding.get_mesh()
    key = (tuple(ids), mesh)
    found = self._kept.pop(key, None)
    if found is None:
      batch = transforms.left_pad([ids], self.lengths, self.pad_id)
      if not mesh.empty:
        batch = sharding.replicate(batch, mesh)
      found = _prefill(self.model, self.params, *batch)
    self._kept[key] = found
    if len(self._kept) > _KEPT:
      self._kept.pop(next(iter(self._kept)))  # not asked for the longest
    return found
