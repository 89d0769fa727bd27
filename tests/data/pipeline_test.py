import threading

import numpy as np
import pytest

from rlaif_jax.data import pipeline


def test_epochs_are_permutations_and_differ():
  orders = [pipeline.epoch_permutation(0, epoch, 50) for epoch in range(3)]
  for order in orders:
    np.testing.assert_array_equal(np.sort(order), np.arange(50))
  assert not np.array_equal(orders[0], orders[1])
  other_seed = pipeline.epoch_permutation(1, 0, 50)
  assert not np.array_equal(orders[0], other_seed)


def test_order_is_fixed_for_ever():
  # A change here would silently break the resuming of every old run.
  np.testing.assert_array_equal(
    pipeline.epoch_permutation(7, 2, 8), [4, 7, 6, 1, 5, 0, 3, 2]
  )


@pytest.mark.parametrize('batch_size', [1, 4, 5, 7, 16])
def test_batches_cover_each_epoch_once(batch_size):
  n, steps = 7, 28
  rows = np.concatenate(
    [pipeline.batch_indices(3, s, batch_size, n) for s in range(steps)]
  )
  for epoch in range(len(rows) // n):
    part = np.sort(rows[epoch * n : (epoch + 1) * n])
    np.testing.assert_array_equal(part, np.arange(n))


def test_a_batch_does_not_depend_on_what_came_before():
  first = pipeline.batch_indices(3, 5, 4, 6)
  pipeline.epoch_permutation.cache_clear()
  np.testing.assert_array_equal(first, pipeline.batch_indices(3, 5, 4, 6))


@pytest.mark.parametrize('hosts', [1, 2, 4])
def test_hosts_share_the_batch_of_one_host(hosts):
  shares = [
    pipeline.batch_indices(0, 2, 8, 11, process_index=i, process_count=hosts)
    for i in range(hosts)
  ]
  assert {len(s) for s in shares} == {8 // hosts}
  np.testing.assert_array_equal(
    np.concatenate(shares), pipeline.batch_indices(0, 2, 8, 11)
  )


def test_bad_batches():
  with pytest.raises(ValueError, match='data set is empty'):
    pipeline.batch_indices(0, 0, 4, 0)
  with pytest.raises(ValueError, match='6 rows cannot be shared by 4 hosts'):
    pipeline.batch_indices(0, 0, 6, 10, process_count=4)
  with pytest.raises(ValueError, match='nothing to evaluate'):
    next(pipeline.eval_batches(0, 4))
  with pytest.raises(ValueError, match='cannot be shared'):
    next(pipeline.eval_batches(9, 6, process_count=4))


def test_eval_batches_pad_the_last_one_with_weight_zero():
  (rows, weights), (last, last_weights) = pipeline.eval_batches(5, 4)
  np.testing.assert_array_equal(rows, [0, 1, 2, 3])
  np.testing.assert_array_equal(weights, np.ones(4))
  np.testing.assert_array_equal(last, [4, 0, 0, 0])
  np.testing.assert_array_equal(last_weights, [1, 0, 0, 0])


def test_eval_batches_over_hosts():
  both = [
    list(pipeline.eval_batches(5, 4, process_index=i, process_count=2))
    for i in range(2)
  ]
  seen = [r for host in both for rows, w in host for r in rows[w > 0]]
  assert sorted(seen) == [0, 1, 2, 3, 4]
  assert {len(rows) for host in both for rows, _ in host} == {2}


def test_prefetch_is_ahead_in_another_thread():
  made, threads = {}, set()
  third = threading.Event()

  def fn(step):
    threads.add(threading.get_ident())
    made[step] = True
    if step == 12:
      third.set()
    return step * 10

  get = pipeline.prefetch(fn, depth=2)
  assert get(10) == 100
  assert third.wait(10)  # 11 and 12 are made while 10 is in use
  assert [get(11), get(12)] == [110, 120]
  assert threading.get_ident() not in threads


def test_prefetch_follows_a_jump():
  get = pipeline.prefetch(lambda step: -step)
  assert [get(0), get(5), get(6), get(2)] == [0, -5, -6, -2]


def test_prefetch_raises_the_error_of_its_step():
  def fn(step):
    if step == 2:
      raise ValueError('row 17: broken')
    return step

  get = pipeline.prefetch(fn)
  assert [get(0), get(1)] == [0, 1]
  with pytest.raises(ValueError, match='row 17: broken'):
    get(2)
  assert get(3) == 3


def test_stream_batches_follows_the_same_order():
  rows = list('abcdefg')
  streamed = pipeline.stream_batches(
    rows,
    ''.join,
    seed=5,
    batch_size=3,
    num_steps=6,
    start_step=2,
    num_threads=2,
  )
  expected = [
    ''.join(rows[i] for i in pipeline.batch_indices(5, step, 3, 7))
    for step in range(2, 6)
  ]
  assert list(streamed) == expected


def test_stream_batches_raises_what_reading_raises():
  def broken(rows):
    raise ValueError(f'cannot read {len(rows)} rows')

  streamed = pipeline.stream_batches(
    [1, 2], broken, seed=0, batch_size=2, num_steps=1, num_threads=1
  )
  with pytest.raises(ValueError, match='cannot read 2 rows'):
    list(streamed)
