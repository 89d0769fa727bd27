"""What prompts share, found in token ids; and that sharing changes nothing."""

import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import models, sharding
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.inference import packing, score
from rlaif_jax.labeler import prompts, template
from rlaif_jax.models import hf, shared

SCORES = (*((d,) for d in range(10, 19)), (10, 19))  # "1" to "9", "10"
NESTED = ((1,), (1, 2), (1, 2, 3), (1, 4), (5, 2, 6), (7,))
FIXTURES = pathlib.Path(__file__).parents[1] / 'models' / 'fixtures'
# Learned and rotary positions, windows of 4, soft caps, q/k norms.
FAMILIES = (
  'llama',
  'gpt2',
  'gpt_neo',
  'mistral',
  'gemma2',
  'gemma3_text',
  'gpt_neox',
  'opt',
)


def make_rows(posts=3, prefix=17, post=18, own=6, seed=0):
  """Both orders of some pairs: prefix, post, own tokens of varying length."""
  rng = np.random.default_rng(seed)

  def ids(mean):
    return rng.integers(0, 64, mean + int(rng.integers(0, 4))).tolist()

  head = ids(prefix)
  rows = []
  for _ in range(posts):
    middle = ids(post)
    rows += [head + middle + [order, *ids(own)] for order in (1, 2)]
  return rows


@functools.cache
def load(family):
  return hf.load(FIXTURES / family)


_prefill = jax.jit(score.prefill, static_argnums=0)
_logprobs = jax.jit(score.label_logprobs, static_argnums=(0, 3))


def run(model, params, rows, trees, start, labels, mesh=None):
  """Log-probs [n, N] of the rows of trees that have the same size."""
  room = len(trees[0].members) * score.label_room(labels)
  longest = max(packing.tree_length(rows, tree, start) for tree in trees)
  batch = packing.pack(rows, trees, start, labels, longest + room + 3, 0)
  prefix = None
  if start:
    # More slots than tokens, as a bucket has.
    tokens = np.zeros((1, start + 5), np.int32)
    tokens[0, 5:] = rows[trees[0].members[0]][:start]
    prefix = (tokens, np.arange(start + 5)[None] >= 5)
    if mesh is not None:
      prefix = sharding.replicate(prefix, mesh)
    prefix = _prefill(model, params, *prefix)
  if mesh is not None:
    batch = sharding.shard_batch(batch, mesh)
  got = sharding.to_host(_logprobs(model, params, batch, labels, prefix))
  result = np.full((len(rows), len(labels)), np.nan, np.float32)
  for tree, values in zip(trees, got, strict=True):
    result[list(tree.members)] = values
  return result


def alone(model, params, rows, labels):
  trees = [packing.Tree((i,), 0) for i in range(len(rows))]
  return run(model, params, rows, trees, 0, labels)


def paired(rows):
  """(length of the prefix, trees) as the labeler finds them."""
  ((start, ordered),) = packing.clusters(rows, range(len(rows)), 64)
  return start, packing.trees(rows, ordered, start, 512)


@pytest.mark.parametrize('family', FAMILIES)
def test_sharing_changes_nothing(family):
  model, params = load(family)
  rows = make_rows()
  start, trees = paired(rows)
  assert start >= 17
  assert [len(tree.members) for tree in trees] == [2, 2, 2]
  want = np.exp(alone(model, params, rows, SCORES))
  assert np.ptp(want, axis=0).max() > 1e-3
  # "10" is no part of "1", and nothing is counted twice.
  assert (want.sum(1) <= 1 + 1e-6).all()
  got = np.exp(run(model, params, rows, trees, start, SCORES))
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_sharing_one_of_the_two():
  """The prefix alone, and the post alone."""
  model, params = load('gpt_neo')
  rows = make_rows()
  start, trees = paired(rows)
  want = np.exp(alone(model, params, rows, SCORES))
  single = [packing.Tree((i,), start) for i in range(len(rows))]
  for first, how in ((start, single), (0, trees)):
    got = np.exp(run(model, params, rows, how, first, SCORES))
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize('labels', [((1,), (2,)), NESTED])
def test_labels_of_any_shape(labels):
  """Against teacher forcing of each label by itself."""
  model, params = load('llama')
  rows = make_rows(2)
  start, trees = paired(rows)
  got = np.exp(run(model, params, rows, trees, start, labels))
  forward = jax.jit(lambda p, t: jax.nn.log_softmax(model.apply(p, t).logits))
  want = np.zeros(got.shape)
  for i, row in enumerate(rows):
    tokens = np.zeros((len(labels), 64), np.int32)
    for j, label in enumerate(labels):
      tokens[j, : len(row) + len(label)] = [*row, *label]
    logp = np.asarray(forward(params, tokens))
    for j, label in enumerate(labels):
      at = len(row) - 1 + np.arange(len(label))
      want[i, j] = np.exp(logp[j, at, list(label)].sum())
  if labels == NESTED:
    # (1) without (1, 2) and (1, 4), and (1, 2) without (1, 2, 3).
    want[:, 0] -= want[:, 1] + want[:, 3]
    want[:, 1] -= want[:, 2]
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_batch_changes_nothing():
  model, params = load('gpt_neo')
  rows = make_rows(4)
  start, trees = paired(rows)
  whole = run(model, params, rows, trees, start, SCORES)
  part = run(model, params, rows, trees[2:], start, SCORES)
  seen = ~np.isnan(part)
  assert seen.sum() == 4 * len(SCORES)
  np.testing.assert_allclose(part[seen], whole[seen], atol=1e-5)


