"""The Labeler: batches, boundaries, order and errors."""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from rlaif_jax import sharding
from rlaif_jax.inference import packing, score
from rlaif_jax.labeler import Counters, prompts
from rlaif_jax.labeler.in_mesh import InMeshLabeler

SCORES = tuple(map(str, range(1, 11)))


def make_texts(count):
  """Prompts of very different lengths, in no order."""
  rng = np.random.default_rng(0)
  letters = np.array(list('the cat sat on a mat. '))
  return [
    ''.join(rng.choice(letters, size)) + '\n\nSCORE='
    for size in rng.integers(1, 200, count)
  ]


label_logprobs = jax.jit(score.label_logprobs, static_argnums=(0, 3))


def naive(labeler, text, labels):
  """One text, its true boundary, nothing shared."""
  encode = labeler.tokenizer.encode
  found = score.labels_to_tokens(encode, text, labels)
  ids = encode(text)
  row = ids[: len(ids) - found.drop]
  length = len(row) + score.label_room(found.tokens)
  batch = packing.pack(
    [row], [packing.Tree((0,), 0)], 0, found.tokens, length, 0
  )
  return np.asarray(
    label_logprobs(labeler.model, labeler.params, batch, found.tokens)
  )[0, 0]


def test_results_come_in_input_order(labeler):
  texts = make_texts(11)
  labeler = dataclasses.replace(labeler, counters=Counters())
  got = labeler.score_texts(texts, SCORES)
  assert got.shape == (11, 10)
  assert got.dtype == np.float32
  for i in (0, 4, 10):
    np.testing.assert_allclose(
      got[i], naive(labeler, texts[i], SCORES), atol=2e-5
    )
  assert (np.exp(got).sum(1) <= 1 + 1e-5).all()
  assert labeler.counters.texts == 11
  assert labeler.counters.tokens == sum(
    len(labeler.tokenizer.encode(t)) for t in texts
  )
  assert labeler.counters.seconds > 0


def test_the_batch_changes_nothing(labeler):
  texts = make_texts(9)
  whole = labeler.score_texts(texts, SCORES)
  for size in (1, 4):
    other = dataclasses.replace(labeler, batch_size=size)
    np.testing.assert_allclose(
      other.score_texts(texts, SCORES), whole, atol=1e-5
    )
  np.testing.assert_allclose(
    labeler.score_texts(texts[3:4], SCORES), whole[3:4], atol=1e-5
  )
  assert labeler.score_texts([], SCORES).shape == (0, 10)


@dataclasses.dataclass(frozen=True)
class MergingTokenizer:
  """A character a token, save for ')=1' and '=1'; ids are code points."""

  pad_id: int = 0

  def encode(self, text):
    ids = [2]
    while text:
      size = 3 if text.startswith(')=1') else 2 if text.startswith('=1') else 1
      ids.append({3: 3, 2: 4}.get(size, ord(text[0])))
      text = text[size:]
    return ids

  def encode_batch(self, texts):
    return [self.encode(t) for t in texts]


def test_rows_with_another_boundary_are_told_apart(labeler):
  """The text before the last line merges with it in one of the rows."""
  labeler = dataclasses.replace(labeler, tokenizer=MergingTokenizer())
  texts = ['a cat\nBest=', 'a (cat\nBest)=', 'dog\nBest=', 'Best=', 'x\n=']
  rows, groups = labeler._encode(texts, ('1', '2'), texts)
  plain, merged = ((4,), (ord('='), 50)), ((3,), (ord(')'), ord('='), 50))
  assert groups == {plain: [0, 2, 3, 4], merged: [1]}
  assert rows[1] == labeler.tokenizer.encode('a (cat\nBest')
  got = labeler.score_texts(texts, ('1', '2'))
  for i, text in enumerate(texts):
    np.testing.assert_allclose(
      got[i], naive(labeler, text, ('1', '2')), atol=2e-5
    )


