"""Supervised fine-tuning: the loss, the order of rows, and the whole stage."""

import dataclasses
import itertools
import json
import math

import jax
import numpy as np
import pytest

from rlaif_jax.core.types import TokenBatch
from rlaif_jax.data import transforms
from rlaif_jax.data.datasets import Example
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.models import hf
from rlaif_jax.stages import common, sft
from rlaif_jax.training.metrics import read_metrics

MAX_PROMPT, MAX_RESPONSE = 12, 6
ROWS = [
  Example(id='a', prompt='the dog ran', response='a dog'),
  Example(id='b', prompt='my job is', response='i quit'),
  Example(id='c', prompt='so', response='ok'),
]


@pytest.fixture(scope='module')
def model(tiny_model):
  return (*hf.load(tiny_model), load_tokenizer(tiny_model))


def batch_of(tokenizer, rows=ROWS, **options):
  return transforms.sft_batch(
    rows, tokenizer, MAX_PROMPT, MAX_RESPONSE, **options
  )


def by_hand(model, params, tokenizer, prompt_loss=0.0):
  """Mean NLL row by row, without padding, from the full log-softmax."""
  total = count = 0.0
  for row in ROWS:
    prompt = tokenizer.encode(row.prompt)
    ids = transforms.response_ids(row.prompt, row.response, tokenizer)
    logits = model.apply(params, np.array([ids], np.int32)).logits[0]
    logprobs = np.asarray(jax.nn.log_softmax(logits, axis=-1), np.float64)
    for place in range(1, len(ids)):
      weight = 1.0 if place >= len(prompt) else prompt_loss
      total -= weight * logprobs[place - 1, ids[place]]
      count += weight
  return total / count, count


@pytest.mark.parametrize('prompt_loss', [0.0, 0.25, 1.0])
def test_loss_is_the_mean_over_targets(model, prompt_loss):
  lm, params, tokenizer = model
  loss_fn = sft.make_loss(lm, MAX_RESPONSE, prompt_loss)
  loss, metrics = jax.jit(loss_fn)(params, batch_of(tokenizer), None)
  expected, count = by_hand(lm, params, tokenizer, prompt_loss)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  np.testing.assert_allclose(metrics['loss/sft'], expected, rtol=1e-5)
  np.testing.assert_allclose(metrics['weight'], count, rtol=1e-6)


@pytest.mark.parametrize('prompt_loss', [0.0, 0.25])
def test_padding_changes_nothing(model, prompt_loss):
  """More padding, other ids in it, and rows of weight 0: the same gradient."""
  lm, params, tokenizer = model
  loss_fn = sft.make_loss(lm, MAX_RESPONSE, prompt_loss)
  grad = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
  tight = batch_of(tokenizer, among=ROWS)
  wide = batch_of(tokenizer)
  assert tight.tokens.shape[1] < wide.tokens.shape[1]
  noise = np.random.default_rng(0).integers(3, 50, wide.tokens.shape)
  other = dataclasses.replace(
    wide, tokens=np.where(wide.mask, wide.tokens, noise).astype(np.int32)
  )
  filled = batch_of(
    tokenizer, [*ROWS, ROWS[0]], row_weights=np.array([1, 1, 1, 0])
  )
  (loss, _), grads = grad(params, tight, None)
  size = max(np.abs(x).max() for x in jax.tree.leaves(grads))
  # A row of weight 0 has no response, but its prompt would count.
  others = [wide, other] if prompt_loss else [wide, other, filled]
  for batch in others:
    (again, _), other_grads = grad(params, batch, None)
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    gap = jax.tree.map(lambda a, b: np.abs(a - b).max(), grads, other_grads)
    assert max(jax.tree.leaves(gap)) < 1e-4 * size


def test_loss_without_targets_is_zero(model):
  lm, params, tokenizer = model
  batch = batch_of(tokenizer, row_weights=np.zeros(3))
  loss, metrics = sft.make_loss(lm, MAX_RESPONSE, 0.0)(params, batch, None)
  assert loss == 0.0
  assert metrics['weight'] == 0.0


def test_response_window_holds_exactly_the_targets():
  length, width = 8, 3
  tokens = np.arange(4 * length).reshape(4, length)
  learned = np.zeros((4, length), bool)
  learned[0, 3:6] = True
  learned[1, 6:8] = True  # fewer than the width, at the end
  learned[2, 1:2] = True  # at the start; row 3 has none
  batch = TokenBatch(tokens, np.ones(tokens.shape, bool), learned)
  slots, targets, weight = map(np.array, sft.response_window(batch, width))
  assert slots.shape == (4, width)
  for row in range(4):
    np.testing.assert_array_equal(tokens[row][slots[row] + 1], targets[row])
    assert set(tokens[row][learned[row]]) == set(targets[row][weight[row]])
  _, wide, _ = sft.response_window(batch, 100)
  np.testing.assert_array_equal(wide, tokens[:, 1:])


def order_config(group, size):
  c = sft.default_config()
  c.group_by_length, c.batch_size, c.seed = group, size, 5
  return c


