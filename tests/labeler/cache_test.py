"""The cache: what it asks, what it gives back, and what lands on disk."""

import json
import math

import numpy as np
import pytest

from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.labeler import Counters, cache

LABELS = ('1', '2')
OPTIONS = dict(max_tokens=5, sampling=SamplingConfig(top_k=3), seed=1)


class Inner:
  """Answers at random, but the same to the same, and notes what it is asked."""

  def __init__(self, identity='model@weights'):
    self.identity = identity
    self.limit = 7
    self.counters = Counters(texts=5)
    self.asked = []

  def fits(self, text, room=0):
    return len(text) + room <= self.limit

  def score_texts(self, texts, labels, *, ids=None):
    self.asked.append((list(texts), list(labels), list(ids)))
    rows = [
      np.random.default_rng([*text.encode(), len(labels)]).normal(
        size=len(labels)
      )
      for text in texts
    ]
    return np.array(rows).astype(np.float32)

  def write(self, texts, *, max_tokens, sampling, seed=0, ids=None):
    self.asked.append((list(texts), max_tokens, sampling, seed, list(ids)))
    rows = zip(texts, ids, strict=True)
    return [f'{text} {name} {seed} é\n' for text, name in rows]


@pytest.fixture
def inner():
  return Inner()


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'cache' / 'labels.jsonl'


def test_hits_are_not_asked(inner, path):
  cached = cache.CachedLabeler(inner, path)
  first = cached.score_texts(['a', 'b'], LABELS, ids=['x', 'y'])
  assert inner.asked == [(['a', 'b'], ['1', '2'], ['x', 'y'])]
  # One call for what is new, in order, under its own names.
  got = cached.score_texts(['c', 'b', 'd', 'a'], LABELS, ids=list('pqrs'))
  assert inner.asked[1:] == [(['c', 'd'], ['1', '2'], ['p', 'r'])]
  np.testing.assert_array_equal(got[[3, 1]], first)
  np.testing.assert_array_equal(
    got, inner.score_texts(list('cbda'), LABELS, ids='1234')
  )
  assert got.dtype == np.float32
  count = len(inner.asked)
  cached.score_texts(['d', 'a'], LABELS)
  assert len(inner.asked) == count
  assert cached.cache_counters == cache.CacheCounters(hits=4, misses=4)
  assert cached.score_texts([], LABELS).shape == (0, 2)
  assert len(inner.asked) == count


def test_rows_keep_their_default_names(inner, path):
  cached = cache.CachedLabeler(inner, path)
  cached.score_texts(['a'], LABELS)
  cached.score_texts(['a', 'b'], LABELS)
  assert inner.asked[1] == (['b'], ['1', '2'], ['row 1'])


def test_what_makes_a_question(inner, path):
  cached = cache.CachedLabeler(inner, path)
  cached.score_texts(['a'], LABELS)
  cached.score_texts(['a'], ('2', '1'))
  cached.score_texts(['a'], ('1', '2', '3'))
  cached.score_texts(['a'], ('12',))
  assert cached.cache_counters.misses == 4
  texts = cached.write(['a'], ids=['x'], **OPTIONS)
  assert texts == ['a x 1 é\n']
  for change in (
    dict(seed=2),
    dict(ids=['y']),
    dict(max_tokens=6),
    dict(sampling=SamplingConfig(top_k=4)),
  ):
    cached.write(['a'], **{'ids': ['x'], **OPTIONS, **change})
  assert cached.cache_counters == cache.CacheCounters(hits=0, misses=9)
  assert cached.write(['a'], ids=['x'], **OPTIONS) == texts
  assert cached.cache_counters == cache.CacheCounters(hits=1, misses=9)
  assert cached.write(['a', 'a'], **OPTIONS) == [
    'a row 0 1 é\n', 'a row 1 1 é\n',
  ]  # fmt: skip


def test_a_repeated_text_is_asked_once(inner, path):
  cached = cache.CachedLabeler(inner, path)
  got = cached.score_texts(['a', 'b', 'a', 'a'], LABELS)
  assert inner.asked == [(['a', 'b'], ['1', '2'], ['row 0', 'row 1'])]
  np.testing.assert_array_equal(got[[0, 0, 0]], got[[0, 2, 3]])
  assert cached.cache_counters == cache.CacheCounters(hits=2, misses=2)
  assert len(path.read_text().splitlines()) == 2


