"""Domains, ticks and their labels."""

import itertools
import math

import pytest

from rlaif_jax.report import axes


@pytest.mark.parametrize(
  ('low', 'high', 'expected'),
  [
    (0, 1, ['0.0', '0.2', '0.4', '0.6', '0.8', '1.0']),
    (0, 160, ['0', '50', '100', '150']),
    (-0.07, 0.12, ['-0.05', '0.00', '0.05', '0.10']),
    (0.6, 0.95, ['0.6', '0.7', '0.8', '0.9']),
    (9.9, 10.2, ['9.9', '10.0', '10.1', '10.2']),
    (0, 25_000, ['0k', '5k', '10k', '15k', '20k', '25k']),
    (1e-5, 5e-5, ['0.00001', '0.00002', '0.00003', '0.00004', '0.00005']),
  ],
)
def test_ticks(low, high, expected):
  assert axes.tick_labels(axes.ticks(low, high)) == expected


def test_percent_labels():
  values = axes.ticks(0.4, 0.65)
  assert axes.tick_labels(values, percent=True) == [
    '40%', '45%', '50%', '55%', '60%', '65%',
  ]  # fmt: skip
  assert axes.tick_labels([0.025, 0.05], percent=True) == ['2.5%', '5.0%']


def test_steps_are_whole():
  assert axes.ticks(1, 3, whole=True) == [1, 2, 3]
  assert axes.ticks(0.9, 1.1, whole=True) == [1]


@pytest.mark.parametrize('scale', [1e-30, 1e-3, 1, 7.3, 1e6, 1e30])
@pytest.mark.parametrize('count', [3, 4, 5, 8])
def test_there_are_some_ticks_and_not_many(scale, count):
  for shift in (0, 0.1, 0.37, -5, 100):
    values = axes.ticks(shift * scale, (shift + 1) * scale, count)
    assert 1 < len(values) <= count + 1
    gaps = [b - a for a, b in itertools.pairwise(values)]
    assert max(gaps) == pytest.approx(min(gaps))
    labels = axes.tick_labels(values)
    assert len(set(labels)) == len(labels)


def test_domain():
  assert axes.domain([1, 3]) == pytest.approx((0.9, 3.1))
  assert axes.domain([1, 3], pad=False) == (1, 3)
  assert axes.domain([1, math.nan, 3, math.inf], include=(5,)) == (
    pytest.approx((0.8, 5.2))
  )
  # Values that are all alike get a range around them.
  assert axes.domain([2, 2]) == pytest.approx((1.8, 2.2))
  assert axes.domain([0]) == (-0.5, 0.5)
  assert axes.domain([]) == axes.domain([math.nan]) == (0, 1)


def test_domain_keeps_shares_within_0_and_1():
  assert axes.domain([0.0, 0.99], limits=(0, 1)) == (0, 1)
  assert axes.domain([0.0, 1.4], limits=(0, 1)) == (0, 1.4)


def test_place():
  axis = axes.Axis(low=10, high=20, start=200, end=100)
  assert [axis.place(v) for v in (10, 15, 20)] == [200, 150, 100]
  assert axis.place(99) == 100  # at the end, not outside
