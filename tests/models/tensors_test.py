import numpy as np
import pytest

from rlaif_jax.models import tensors
from rlaif_jax.models.tensors import Tensor

D, H, K, h = 6, 4, 2, 3

# Each with the parameter's shape and NumPy's way of getting it from the file.
CASES = {
  'plain': (Tensor('w', 'D H'), (D, H), (D, H), lambda x: x),
  'transposed': (Tensor('w', 'H D', 'D H'), (D, H), (H, D), lambda x: x.T),
  'heads': (
    Tensor('w', 'H*h D', 'D H h'),
    (D, H, h),
    (H * h, D),
    lambda x: x.reshape(H, h, D).transpose(2, 0, 1),
  ),
  'fused_outside': (
    Tensor('w', 'D 3*H*h', 'D H h', part=1),
    (D, H, h),
    (D, 3 * H * h),
    lambda x: x.reshape(D, 3, H, h)[:, 1],
  ),
  'fused_inside': (
    Tensor('w', 'H*3*h D', 'D H h', part=2),
    (D, H, h),
    (H * 3 * h, D),
    lambda x: x.reshape(H, 3, h, D)[:, 2].transpose(2, 0, 1),
  ),
  'fused_unequal': (
    Tensor('w', 'H*h+K*h+K*h D', 'D K h', part=1, dims=(('H', H),)),
    (D, K, h),
    ((H + 2 * K) * h, D),
    lambda x: x[H * h : (H + K) * h].reshape(K, h, D).transpose(2, 0, 1),
  ),
  'one_row': (Tensor('w', '1 D', 'D'), (D,), (1, D), lambda x: x[0]),
  'one_number': (Tensor('w', '1', ''), (), (1,), lambda x: x[0]),
}


@pytest.fixture(params=CASES)
def case(request):
  tensor, shape, source, get = CASES[request.param]
  data = np.random.default_rng(0).normal(size=source)
  return tensor, shape, data, get(data)


def test_whole(case):
  tensor, shape, data, expected = case
  assert tensors.source_shape(tensor, shape) == data.shape
  index = (slice(None),) * len(shape)
  found = tensors.read(tensor, shape, index, lambda w: data[w])
  np.testing.assert_array_equal(found, expected)


def test_parts_read_little_more_than_they_need(case):
  tensor, shape, data, expected = case
  sizes = []

  def fetch(window):
    sizes.append(data[window].size)
    return data[window]

  rng = np.random.default_rng(1)
  for _ in range(20):
    index = []
    for n in shape:
      start, stop = sorted(rng.choice(n + 1, 2, replace=False))
      index.append(slice(int(start), int(stop)))
    found = tensors.read(tensor, shape, tuple(index), fetch)
    np.testing.assert_array_equal(found, expected[tuple(index)])
    # Rows of the first axis never bring others along.
    assert sizes.pop() * (index[0].stop - index[0].start if index else 1) <= (
      data.size * expected[tuple(index)].size
    )


def test_heads_are_read_alone():
  tensor, shape, source, _ = CASES['heads']
  windows = []

  def fetch(window):
    windows.append(window)
    return np.zeros(source)[window]

  index = (slice(None), slice(1, 3), slice(None))
  tensors.read(tensor, shape, index, fetch)
  assert windows == [(slice(h, 3 * h), slice(0, D))]


@pytest.mark.parametrize('name', [n for n in CASES if 'fused' not in n])
def test_write_is_the_inverse(name):
  tensor, _, source, get = CASES[name]
  data = np.random.default_rng(0).normal(size=source)
  expected = get(data)
  np.testing.assert_array_equal(tensors.write([(tensor, expected)]), data)


@pytest.mark.parametrize('source', ['D 3*H*h', 'H*3*h D'])
def test_write_fused(source):
  data = np.random.default_rng(0).normal(
    size=(D, 3 * H * h) if source[0] == 'D' else (3 * H * h, D)
  )
  parts = []
  for i in range(3):
    tensor = Tensor('w', source, 'D H h', part=i)
    index = (slice(None),) * 3
    value = tensors.read(tensor, (D, H, h), index, lambda w: data[w])
    parts.append((tensor, value))
  np.testing.assert_array_equal(tensors.write(parts), data)


def test_write_fused_of_unequal_sizes():
  data = np.random.default_rng(0).normal(size=(D, (H + 2 * K) * h))
  dims = (('H', H), ('K', K), ('h', h))
  parts = []
  for i, heads in enumerate('HKK'):
    source = 'D H*h+K*h+K*h'
    tensor = Tensor('w', source, f'D {heads} h', part=i, dims=dims)
    shape = (D, dict(dims)[heads], h)
    value = tensors.read(tensor, shape, (slice(None),) * 3, lambda w: data[w])
    assert value.shape == shape
    parts.append((tensor, value))
  np.testing.assert_array_equal(parts[2][1].ravel(), data[:, -K * h :].ravel())
  np.testing.assert_array_equal(tensors.write(parts), data)


def test_keys():
  assert Tensor('h.{}.n.{}').keys(1, 2, 5) == ['h.0.n.0', 'h.0.n.1']
  assert Tensor('h.{}.w').keys(2) == ['h.0.w', 'h.1.w']
  assert Tensor('w').keys(2) == ['w']