@pytest.mark.parametrize(('count', 'size'), [(12, 4), (13, 4), (15, 4), (2, 4)])
def test_grouped_order_covers_all_rows(model, count, size):
  """An epoch has every row, in batches of like length."""
  tokenizer = model[2]
  rows = [
    Example(id=str(i), prompt='the ' * (1 + 7 * i % count), response='a')
    for i in range(count)
  ]
  rows_of = sft.make_order(order_config(True, size), tokenizer, rows)
  num_batches = -(-count // size)
  for epoch in range(2):
    steps = range(epoch * num_batches, (epoch + 1) * num_batches)
    batches = [rows_of(at) for at in steps]
    assert all(len(batch) == size for batch in batches)
    assert set(np.concatenate(batches).tolist()) == set(range(count))
    # Lengths of one batch do not reach into those of another.
    spans = sorted(
      (min(lengths), max(lengths))
      for lengths in ([len(rows[i].prompt) for i in b] for b in batches)
    )
    for (_, high), (low, _) in itertools.pairwise(spans):
      assert high <= low
  again = sft.make_order(order_config(True, size), tokenizer, rows)
  np.testing.assert_array_equal(again(1), rows_of(1))


def test_plain_order_covers_all_rows(model):
  rows_of = sft.make_order(order_config(False, 4), model[2], range(8))
  assert sorted([*rows_of(0), *rows_of(1)]) == list(range(8))


def test_a_batch_that_hosts_cannot_share_is_refused(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 4)
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  np.testing.assert_array_equal(common.host_share(8), [2, 3])
  with pytest.raises(ValueError, match='batch of 6 rows .* 4 hosts; make'):
    common.host_share(6)


def make_config(model, **overrides):
  c = sft.default_config()
  c.model.path = model
  for block, split, size in ((c.data, 'train', 24), (c.eval_data, 'test', 7)):
    block.name, block.path, block.split, block.size = (
      'tiny_tldr',
      '',
      split,
      size,
    )
  c.max_prompt, c.max_response = 80, 48
  c.batch_size, c.num_steps = 4, 6
  c.optimizer.name, c.optimizer.learning_rate = 'adam', 1e-2
  c.eval_every = 3
  c.update_from_flattened_dict(overrides)
  return c


def test_stage_learns_and_leaves_a_model(tiny_model, tmp_path, one_device):
  config = make_config(tiny_model)
  sft.run(config, tmp_path)
  records = read_metrics(tmp_path)
  assert [r['step'] for r in records] == [1, 2, 3, 4, 5, 6]
  assert [r['step'] for r in records if 'eval/loss' in r] == [3, 6]
  assert records[-1]['loss/sft'] < records[0]['loss/sft']
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert summary['steps'] == 6
  assert summary['examples'] == 24
  assert summary['eval/loss'] == records[-1]['eval/loss']
  np.testing.assert_allclose(
    summary['eval/perplexity'], math.exp(summary['eval/loss']), rtol=1e-5
  )
  # What was evaluated is what was saved; 7 rows in batches of 4.
  lm, params = hf.load(tmp_path / 'model')
  tokenizer = load_tokenizer(str(tmp_path / 'model'))
  valid = sft.common.load_examples(config.eval_data)
  batch = transforms.sft_batch(valid, tokenizer, 80, 48)
  loss, _ = sft.make_loss(lm, 48, 0.0)(params, batch, None)
  np.testing.assert_allclose(summary['eval/loss'], loss, rtol=1e-5)


def test_accumulation_changes_nothing(tiny_model, tmp_path, one_device):
  losses = []
  for parts in (1, 2):
    config = make_config(tiny_model, num_microbatches=parts, num_steps=3)
    sft.run(config, tmp_path / str(parts))
    losses.append([r['loss/sft'] for r in read_metrics(tmp_path / str(parts))])
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


@pytest.mark.parametrize('block', ['data', 'eval_data'])
@pytest.mark.parametrize(
  ('row', 'needle'),
  [
    ({'prompt': 'no answer'}, 'has no response'),
    ({'prompt': 'empty', 'response': ' '}, 'has no response'),
    ({'prompt': 'long', 'response': 'very ' * 60}, 'max_response=48'),
    ({'prompt': 'very ' * 90, 'response': 'a'}, 'max_prompt=80'),
  ],
  ids=['none', 'empty', 'long', 'long prompt'],
)
def test_bad_rows_are_named_before_training(
  tiny_model, tmp_path, one_device, block, row, needle
):
  good = {'prompt': 'a', 'response': 'b', 'id': 'good'}
  file = tmp_path / 'rows.jsonl'
  file.write_text(
    '\n'.join(json.dumps(r) for r in (good, {**row, 'id': 'bad'}))
  )
  config = make_config(tiny_model)
  config[block].update(name='jsonl', path=str(file), split='all')
  with pytest.raises(ValueError, match='rows.jsonl: row bad') as error:
    sft.run(config, tmp_path / 'run')
  assert needle in str(error.value)
  assert not (tmp_path / 'run' / 'metrics.jsonl').exists()


def test_overlong_responses_can_be_cut(tiny_model, tmp_path, one_device):
  file = tmp_path / 'rows.jsonl'
  file.write_text(json.dumps({'prompt': 'a', 'response': 'very ' * 60}))
  config = make_config(tiny_model, overlong_response='truncate', num_steps=1)
  for block in (config.data, config.eval_data):
    block.update(name='jsonl', path=str(file), split='all')
  sft.run(config, tmp_path / 'run')
  assert (tmp_path / 'run' / 'model' / 'config.json').is_file()
  config.overlong_response = 'cut'
  with pytest.raises(ValueError, match="overlong_response='cut'"):
    sft.run(config, tmp_path / 'other')


def test_batches_are_token_batches(model):
  assert isinstance(batch_of(model[2]), TokenBatch)
