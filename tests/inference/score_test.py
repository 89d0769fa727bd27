"""Label strings and responses against teacher forcing of whole strings."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax import models, sharding
from rlaif_jax.core.types import Rollout
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.inference import packing, score
from rlaif_jax.models.heads import ScalarModel

V, T = 24, 6
SCORES = (*((d,) for d in range(10, 19)), (10, 19))  # "1" to "9", "10"


def left_padded(lengths, width=T, seed=0):
  tokens = np.full((len(lengths), width), 7, np.int32)
  mask = np.zeros((len(lengths), width), bool)
  for i, length in enumerate(lengths):
    row = np.random.default_rng([seed, i]).integers(0, V, length)
    tokens[i, width - length :], mask[i, width - length :] = row, True
  return tokens, mask


_jitted = jax.jit(score.label_logprobs, static_argnums=(0, 3))


def packed(tokens, mask, labels, extra=0):
  """Each prompt a tree of its own, right-padded by `extra` more slots."""
  rows = [t[m].tolist() for t, m in zip(tokens, mask, strict=True)]
  return packing.pack(
    rows,
    [packing.Tree((i,), 0) for i in range(len(rows))],
    0,
    labels,
    tokens.shape[1] + score.label_room(labels) + extra,
    7,
  )


def label_logprobs(model, params, tokens, mask, labels, extra=0):
  batch = packed(tokens, mask, labels, extra)
  return _jitted(model, params, batch, labels)[:, 0]


sequence_logprobs = jax.jit(score.sequence_logprobs, static_argnums=0)


def string_logprob(model, params, tokens, mask, label):
  """Sum of the log-probs of a label's tokens, one full forward pass."""
  rows = len(tokens)
  both = np.concatenate([tokens, np.tile(label, (rows, 1))], 1)
  real = np.concatenate([mask, np.ones((rows, len(label)), bool)], 1)
  target = np.zeros_like(real)
  target[:, -len(label) :] = True
  return np.asarray(
    sequence_logprobs(model, params, both.astype(np.int32), real, target)
  )


@pytest.mark.parametrize(
  'labels',
  [
    ((1,), (2,)),
    ((1, 2), (1, 3), (4,)),
    ((1, 2, 3), (1, 2, 4), (5, 2, 3), (6, 2)),
  ],
)
def test_equals_teacher_forcing(tiny, labels):
  tokens, mask = left_padded((6, 1, 4))
  got = label_logprobs(*tiny, tokens, mask, labels)
  for i, label in enumerate(labels):
    want = string_logprob(*tiny, tokens, mask, label)
    np.testing.assert_allclose(got[:, i], want, atol=2e-5)


def test_ten_is_never_counted_as_one(tiny):
  tokens, mask = left_padded((6, 2, 4))
  got = np.asarray(label_logprobs(*tiny, tokens, mask, SCORES))
  one, ten = (
    np.exp(string_logprob(*tiny, tokens, mask, label))
    for label in ((10,), (10, 19))
  )
  np.testing.assert_allclose(np.exp(got[:, 9]), ten, rtol=1e-4)
  np.testing.assert_allclose(np.exp(got[:, 0]), one - ten, rtol=1e-3)
  assert (np.exp(got).sum(1) <= 1 + 1e-6).all()


def test_all_strings_of_two_letters_sum_to_one():
  """Labels that cover everything: nothing is counted twice or lost."""
  model = models.build(
    dict(
      model_type='llama', vocab_size=3, hidden_size=8, intermediate_size=8,
      num_hidden_layers=1, num_attention_heads=2, rms_norm_eps=1e-5,
      max_position_embeddings=16,
    )
  )  # fmt: skip
  params = jax.jit(model.init)(jax.random.key(1))
  tokens = np.ones((2, 3), np.int32)
  # (0) also begins (0, 1, 2) through (0, 1), which is no label.
  labels = ((0,), (0, 1, 2), (1,), (2,))
  got = label_logprobs(model, params, tokens, np.ones((2, 3), bool), labels)
  np.testing.assert_allclose(np.exp(got).sum(1), 1.0, rtol=1e-5)
  pairs = tuple(itertools.product(range(3), repeat=2))
  got = label_logprobs(model, params, tokens, np.ones((2, 3), bool), pairs)
  np.testing.assert_allclose(np.exp(got).sum(1), 1.0, rtol=1e-5)