def test_a_boundary_that_the_last_line_hides(labeler):
  """The last line alone says one thing, the whole text another."""

  class Sticky(MergingTokenizer):
    def encode(self, text):
      if '\n=1' in text:
        head, tail = text.split('\n=1')
        return [*super().encode(head), 5, *map(ord, tail)]
      return super().encode(text)

  labeler = dataclasses.replace(labeler, tokenizer=Sticky())
  texts = ['x\n=', 'x =']
  rows, groups = labeler._encode(texts, ('1', '2'), texts)
  assert groups == {((5,), (10, 61, 50)): [0], ((4,), (61, 50)): [1]}
  assert rows == [[2, ord('x')], [2, ord('x'), ord(' ')]]


def test_shipped_prompts_end_where_labels_begin(labeler):
  """No shipped prompt gives tokens up, so the tiny world trains on the same."""
  for name in prompts.prompt_names():
    prompt = prompts.load_prompt(name)
    found = score.labels_to_tokens(
      labeler.tokenizer.encode, prompt.ending, prompt.labels
    )
    assert found.drop == 0, name
    for label, tokens in zip(prompt.labels, found.tokens, strict=True):
      assert list(tokens) == labeler.tokenizer.encode_plain(label)


@pytest.mark.multidevice
def test_the_mesh_changes_nothing(labeler):
  texts = make_texts(5)
  one = labeler.score_texts(texts, SCORES)
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  with jax.set_mesh(mesh):
    where = sharding.shardings(
      labeler.model.param_axes(), labeler.model.abstract_params(), mesh
    )
    many = dataclasses.replace(
      labeler, params=jax.device_put(labeler.params, where)
    ).score_texts(texts, SCORES)
  np.testing.assert_allclose(many, one, atol=1e-5)


def run_processes(repo, count):
  """What each of `count` processes gives for the same texts."""
  with socket.socket() as s:
    s.bind(('localhost', 0))
    port = s.getsockname()[1]
  script = str(pathlib.Path(__file__).with_name('one_process.py'))
  running = [
    subprocess.Popen(
      [sys.executable, script, str(port), str(count), str(index)],
      env={**os.environ, 'PYTHONPATH': str(repo)},
      stdout=subprocess.PIPE,
      text=True,
    )
    for index in range(count)
  ]
  lines = [process.communicate(timeout=180)[0] for process in running]
  return [np.array(json.loads(line.splitlines()[-1])) for line in lines]


@pytest.mark.slow
@pytest.mark.multidevice
def test_every_process_gets_all_results(repo):
  (one,) = run_processes(repo, 1)
  for many in run_processes(repo, 2):
    np.testing.assert_allclose(many, one, atol=1e-5)


def test_a_prompt_that_is_too_long_is_named(labeler):
  texts = ['short=', 'word ' * 300 + '=']
  assert [labeler.fits(t) for t in texts] == [True, False]
  with pytest.raises(ValueError, match='post-7: its prompt has 60. tokens'):
    labeler.score_texts(texts, ('1', '2'), ids=['post-1', 'post-7'])


def test_limit_and_default_lengths(labeler):
  free = InMeshLabeler(labeler.model, labeler.params, labeler.tokenizer)
  assert free.limit == 504  # the model's 512, less room for a label
  assert (free._lengths()[0], free._lengths()[-1]) == (32, 504)
  assert labeler._lengths() == (128, 256)
  assert dataclasses.replace(labeler, max_tokens=100).limit == 100


def test_values_that_are_not_finite_are_named(labeler):
  """A tokenizer of another model has ids outside the table: NaN."""
  other = dataclasses.replace(labeler, tokenizer=MergingTokenizer())
  with pytest.raises(ValueError, match=r"row-b: .* nan as log-prob of '1'"):
    other.score_texts(
      ['fine\n:', '\u2026\n:'], ('1', '2'), ids=['row-a', 'row-b']
    )
