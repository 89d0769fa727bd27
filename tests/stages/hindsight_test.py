"""Hindsight relabelling: the loss by hand, and the whole stage."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from rlaif_jax import sharding
from rlaif_jax.data import transforms
from rlaif_jax.data.datasets import Example
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.models import hf
from rlaif_jax.stages import common, hindsight, sft
from rlaif_jax.training import step
from rlaif_jax.training.metrics import read_metrics

MAX_PROMPT, MAX_RESPONSE = 16, 6
TOLD = ('be bad', 'be so so', 'be good')


def asked(name, prompt, response, grade):
  texts = [f'{told}\n\n{prompt}' for told in TOLD]
  own = texts.pop(grade)
  meta = {'grade': grade, 'other_prompts': texts}
  return Example(id=name, prompt=own, response=response, meta=meta)


ROWS = [
  asked('a', 'the dog ran', 'a dog', 0),
  asked('b', 'my job is', 'i quit now', 2),
  asked('c', 'so', 'ok', 1),
  asked('d', 'it was late', 'so late', 2),
]


def assert_close(one, other):
  """Gradients to a thousandth of the largest of each parameter's."""

  def close(a, b):
    scale = np.abs(a).max()
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * scale)

  jax.tree.map(close, one, other)


def make_config(**overrides):
  c = hindsight.default_config()
  c.max_prompt, c.max_response = MAX_PROMPT, MAX_RESPONSE
  c.update_from_flattened_dict(overrides)
  return c


@pytest.fixture(scope='module')
def loaded(tiny_model, one_device):
  tokenizer = load_tokenizer(tiny_model)
  return common.Loaded(*hf.load(tiny_model), tokenizer, tiny_model)


def by_hand(loaded, contrast, entropy, smoothing):
  """The module's loss, row by row in NumPy without padding."""
  total = []
  for row in ROWS:
    means, sums = [], []
    for prompt in (row.prompt, *row.meta['other_prompts']):
      start = loaded.tokenizer.encode(prompt)
      ids = transforms.response_ids(prompt, row.response, loaded.tokenizer)
      logits = loaded.model.apply(loaded.params, np.array([ids])).logits[0]
      logp = np.asarray(jax.nn.log_softmax(logits), np.float64)
      places = range(len(start) - 1, len(ids) - 1)
      means.append(np.mean([logp[t, ids[t + 1]] for t in places]))
      sums.append(
        (
          np.mean(
            [
              (1 - smoothing) * logp[t, ids[t + 1]] + smoothing * logp[t].mean()
              for t in places
            ]
          ),
          np.mean([-(np.exp(logp[t]) * logp[t]).sum() for t in places]),
        )
      )
    probs = np.exp(means) / np.exp(means).sum()
    told = -(1 - smoothing) * np.log(probs[0])
    told -= smoothing * np.mean([np.log(p) for p in probs[1:]])
    total.append((-sums[0][0], told, sums[0][1]))
  sup, con, ent = np.mean(total, axis=0)
  return sup + contrast * con - entropy * ent, sup, con, ent


@pytest.mark.parametrize(
  ('contrast', 'entropy', 'smoothing'),
  [(1.0, 0.001, 0.2), (0.5, 0.1, 0.0), (0.0, 0.0, 0.3)],
)
def test_loss_by_hand(loaded, contrast, entropy, smoothing):
  config = make_config(contrast=contrast, entropy=entropy, smoothing=smoothing)
  loss_fn, batch = hindsight.make_objective(config, loaded)
  loss, metrics = jax.jit(loss_fn)(loaded.params, batch(ROWS, ROWS), None)
  expected = by_hand(loaded, contrast, entropy, smoothing)
  names = ('loss/sft', 'loss/contrast', 'policy/entropy_avg')
  found = [loss, *(metrics[name] for name in names)]
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert metrics['weight'] == len(ROWS)


def test_without_its_own_terms_it_is_sft(loaded):
  config = make_config(contrast=0.0, entropy=0.0, smoothing=0.0)
  loss_fn, batch = hindsight.make_objective(config, loaded)
  plain_loss, plain_batch = sft.plain_objective(config, loaded)
  grad = jax.grad(lambda p: loss_fn(p, batch(ROWS, ROWS), None)[0])
  plain = jax.grad(lambda p: plain_loss(p, plain_batch(ROWS, ROWS), None)[0])
  assert_close(grad(loaded.params), plain(loaded.params))


