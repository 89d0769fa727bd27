"""From labels to better labels: panels, an abstain band, calibration.

Arrays of soft labels, p = P(the first response is the better one); NumPy only.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

METHODS = ('mean', 'log_odds', 'majority')
BANDS = ('tie', 'skip')
CALIBRATIONS = ('temperature', 'platt')
_CERTAIN = 1e-6  # labels are kept this far from 0 and 1 where a logit is taken
_MAX_STEPS = 100


def panel(labels: ArrayLike, method: str = 'mean') -> np.ndarray:
  """One soft label [n] of several labelers' [L, n].

  Args:
    labels: [L, n] in [0, 1].
    method: 'mean' of the probabilities; 'log_odds', the sigmoid of the mean
      logit (sure ones count for more); 'majority', the share of labelers for
      the first response, an undecided one counting half.

  Raises:
    ValueError: an unknown method, or labels that are not [L, n] in [0, 1].
  """
  p = _probabilities(labels)
  if p.ndim != 2 or not len(p):
    raise ValueError(f'a panel has labels [L, n], not {p.shape}')
  if method == 'mean':
    return p.mean(0)
  if method == 'log_odds':
    return _sigmoid(_logit(p).mean(0))
  if method == 'majority':
    return (0.5 + 0.5 * np.sign(p - 0.5)).mean(0)
  raise ValueError(f'unknown way to combine {method!r}; use one of {METHODS}')


def undecided(labels: ArrayLike, band: float) -> np.ndarray:
  """Which labels [n] are within `band` of a half, bool.

  Raises:
    ValueError: a band outside [0, 0.5).
  """
  if not 0 <= band < 0.5:
    raise ValueError(f'band={band} should be at least 0 and below 0.5')
  return np.abs(_probabilities(labels) - 0.5) < band


@dataclasses.dataclass(frozen=True)
class Calibration:
  """p -> sigmoid(scale * logit(p) + shift).

  Attributes:
    scale: 1 / temperature.
    shift: 0 for 'temperature'.
  """

  scale: float = 1.0
  shift: float = 0.0

  def __call__(self, labels: ArrayLike) -> np.ndarray:
    """Calibrated labels, in the shape of `labels`."""
    return _sigmoid(self.scale * _logit(_probabilities(labels)) + self.shift)


def calibrate(
  labels: ArrayLike, human: ArrayLike, method: str = 'temperature'
) -> Calibration:
  """The calibration under which human labels are likeliest.

  Minimises the cross-entropy of the calibrated labels against the human ones
  by Newton's method, with a prior worth one pair at scale 1 and shift 0, so
  that separable labels have a finite optimum too. Temperature scaling: Guo et
  al., arXiv 1706.04599; Platt scaling has a shift as well, which corrects a
  labeler that favours a place.

  Args:
    labels: soft labels [n].
    human: human ones [n], 0, 1 or between.
    method: 'temperature' or 'platt'.

  Raises:
    ValueError: an unknown method, no labels or not one human label for each.
  """
  if method not in CALIBRATIONS:
    raise ValueError(
      f'unknown calibration {method!r}; use one of {CALIBRATIONS}'
    )
  p, y = _probabilities(labels), _probabilities(human)
  if p.shape != y.shape or p.ndim != 1 or not len(p):
    raise ValueError(f'{p.shape} labels and {y.shape} human labels')
  x = np.stack([_logit(p), np.full(len(p), float(method == 'platt'))], -1)
  prior = np.array([1.0, 0.0])

  def loss(w: np.ndarray) -> float:
    z = x @ w
    nll = np.logaddexp(0, z) - y * z
    return float(nll.sum() + 0.5 * ((w - prior) ** 2).sum())

  w = prior
  for _ in range(_MAX_STEPS):
    q = _sigmoid(x @ w)
    gradient = x.T @ (q - y) + (w - prior)
    hessian = (x * (q * (1 - q))[:, None]).T @ x + np.eye(2)
    step, size = np.linalg.solve(hessian, gradient), 1.0
    while loss(w - size * step) > loss(w) and size > 1e-8:
      size /= 2  # a whole Newton step may overshoot
    w = w - size * step
    if np.abs(gradient).max() < 1e-9 * len(p):
      break
  return Calibration(float(w[0]), float(w[1]))


def _probabilities(values: ArrayLike) -> np.ndarray:
  p = np.asarray(values, np.float64)
  if not np.all((p >= 0) & (p <= 1)):
    raise ValueError('labels must be probabilities in [0, 1]')
  return p


def _logit(p: np.ndarray) -> np.ndarray:
  p = np.clip(p, _CERTAIN, 1 - _CERTAIN)
  return np.log(p) - np.log1p(-p)


def _sigmoid(x: np.ndarray) -> np.ndarray:
  return 0.5 * (1 + np.tanh(x / 2))