def test_nested_labels(tiny):
  """(1), (1, 2) and (1, 2, 3): each without the longer ones."""
  tokens, mask = left_padded((5, 3))
  labels = ((1,), (1, 2), (1, 2, 3))
  got = np.exp(label_logprobs(*tiny, tokens, mask, labels))
  whole = [np.exp(string_logprob(*tiny, tokens, mask, x)) for x in labels]
  np.testing.assert_allclose(got[:, 0], whole[0] - whole[1], rtol=1e-3)
  np.testing.assert_allclose(got[:, 1], whole[1] - whole[2], rtol=1e-3)
  np.testing.assert_allclose(got[:, 2], whole[2], rtol=1e-4)


def test_a_prefix_label_stays_finite_when_its_rest_is_certain(tiny):
  """1 - P("0" | "1") would round to 0 in float32; the sum does not."""
  model, params = tiny
  kernel = np.zeros_like(params['unembedding']['kernel'])
  kernel[:, 19] = 1000.0
  sure = {**params, 'unembedding': {'kernel': jnp.asarray(kernel)}}
  flip = np.sign(
    np.asarray(
      model.apply(sure, np.full((1, 2), 10, np.int32)).hidden[0, -1]
    ).sum()
  )
  sure['unembedding'] = {'kernel': jnp.asarray(flip * kernel)}
  tokens, mask = np.full((1, 1), 10, np.int32), np.ones((1, 1), bool)
  got = np.asarray(label_logprobs(model, sure, tokens, mask, SCORES))
  assert np.isfinite(got).all()
  assert got[0, 0] < -100


def test_padding_and_batch_change_nothing(tiny):
  tokens, mask = left_padded((6, 2, 4))
  got = label_logprobs(*tiny, tokens, mask, SCORES)
  np.testing.assert_allclose(
    label_logprobs(*tiny, tokens, mask, SCORES, extra=5), got, atol=1e-5
  )
  np.testing.assert_allclose(
    label_logprobs(*tiny, tokens[1:2], mask[1:2], SCORES), got[1:2], atol=1e-5
  )
  batch = packed(tokens, mask, SCORES)
  noise = np.where(batch.ends > 0, batch.tokens, V + 1)
  assert (noise != batch.tokens).any()
  batch = dataclasses.replace(batch, tokens=noise)
  np.testing.assert_allclose(
    _jitted(*tiny, batch, SCORES)[:, 0], got, atol=1e-5
  )


@pytest.mark.multidevice
def test_sharded_equals_unsharded(tiny):
  model, params = tiny
  tokens, mask = left_padded((6, 2, 4, 1, 5, 3, 2, 6))
  one = label_logprobs(model, params, tokens, mask, SCORES)
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  with jax.set_mesh(mesh):
    where = sharding.shardings(
      model.param_axes(), model.abstract_params(), mesh
    )
    batch = sharding.shard_batch(packed(tokens, mask, SCORES), mesh)
    many = _jitted(model, jax.device_put(params, where), batch, SCORES)
  np.testing.assert_allclose(sharding.to_host(many)[:, 0], one, atol=1e-5)


@pytest.mark.parametrize('labels', [((1,), (1,)), ((1,), ())])
def test_labels_must_differ(tiny, labels):
  with pytest.raises(ValueError, match='empty or repeat'):
    packed(*left_padded((2,)), labels)
  batch = packed(*left_padded((2,)), SCORES)
  with pytest.raises(ValueError, match='empty or repeat'):
    score.label_logprobs(*tiny, batch, labels)


# -- the boundary -------------------------------------------------------------


def greedy_encoder(*pieces):
  """Longest match first; characters stand for themselves."""
  longest = sorted(pieces, key=len, reverse=True)

  def encode(text):
    ids = []
    while text:
      piece = next((p for p in longest if text.startswith(p)), text[0])
      ids.append(piece)
      text = text[len(piece) :]
    return ids

  return encode


def test_plain_boundary():
  found = score.labels_to_tokens(greedy_encoder('Sum'), 'Sum=', ('1', '2'))
  assert found == score.LabelTokens(0, (('1',), ('2',)))


def test_merge_with_the_ending():
  encode = greedy_encoder('Sum', '=1')
  found = score.labels_to_tokens(encode, 'Sum=', ('1', '2', '10'))
  # Only one label merges, and all give up the same part of the prompt.
  assert found == score.LabelTokens(1, (('=1',), ('=', '2'), ('=1', '0')))


