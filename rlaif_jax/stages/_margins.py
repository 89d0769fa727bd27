"""By how much the better response is to win, for the reward loss 'margin'.

Llama 2 (arXiv 2307.09288, section 3.2.2 and appendix A.3.3): raters
say how clear a preference is, and the clearer, the larger the margin.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from rlaif_jax.data.datasets import Example

_NAMES = ('significantly', 'better', 'slightly', 'negligibly')
GRADES = {
  'small': dict(zip(_NAMES, (1.0, 2 / 3, 1 / 3, 0.0), strict=True)),
  'large': dict(zip(_NAMES, (3.0, 2.0, 1.0, 0.0), strict=True)),
}


@dataclasses.dataclass(frozen=True)
class Config:
  """Where a pair's margin comes from.

  Attributes:
    key: column of the pair, an entry of its `meta`: TRL's `margin`, say. A
      number is the margin itself, a text is one of the grades. '' = how sure
      the label is, |2 p - 1|, for labels that are soft and not graded.
    grades: 'small' or 'large', what the grades stand for.
    scale: times all margins.
  """

  key: str = 'margin'
  grades: str = 'small'
  scale: float = 1.0

  def __post_init__(self):
    """Raises ValueError, with what is allowed, on a value that is not."""
    if self.grades not in GRADES:
      raise ValueError(
        f'margin: grades={self.grades!r} is not one of {", ".join(GRADES)}'
      )
    if not 0 <= self.scale < math.inf:
      raise ValueError(f'margin: scale={self.scale} must be at least 0')


def margins(rows: Sequence[Example], config: Config) -> np.ndarray:
  """Margins [B] of labelled pairs, float32.

  Raises:
    ValueError: a row has none, or not such a one; names it.
  """
  if not config.key:
    sure = [abs(2 * row.p_first - 1) for row in rows]
  else:
    sure = [_margin(row, config) for row in rows]
  return config.scale * np.array(sure, np.float32)


def _margin(row: Example, config: Config) -> float:
  value, grades = row.meta.get(config.key), GRADES[config.grades]
  if isinstance(value, str):
    value = grades.get(value)
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if not number or not 0 <= value < math.inf:
    raise ValueError(
      f'row {row.id}: its {config.key!r} is {row.meta.get(config.key)!r}, but '
      "the loss 'margin' needs a number of at least 0, or one of "
      f"{', '.join(grades)}; or set config.loss_options to {{'key': ''}} to "
      'take the margin from how sure the label is'
    )
  return float(value)