@pytest.mark.parametrize('room', [1, 30_000])
def test_rows_in_steps(monkeypatch, room):
  """However many rows' scores are held at once."""
  model, params = load('gemma2')
  rows = make_rows(4)
  start, trees = paired(rows)
  want = alone(model, params, rows, SCORES)
  monkeypatch.setattr(shared, '_SCORES', {'cpu': room})
  jax.clear_caches()
  got = run(model, params, rows, trees, start, SCORES)
  np.testing.assert_allclose(np.exp(got), np.exp(want), atol=1e-5)


@pytest.mark.parametrize('order', ['bskh', 'skbh'])
def test_any_layout_of_the_cache(order):
  model, params = load('llama')
  rows = make_rows()
  start, trees = paired(rows)
  want = run(model, params, rows, trees, start, SCORES)
  model = models.with_options(model, cache_layout=order)
  got = run(model, params, rows, trees, start, SCORES)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_prefix_is_not_copied_per_row():
  """Scoring more rows takes more memory for what is theirs alone."""
  model, _ = load('llama')
  params, start, length = model.abstract_params(), 4096, 16
  cache = jax.eval_shape(lambda: model.init_cache(1, start))

  def memory(rows):
    shape = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    at = jax.ShapeDtypeStruct((rows, 1, 1), jnp.int32)
    batch = score.LabelBatch(shape, shape, at)
    lowered = _logprobs.lower(model, params, batch, ((1,), (2,)), cache)
    return lowered.compile().memory_analysis().temp_size_in_bytes

  # One row's copy of the keys and values of one layer.
  copy = 2 * 4 * cache.keys.size // model.config.num_layers
  assert memory(64) - memory(32) < 0.25 * 32 * copy


@pytest.mark.multidevice
def test_the_mesh_changes_nothing():
  model, params = load('gpt_neo')
  rows = make_rows(8)
  start, trees = paired(rows)
  want = alone(model, params, rows, SCORES)
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  with jax.set_mesh(mesh):
    where = sharding.shardings(
      model.param_axes(), model.abstract_params(), mesh
    )
    params = jax.device_put(params, where)
    got = run(model, params, rows, trees, start, SCORES, mesh)
  np.testing.assert_allclose(np.exp(got), np.exp(want), atol=1e-5)


# -- what is shared -----------------------------------------------------------


def test_clusters_by_what_rows_begin_with():
  head = list(range(100, 130))
  shown = [*head, *[200 + i % 7 for i in range(40)]]
  with_exemplars = [[*shown, 1, i] for i in range(4)]
  without = [[*head, 2, i] for i in range(3)]
  rows = [with_exemplars[0], *without, *with_exemplars[1:]]
  # Four rows fill a batch of four: they have a prefix of their own.
  found = dict(packing.clusters(rows, range(7), 4))
  assert found == {71: [0, 4, 5, 6], 31: [1, 2, 3]}
  assert dict(packing.clusters(rows, range(7), 5)) == {
    30: [1, 2, 3, 0, 4, 5, 6]
  }
  assert packing.clusters(rows, [2], 4) == [(0, [2])]
  assert packing.clusters(rows, [], 4) == []


