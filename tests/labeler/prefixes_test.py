"""What prompts begin with is read once."""

import dataclasses

import jax
import numpy as np

from rlaif_jax import sharding
from rlaif_jax.labeler import Counters, prefixes


def _get(labeler, *rows):
  found = prefixes.Prefixes(
    labeler.model, labeler.params, labeler.tokenizer.pad_id, (16, 128)
  )
  return found, [found.get(row) for row in rows]


def test_a_prefix_is_kept(labeler):
  keep, (one, same) = _get(labeler, [5, 6, 7], (5, 6, 7))
  assert one is same
  assert np.asarray(one.mask).sum() == 3
  assert keep.get([]) is None


def test_the_latest_two_are_kept(labeler):
  keep, (one, two) = _get(labeler, [5, 6], [7, 8])
  assert keep.get([5, 6]) is one
  keep.get([9])  # takes the place of the second, which was asked for before
  assert keep.get([5, 6]) is one
  assert keep.get([7, 8]) is not two


def test_another_mesh_gets_its_own(labeler):
  keep, (one,) = _get(labeler, [5, 6])
  with jax.set_mesh(sharding.make_mesh(devices=jax.devices()[:1])):
    other = keep.get([5, 6])
  assert other is not one
  np.testing.assert_array_equal(other.keys, one.keys)


def test_texts_of_later_calls_find_it(labeler, monkeypatch):
  calls = []
  prefill = prefixes._prefill
  monkeypatch.setattr(
    prefixes, '_prefill', lambda *x: calls.append(1) or prefill(*x)
  )
  labeler = dataclasses.replace(labeler, counters=Counters())
  texts = [f'{"the cat sat on a mat. " * 3}{end} SCORE=' for end in 'abcd']
  alone = [labeler.score_texts(texts[i : i + 2], ('1', '2')) for i in (0, 2)]
  assert len(calls) == 1
  fresh = dataclasses.replace(labeler).score_texts(texts, ('1', '2'))
  assert len(calls) == 2
  np.testing.assert_allclose(np.concatenate(alone), fresh, atol=2e-5)
