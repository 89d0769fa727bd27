"""Which rows make up which batch, as a pure function of (seed, step, host).

Nothing about the order is ever saved: a run that restarts at step t asks for
batch t and gets the one that it would have got.
"""

import concurrent.futures
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar('T')


@functools.lru_cache(maxsize=4)
def epoch_permutation(seed: int, epoch: int, n: int) -> np.ndarray:
  """Order of rows 0..n-1 in an epoch: [n] int64, read-only.

  The same on every machine; a test holds NumPy to it.
  """
  bits = np.random.Philox(np.random.SeedSequence([seed, epoch]))
  order = np.random.Generator(bits).permutation(n)
  order.flags.writeable = False
  return order


def host_share(
  batch_size: int, process_index: int, process_count: int
) -> np.ndarray:
  """Places in the batch that are this host's: [batch_size / hosts] int64.

  Raises:
    ValueError: hosts that do not divide the batch.
  """
  if batch_size % process_count:
    raise ValueError(
      f'a batch of {batch_size} rows cannot be shared by {process_count} '
      'hosts; make batch_size a multiple of the number of hosts'
    )
  share = batch_size // process_count
  return np.arange(process_index * share, (process_index + 1) * share)


def batch_indices(
  seed: int,
  step: int,
  batch_size: int,
  n: int,
  *,
  process_index: int = 0,
  process_count: int = 1,
) -> np.ndarray:
  """Rows of this host's share of batch `step`: [batch_size / hosts] int64.

  Epochs follow each other without a seam, each one a permutation of all rows;
  a batch may span two epochs, or more where n < batch_size. Hosts' shares in
  order of their index make up the batch that one host alone would get.

  Args:
    seed: another seed, another order.
    step: number of the batch, from 0.
    batch_size: rows of the batch over all hosts.
    n: rows of the data set.
    process_index: this host.
    process_count: number of hosts.

  Raises:
    ValueError: an empty data set, or hosts that do not divide the batch.
  """
  if n < 1:
    raise ValueError(
      'the data set is empty: there is no row to take a batch of'
    )
  share = host_share(batch_size, process_index, process_count)
  places = step * batch_size + share
  rows = np.empty(len(places), np.int64)
  for epoch in range(places[0] // n, places[-1] // n + 1):
    here = places // n == epoch
    rows[here] = epoch_permutation(seed, epoch, n)[places[here] % n]
  return rows


def eval_batches(
  n: int,
  batch_size: int,
  *,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """All rows in order, in batches of one size: (rows [b] int64, weights [b]).

  The last batch is filled up with row 0 at weight 0, so shapes never change
  and weighted sums come out exact. b = batch_size / hosts.

  Raises:
    ValueError: an empty data set, or hosts that do not divide the batch.
  """
  if n < 1:
    raise ValueError('the data set is empty: there is nothing to evaluate')
  share = host_share(batch_size, process_index, process_count)
  for start in range(0, n, batch_size):
    rows = start + share
    real = rows < n
    yield np.where(real, rows, 0), real.astype(np.float32)


def prefetch(fn: Callable[[int], T], depth: int = 2) -> Callable[[int], T]:
  """Makes `fn(step)` ahead of time, in a background thread.

  The result is called like `fn`, with steps in rising order from any start:
  while step t is in use, t+1 .. t+depth are being made. What `fn` raises is
  raised by the call for that step, unchanged.

  Args:
    fn: pure function of the step, such as the making of a batch.
    depth: how many steps to be ahead; each costs one batch of memory.
  """
  pool = concurrent.futures.ThreadPoolExecutor(1, 'prefetch')
  pending: dict[int, concurrent.futures.Future] = {}

  def get(step: int) -> T:
    for old in [s for s in pending if not step <= s <= step + depth]:
      pending.pop(old).cancel()
    for ahead in range(step, step + depth + 1):
      if ahead not in pending:
        pending[ahead] = pool.submit(fn, ahead)
    return pending.pop(step).result()

  return get


class _Steps:
  """Random-access source whose element t is the batch of step t."""

  def __init__(self, rows, make_batch, num_steps: int, indices):
    self._rows, self._make_batch = rows, make_batch
    self._num_steps, self._indices = num_steps, indices

  def __len__(self) -> int:
    return self._num_steps

  def __getitem__(self, step) -> Any:
    rows = [self._rows[int(i)] for i in self._indices(int(step))]
    return self._make_batch(rows)


def stream_batches(
  rows: Sequence,
  make_batch: Callable[[list], T],
  *,
  seed: int,
  batch_size: int,
  num_steps: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 8,
) -> Iterator[T]:
  """Batches of a set too large or too slow to hold, read by many threads.

  The order is that of `batch_indices`; only the reading is in parallel.

  Args:
    rows: anything with `len` and `[]`, read when needed, such as a TFDS data
      source. `[]` must be safe to call from several threads.
    make_batch: turns the rows of a batch into arrays.
    seed: of `batch_indices`, as are `batch_size` and the process arguments.
    batch_size: rows of a batch over all hosts.
    num_steps: where to end.
    start_step: where to begin, after a restart.
    process_index: this host.
    process_count: number of hosts.
    num_threads: batches being read at the same time.
  """
  import grain  # most of a second, and most runs hold their rows in memory

  indices = functools.partial(
    batch_indices,
    seed,
    batch_size=batch_size,
    n=len(rows),
    process_index=process_index,
    process_count=process_count,
  )
  source = _Steps(rows, make_batch, num_steps, indices)
  options = grain.ReadOptions(
    num_threads=num_threads, prefetch_buffer_size=num_threads
  )
  steps = grain.MapDataset.source(source)[start_step:]
  yield from steps.to_iter_dataset(options)