def test_little_in_common_is_not_shared():
  rows = [[1, 2, 3, i, *range(40)] for i in range(5)]
  assert packing.clusters(rows, range(5), 2) == [(0, [0, 1, 2, 3, 4])]


def test_equal_rows_keep_a_token_each():
  rows = [list(range(40))] * 4
  ((start, ordered),) = packing.clusters(rows, range(4), 2)
  assert (start, ordered) == (39, [0, 1, 2, 3])
  trees = packing.trees(rows, ordered, start, 64)
  assert [tree.members for tree in trees] == [(0,), (1,), (2,), (3,)]
  begin = [list(range(40)), list(range(39))]
  ((start, _),) = packing.clusters(begin, range(2), 9)
  assert start == 38


def test_a_row_waits_for_its_nearest():
  """A stranger that comes first in order does not break pairs up."""
  post = [5] * 20
  rows = [[*post, 0, 1], [*post, 7, *range(20), 1], [*post, 7, *range(20), 2]]
  trees = packing.trees(rows, [0, 1, 2], 0, 512)
  assert trees == [packing.Tree((0,), 0), packing.Tree((1, 2), 41)]


@pytest.mark.parametrize(
  ('post', 'own', 'longest', 'size'),
  [(40, 20, 512, 2), (40, 90, 512, 1), (12, 3, 512, 1), (40, 20, 70, 1)],
)
def test_pairs_must_be_worth_it_and_fit(post, own, longest, size):
  rows = [[*range(post), i, *range(own)] for i in (1, 2)]
  trees = packing.trees(rows, [0, 1], 0, longest)
  assert {len(tree.members) for tree in trees} == {size}


def test_a_tree_by_hand():
  rows = [[9, 9, 1, 2, 3], [9, 9, 1, 4]]
  batch = packing.pack(
    rows, [packing.Tree((0, 1), 3)], 2, ((7, 5), (7, 6, 8), (8,)), 10, 0
  )
  #        shared 1 | 2 3 | 7 7,6 | 4 | 7 7,6 | padding
  np.testing.assert_array_equal(batch.tokens, [[1, 2, 3, 7, 6, 4, 7, 6, 0, 0]])
  np.testing.assert_array_equal(batch.ends, [[8, 5, 5, 5, 5, 8, 8, 8, 0, 0]])
  np.testing.assert_array_equal(batch.at, [[[2, 3, 4], [5, 6, 7]]])


def path(batch, tree, member):
  """Tokens that the last one of a member of a tree sees, its own included."""
  at = batch.at[tree, member, 0]
  seen = batch.ends[tree, : at + 1] > at
  return batch.tokens[tree, : at + 1][seen].tolist()


@pytest.mark.parametrize(
  'name',
  [
    'tokenizers/gpt2',
    'tokenizers/mistral-v1',
    'tokenizers/t5-cc-32k',
    'stories260k/tok512.model',
  ],
)
def test_every_row_sees_the_ids_of_its_whole_text(shared_data, name):
  """Byte-level BPE and SentencePiece merge across where texts part."""
  encode = load_tokenizer(shared_data / name).encode
  prompt = prompts.load_prompt('summary_detailed')
  candidates = (
    ('the cat', 'them all'), ('1', '10'), ('', 'é x'), ('un', 'under it'),
  )  # fmt: skip
  texts = []
  for i, pair in enumerate(candidates):
    fields = {'text': f'POST: {i} cats sat on a mat all day. ' * 5}
    texts += [
      template.render(prompt, fields, pair, order=order)
      for order in ((0, 1), (1, 0))
    ]
  rows = [encode(text) for text in texts]
  start, trees = paired(rows)
  assert start > 100
  assert [len(tree.members) for tree in trees] == [2] * len(candidates)
  batch = packing.pack(rows, trees, start, ((1,), (2, 3)), 2048, 0)
  for b, tree in enumerate(trees):
    for m, i in enumerate(tree.members):
      assert rows[i][:start] + path(batch, b, m) == rows[i]
  # Split where its text parts from the other's, some row would have other ids.
  apart = [encode(os.path.commonprefix(texts[i : i + 2])) for i in (0, 2, 4, 6)]  # noqa: RUF071
  assert any(
    row[: len(ids)] != ids
    for i, ids in enumerate(apart)
    for row in rows[2 * i : 2 * i + 2]
  )
