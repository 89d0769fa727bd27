"""Panels, bands and calibration, by hand and on planted truths."""

import numpy as np
import pytest
from scipy import optimize, special

from rlaif_jax.labeler import combine

LABELS = [[0.9, 0.5, 0.2], [0.6, 0.7, 0.5], [0.4, 0.1, 0.1]]


def test_panels_by_hand():
  np.testing.assert_allclose(combine.panel(LABELS), [1.9 / 3, 1.3 / 3, 0.8 / 3])
  odds = [(9 * 1.5 / 1.5) ** (1 / 3), (7 / 3 / 9) ** (1 / 3)]
  np.testing.assert_allclose(
    combine.panel(LABELS, 'log_odds')[:2], [o / (1 + o) for o in odds]
  )
  np.testing.assert_allclose(
    combine.panel(LABELS, 'majority'), [2 / 3, 1 / 2, 1 / 6]
  )
  for method in combine.METHODS:
    np.testing.assert_allclose(
      combine.panel(LABELS, method)
      + combine.panel(1 - np.array(LABELS), method),
      1.0,
    )
    assert np.isfinite(combine.panel([[0.0, 1.0]], method)).all()


def test_undecided_labels():
  labels = [0.5, 0.55, 0.6, 0.44]
  assert combine.undecided(labels, 0.0).tolist() == [False] * 4
  assert combine.undecided(labels, 0.055).tolist() == [True, True, False, False]
  with pytest.raises(ValueError, match='band=0.5'):
    combine.undecided(labels, 0.5)


def planted(scale, shift, n=20000):
  rng = np.random.default_rng(0)
  p = rng.uniform(0.02, 0.98, n)
  truth = special.expit(scale * special.logit(p) + shift)
  return p, (rng.random(n) < truth).astype(float), truth


@pytest.mark.parametrize(
  ('method', 'scale', 'shift'),
  [('temperature', 0.4, 0.0), ('platt', 0.7, -0.5), ('platt', 2.0, 1.0)],
)
def test_calibration_finds_a_planted_one(method, scale, shift):
  p, human, truth = planted(scale, shift)
  found = combine.calibrate(p, human, method)
  assert found.scale == pytest.approx(scale, abs=0.08)
  assert found.shift == pytest.approx(shift, abs=0.08)
  np.testing.assert_allclose(found(p), truth, atol=0.03)


def test_calibration_is_the_optimum():
  p, human, _ = planted(0.5, 0.3, n=200)
  z = special.logit(p)

  def loss(w):
    nll = np.logaddexp(0, w[0] * z + w[1]) - human * (w[0] * z + w[1])
    return nll.sum() + 0.5 * ((w[0] - 1) ** 2 + w[1] ** 2)

  best = optimize.minimize(loss, [1.0, 0.0], tol=1e-12).x
  found = combine.calibrate(p, human, 'platt')
  np.testing.assert_allclose([found.scale, found.shift], best, atol=1e-5)
  at_zero = optimize.minimize_scalar(lambda a: loss([a, 0.0])).x
  assert combine.calibrate(p, human).scale == pytest.approx(at_zero, abs=1e-5)
  assert combine.calibrate(p, human).shift == 0


def test_separable_labels_stay_finite():
  found = combine.calibrate([0.0, 1.0, 0.9, 0.2], [0, 1, 1, 0], 'platt')
  assert np.isfinite([found.scale, found.shift]).all()
  assert found.scale > 1


def test_wrong_input():
  with pytest.raises(ValueError, match='unknown way to combine'):
    combine.panel(LABELS, 'median')
  with pytest.raises(ValueError, match=r'labels \[L, n\]'):
    combine.panel([0.5])
  with pytest.raises(ValueError, match='unknown calibration'):
    combine.calibrate([0.5], [1], 'isotonic')
  with pytest.raises(ValueError, match=r'in \[0, 1\]'):
    combine.calibrate([1.5], [1])
  with pytest.raises(ValueError, match='human labels'):
    combine.calibrate([0.5], [1, 0])
