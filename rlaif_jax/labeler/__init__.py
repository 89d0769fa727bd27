"""AI feedback: language models that answer labeling prompts."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rlaif_jax.inference.sampling import SamplingConfig


@dataclasses.dataclass
class Counters:
  """What a labeler has done so far."""

  texts: int = 0
  tokens: int = 0  # read and written, without padding
  written: int = 0  # of these, in rationales
  seconds: float = 0.0


class Labeler(Protocol):
  """Who answers: a model in the mesh, one behind an endpoint, or a cache.

  Attributes:
    limit: tokens that a prompt may have.
    counters: work done so far.
    identity: name and fingerprint, for records and caches.
  """

  limit: int
  counters: Counters
  identity: str

  def fits(self, text: str, room: int = 0) -> bool:
    """Whether a prompt leaves `room` tokens of `limit` free."""
    ...

  def score_texts(
    self,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    ids: Sequence[str] | None = None,
  ) -> np.ndarray:
    """Log-probability [n, N] float32 of each label right after each text."""
    ...

  def write(
    self,
    texts: Sequence[str],
    *,
    max_tokens: int,
    sampling: SamplingConfig,
    seed: int = 0,
    ids: Sequence[str] | None = None,
  ) -> list[str]:
    """Goes on with each text, up to its end or `max_tokens`."""
    ...