def test_rows_that_fill_and_microbatches_change_nothing(loaded):
  loss_fn, batch = hindsight.make_objective(make_config(), loaded)
  grad_fn = jax.jit(jax.grad(loss_fn, has_aux=True), static_argnums=2)
  whole = batch(ROWS, ROWS)
  grads, metrics = grad_fn(loaded.params, whole, None)
  doubled = jax.tree.map(lambda x: np.concatenate([x, x]), whole)
  nothing = np.zeros_like(whole.loss_mask)
  filled = dataclasses.replace(
    doubled, loss_mask=np.concatenate([whole.loss_mask, nothing])
  )
  parts, _ = step.accumulate(
    lambda p, b: grad_fn(p, b, None), loaded.params, whole, 2
  )
  for other in (grad_fn(loaded.params, filled, None)[0], parts):
    assert_close(grads, other)
  assert metrics['loss/contrast'] > 0


@pytest.fixture
def files(tmp_path):
  """files(rows) -> path of a file as a sample stage leaves it."""

  def write(rows):
    file = tmp_path / 'rows.jsonl'
    lines = [
      {'id': r.id, 'prompt': r.prompt, 'response': r.response, **r.meta}
      for r in rows
    ]
    file.write_text('\n'.join(map(json.dumps, lines)))
    return str(file)

  return write


def stage_config(model, path, **overrides):
  c = make_config(batch_size=4, num_steps=12, eval_every=6)
  c.model.path = model
  for block in (c.data, c.eval_data):
    block.update(name='jsonl', path=path, split='all')
  c.optimizer.name, c.optimizer.learning_rate = 'adam', 1e-2
  c.update_from_flattened_dict(overrides)
  return c


def test_stage_learns_to_tell_instructions_apart(
  tiny_model, files, tmp_path, one_device
):
  hindsight.run(stage_config(tiny_model, files(ROWS)), tmp_path / 'run')
  records = read_metrics(tmp_path / 'run')
  assert records[-1]['loss/sft'] < records[0]['loss/sft']
  assert records[-1]['loss/contrast'] < records[0]['loss/contrast']
  summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
  assert summary['eval/loss'] == records[-1]['eval/loss']
  hf.load(tmp_path / 'run' / 'model')


@pytest.mark.parametrize(
  ('meta', 'needle'),
  [
    ({}, 'other_prompts should be'),
    ({'other_prompts': ['one']}, 'as many prompts as in other rows'),
    ({'other_prompts': ['x', 'very ' * 40]}, 'more than max_prompt=16'),
  ],
)
def test_bad_rows_are_named(tiny_model, files, tmp_path, meta, needle):
  rows = [*ROWS, dataclasses.replace(ROWS[0], id='bad', meta=meta)]
  config = stage_config(tiny_model, files(rows))
  with pytest.raises(ValueError, match='row bad') as error:
    hindsight.run(config, tmp_path / 'run')
  assert needle in str(error.value)


@pytest.mark.parametrize(
  'wrong', [{'contrast': -1.0}, {'smoothing': 1.0}, {'prompt_loss': 0.5}]
)
def test_settings_that_cannot_be(wrong):
  with pytest.raises(ValueError, match=f'config.{next(iter(wrong))}='):
    hindsight.check(make_config(**wrong))


@pytest.mark.multidevice
def test_sharded_equals_unsharded(tiny_model):
  config = make_config()
  found = []
  for devices, axes in ((1, {}), (8, {'data': 2, 'fsdp': 2, 'tensor': 2})):
    mesh = sharding.make_mesh(axes, devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
      model = common.Loaded(
        *hf.load(tiny_model, mesh=mesh), load_tokenizer(tiny_model), tiny_model
      )
      loss_fn, batch = hindsight.make_objective(config, model)
      tokens = sharding.shard_batch(batch(ROWS, ROWS), mesh)
      loss, grads = jax.jit(
        jax.value_and_grad(lambda p, b, f=loss_fn: f(p, b, None)[0])
      )(model.params, tokens)
      found.append((float(loss), sharding.to_host(grads)))
  np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
  assert_close(
    *(grads for _, grads in found),
  )