def test_another_run_reads_what_the_first_wrote(inner, path):
  cached = cache.CachedLabeler(inner, path)
  texts = [chr(ord('a') + i) for i in range(20)]
  scores = cached.score_texts(texts, LABELS)
  written = cached.write(['a'], ids=['x'], **OPTIONS)
  again = Inner()
  cached = cache.CachedLabeler(again, path)
  got = cached.score_texts(texts, LABELS)
  assert got.dtype == np.float32
  assert got.tobytes() == scores.tobytes()
  assert cached.write(['a'], ids=['x'], **OPTIONS) == written
  assert not again.asked
  assert cached.cache_counters == cache.CacheCounters(hits=21, misses=0)
  other = Inner('model@other weights')
  cache.CachedLabeler(other, path).score_texts(texts, LABELS)
  assert len(other.asked[0][0]) == 20


def test_float32_survives_to_the_bit(path):
  """Sizes that decimal notation is easily wrong about."""

  class Extreme(Inner):
    def score_texts(self, texts, labels, *, ids=None):
      return np.array([values], np.float32)

  values = [-1e-45, -3.4028235e38, -0.1, np.nextafter(np.float32(-1), 0), -0.0]
  labels = list('abcde')
  one = cache.CachedLabeler(Extreme(), path).score_texts(['a'], labels)
  two = cache.CachedLabeler(Extreme(), path).score_texts(['a'], labels)
  assert one.tobytes() == np.array([values], np.float32).tobytes()
  assert two.tobytes() == one.tobytes()


def test_the_file_holds_no_question(inner, path):
  cached = cache.CachedLabeler(inner, path)
  cached.score_texts(['a secret post'], LABELS, ids=['secret id'])
  row = json.loads(path.read_text())
  assert row.keys() == {'key', 'logprobs'}
  assert len(row['key']) == 16
  assert 'secret' not in path.read_text()


def test_a_run_killed_while_it_wrote(inner, path):
  cached = cache.CachedLabeler(inner, path)
  cached.score_texts(['a', 'b', 'c'], LABELS)
  data = path.read_bytes()
  path.write_bytes(data[:-9])
  with pytest.warns(UserWarning, match='half-written'):
    cached = cache.CachedLabeler(inner, path)
  with pytest.warns(UserWarning, match='half-written'):
    cached.score_texts(['a', 'b', 'c'], LABELS)
  assert inner.asked[1] == (['c'], ['1', '2'], ['row 2'])
  assert path.read_bytes() == data


def test_nothing_is_kept_of_a_failed_call(inner, path):
  class Failing(Inner):
    def score_texts(self, texts, labels, *, ids=None):
      raise RuntimeError('gone')

  with pytest.raises(RuntimeError, match='gone'):
    cache.CachedLabeler(Failing(), path).score_texts(['a'], LABELS)
  assert not path.exists()
  cached = cache.CachedLabeler(inner, path)
  cached.score_texts(['a'], LABELS)
  assert cached.cache_counters == cache.CacheCounters(hits=0, misses=1)


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('{"prompt": "x"}', "no column 'key'"),
    ('{"key": "x"}', "no column 'text'"),
    ('{"key": "x", "logprobs": "y"}', 'logprobs should be a list of numbers'),
    ('{"key": ', 'not valid JSON'),
  ],
)
def test_another_file_is_refused(inner, tmp_path, line, message):
  path = tmp_path / 'labels.jsonl'
  good = '{"key": "a", "text": "b"}'
  path.write_text(f'{good}\n{line}\n{good}\n')
  with pytest.raises(ValueError, match=f'labels.jsonl:2: .*{message}'):
    cache.CachedLabeler(inner, path)


def test_the_rest_is_the_labelers(inner, path):
  cached = cache.CachedLabeler(inner, path)
  assert cached.limit == 7
  assert cached.identity == 'model@weights'
  assert cached.counters is inner.counters
  assert cached.fits('abcdefg')
  assert not cached.fits('abcdefg', room=1)


def test_processes_must_read_the_same(inner, path, monkeypatch):
  """The digests of two processes are compared; the first alone writes."""
  gathered = []

  def process_allgather(digest):
    gathered.append(np.array(digest))
    return np.stack([gathered[0], gathered[-1]])

  monkeypatch.setattr(cache.jax, 'process_count', lambda: 2)
  monkeypatch.setattr(
    cache.multihost_utils, 'process_allgather', process_allgather
  )
  cached = cache.CachedLabeler(inner, path)
  monkeypatch.setattr(cache.jax, 'process_index', lambda: 1)
  other = cache.CachedLabeler(Inner(), path)
  assert gathered[0].shape == (32,)
  got = other.score_texts(['a'], LABELS)
  assert not path.exists()
  assert other.score_texts(['a'], LABELS).tolist() == got.tolist()
  monkeypatch.setattr(cache.jax, 'process_index', lambda: 0)
  assert cached.score_texts(['a'], LABELS).tolist() == got.tolist()
  assert math.isfinite(json.loads(path.read_text())['logprobs'][0])
  with pytest.raises(ValueError, match=r'processes \[1\] read another cache'):
    cache.CachedLabeler(inner, path)