def test_trailing_space_moves_into_the_label():
  encode = greedy_encoder('SCORE:', ' 1', ' 2')
  found = score.labels_to_tokens(encode, 'SCORE: ', ('1', '2', '10'))
  assert found == score.LabelTokens(1, ((' 1',), (' 2',), (' 1', '0')))


def test_labels_that_cannot_be_told_apart():
  with pytest.raises(ValueError, match='not told apart'):
    score.labels_to_tokens(lambda t: list(t.strip()), 'a=', ('1', '1 '))
  with pytest.raises(ValueError, match='no token of their own'):
    score.labels_to_tokens(lambda t: list(t.strip()), 'a=', ('1', ' '))
  with pytest.raises(ValueError, match='leave no token'):
    score.labels_to_tokens(greedy_encoder('=1'), '=', ('1', '2'))


ENDINGS = ('Preferred Summary=', 'Preferred Response=', 'SCORE=', 'SCORE: ')
NUMBERS = tuple(str(i) for i in range(1, 11))


@pytest.mark.parametrize('ending', ENDINGS)
@pytest.mark.parametrize(
  'name',
  [
    'tokenizers/gpt2',
    'tokenizers/mistral-v1',
    'tokenizers/t5-cc-32k',
    'tinystories-656k',
    'stories260k/tok512.model',
  ],
)
def test_real_tokenizers(shared_data, name, ending):
  tokenizer = load_tokenizer(shared_data / name)
  text = f'Text - two cats\n\nSummary 1 - a cat\n\n{ending}'
  short = score.labels_to_tokens(tokenizer.encode, ending, NUMBERS)
  whole = score.labels_to_tokens(tokenizer.encode, text, NUMBERS)
  # The last line alone tells the boundary of the whole text.
  assert short == whole
  prompt = tokenizer.encode(text)
  prompt = prompt[: len(prompt) - whole.drop]
  for label, tokens in zip(NUMBERS, whole.tokens, strict=True):
    assert [*prompt, *tokens] == tokenizer.encode(text + label)


# -- responses ----------------------------------------------------------------


@pytest.fixture
def rollout():
  tokens, mask = left_padded((6, 2, 4))
  response = np.random.default_rng(5).integers(0, V, (3, 4)).astype(np.int32)
  real = np.arange(4)[None] < np.array([[4], [1], [3]])
  return Rollout(tokens, mask, response, real, np.zeros((3, 4), np.float32))


def test_response_stats_equal_plain_log_softmax(tiny, rollout):
  model, params = tiny
  stats = jax.jit(
    functools.partial(
      score.response_stats, model, temperature=0.8, entropy=True
    )
  )(params, rollout)
  forward = jax.jit(model.apply)
  for row in range(3):
    prompt = rollout.prompt_tokens[row][rollout.prompt_mask[row]]
    answer = rollout.response_tokens[row][rollout.response_mask[row]]
    both = np.concatenate([prompt, answer])[None]
    logits = forward(params, both).logits[0, len(prompt) - 1 : -1] / 0.8
    logp = jax.nn.log_softmax(logits)
    n = len(answer)
    np.testing.assert_allclose(
      stats.logprobs[row, :n], logp[np.arange(n), answer], atol=1e-5
    )
    np.testing.assert_allclose(
      stats.entropy[row, :n], -(np.exp(logp) * logp).sum(-1), atol=1e-5
    )
    np.testing.assert_array_equal(stats.logprobs[row, n:], 0)
    np.testing.assert_array_equal(stats.entropy[row, n:], 0)


def test_values_belong_to_the_state_before_each_token(tiny, rollout):
  model = ScalarModel(tiny[0])
  params = model.init_from(tiny[1], jax.random.key(0))
  values = score.response_values(model, params, rollout)
  prompt = model.values(params, rollout.prompt_tokens, mask=rollout.prompt_mask)
  np.testing.assert_allclose(values[:, 0], prompt[:, -1], atol=1e-5)
  np.testing.assert_array_equal(np.asarray(values)[~rollout.response_mask], 0)


def test_sequence_logprobs_are_sums_of_response_logprobs(tiny, rollout):
  tokens = np.concatenate([rollout.prompt_tokens, rollout.response_tokens], 1)
  mask = np.concatenate([rollout.prompt_mask, rollout.response_mask], 1)
  target = mask & (np.arange(10)[None] >= T)
  got = sequence_logprobs(*tiny, tokens, mask, target)
  stats = jax.jit(score.response_stats, static_argnums=0)(*tiny, rollout)
  np.testing.assert_allclose(got, stats.logprobs.sum(1), atol=1e-5)
