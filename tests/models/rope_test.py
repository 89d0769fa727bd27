import math

import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.models import Rope, rope


def test_frequencies():
  found = rope.inverse_frequencies(Rope(theta=100.0), 4)
  np.testing.assert_allclose(found, [1.0, 0.1])
  found = rope.inverse_frequencies(
    Rope(theta=100.0, scaling='linear', factor=4.0), 4
  )
  np.testing.assert_allclose(found, [0.25, 0.025])


def test_llama3_keeps_short_wavelengths_and_stretches_long_ones():
  settings = Rope(
    theta=10000.0, scaling='llama3', factor=8.0, original_max_positions=64
  )
  plain = rope.inverse_frequencies(Rope(theta=10000.0), 16)
  found = rope.inverse_frequencies(settings, 16)
  for was, now in zip(plain, found, strict=True):
    wavelength = 2 * math.pi / was
    if wavelength < 64 / 4:
      expected = was
    elif wavelength > 64 / 1:
      expected = was / 8
    else:  # as in the release of Llama 3.1
      smooth = (64 / wavelength - 1) / (4 - 1)
      expected = (1 - smooth) * was / 8 + smooth * was
    assert now == pytest.approx(expected, rel=1e-6)
  assert found[0] == plain[0]
  assert found[-1] == pytest.approx(plain[-1] / 8)


def test_rotation_by_hand():
  x = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0]).reshape(1, 1, 1, 5)
  table = (jnp.array([[[0.0, 1.0]]]), jnp.array([[[1.0, 0.0]]]))
  # Pairs (1, 3) by 90 degrees and (2, 4) by none; 5 is not rotated.
  found = rope.rotate(x, table).ravel()
  np.testing.assert_allclose(found, [-3.0, 2.0, 1.0, 4.0, 5.0])


def test_scores_depend_on_distance_alone():
  rng = np.random.default_rng(0)
  q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 8))) for _ in range(2))

  def score(i, j):
    turn = lambda x, p: rope.rotate(  # noqa: E731
      x, rope.angles(Rope(), 8, jnp.array([[p]]))
    )
    return float(jnp.sum(turn(q, i) * turn(k, j)))

  assert score(5, 3) == pytest.approx(score(12, 10), abs=1e-5)
  assert score(5, 3) != pytest.approx(score(5, 4), abs=1e-3)


@pytest.mark.parametrize(
  'config',
  [
    {'rope_theta': 5.0, 'rope_scaling': None},
    {'rope_parameters': {'rope_type': 'default', 'rope_theta': 5.0}},
    {'rope_theta': 5.0, 'rope_scaling': {'type': 'default'}},
  ],
)
def test_both_ways_of_writing_a_plain_rope(config):
  assert rope.from_hf(config) == Rope(theta=5.0)


def test_theta_defaults():
  assert rope.from_hf({}) == Rope(theta=10000.0)
  assert rope.from_hf({}, theta=1e6) == Rope(theta=1e6)


@pytest.mark.parametrize(
  'settings',
  [
    Rope(theta=7.0, fraction=0.5),
    Rope(scaling='linear', factor=2.0),
    Rope(scaling='llama3', factor=8.0, original_max_positions=32),
  ],
)
def test_round_trip(settings):
  assert rope.from_hf(rope.to_hf(settings)) == settings
