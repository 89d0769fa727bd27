"""The preference stage: log-probs, every loss through it, resume, meshes."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from rlaif_jax import sharding
from rlaif_jax.core import preference as losses
from rlaif_jax.data import records, transforms
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.models import hf, locate
from rlaif_jax.stages import common, preference
from rlaif_jax.training.metrics import read_metrics

CLOCK = ('time/', 'perf/')


def make_config(model, loss='dpo', options=None, **overrides):
  """Pairs of the tiny world with the simulated human's labels."""
  c = preference.default_config()
  c.policy.path, c.loss = model, loss
  c.loss_options = options or {}
  for block, split, size in (
    (c.data, 'preferences', 12),
    (c.eval_data, 'test_preferences', 7),
  ):
    block.update(name='tiny_tldr', path='', split=split, size=size)
  c.max_prompt, c.max_response = 80, 48
  c.batch_size, c.num_steps, c.eval_every = 4, 4, 2
  c.optimizer.update(name='adam', learning_rate=1e-3, warmup_steps=0)
  c.checkpoint.every = 2
  c.update_from_flattened_dict(overrides)
  return c


def untimed(rows):
  return [
    {k: v for k, v in row.items() if not k.startswith(CLOCK)} for row in rows
  ]


def largest(first, second):
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), first, second)
  return max(jax.tree.leaves(moved))


@pytest.fixture(scope='module')
def logps_of(tiny_model):
  """logps_of(folder, example) -> ((l_1, l_2), (n_1, n_2)), a text at a time."""
  tokenizer = load_tokenizer(tiny_model)

  @functools.cache
  def load(folder):
    model, params = hf.load(folder)
    return jax.jit(lambda tokens: model.apply(params, tokens).logits)

  def one(folder, prompt, response):
    ids = transforms.response_ids(prompt, response, tokenizer)
    start = len(tokenizer.encode(prompt))
    logits = load(str(folder))(np.array([ids], np.int32))[0]
    logp = np.asarray(jax.nn.log_softmax(logits), np.float64)
    return (
      sum(logp[t - 1, ids[t]] for t in range(start, len(ids))),
      len(ids) - start,
    )

  def both(folder, prompt, pair):
    found = [one(folder, prompt, response) for response in pair]
    return tuple(zip(*found, strict=True))

  return both


# -- the loss -----------------------------------------------------------------


@pytest.mark.parametrize('name', preference.LOSSES)
def test_first_loss_is_that_of_log_probs_by_hand(
  tiny_model, make_model, logps_of, one_device, name
):
  """With another model as the reference, or there would be nothing to see."""
  other = make_model(1)
  config = make_config(tiny_model, name, reference=other)
  pairs = common.load_examples(config.data)[:4]
  tokenizer = load_tokenizer(tiny_model)
  model, params = hf.load(tiny_model)
  mesh = sharding.make_mesh()
  with jax.set_mesh(mesh):
    s = common.Session(None, config, mesh, sharding.DEFAULT_RULES)
    loaded = common.Loaded(model, params, tokenizer, tiny_model)
    frozen, trained = preference.split_models(s, loaded)
  weights = np.array([1.0, 1.0, 0.0, 2.0])
  batch = preference.make_batch(config, loaded, pairs, weights)
  loss, metrics = jax.jit(preference.make_loss(config, model))(
    trained, batch, None, frozen
  )

  rows = [(e.prompt, e.pair) for e in pairs]
  own, lengths = (
    np.array(x, np.float32)
    for x in zip(*(logps_of(tiny_model, *row) for row in rows), strict=True)
  )
  anchor = np.array([logps_of(other, *row)[0] for row in rows], np.float32)
  given = dict(
    logps_1=own[:, 0], logps_2=own[:, 1], p_first=batch.p_first,
    weight=batch.weight,
  )  # fmt: skip
  if name in ('simpo', 'orpo'):
    given |= dict(lengths_1=lengths[:, 0], lengths_2=lengths[:, 1])
  else:
    given |= dict(ref_logps_1=anchor[:, 0], ref_logps_2=anchor[:, 1])
  if name == 'kto':
    first = [pair[0] for _, pair in rows]
    rolled = [
      (prompt, (text,))
      for (prompt, _), text in zip(rows, first[1:] + first[:1], strict=True)
    ]
    gaps = [
      logps_of(tiny_model, *row)[0][0] - logps_of(other, *row)[0][0]
      for row in rolled
    ]
    given['kl'] = np.float32((gaps[0] + gaps[1] + gaps[3]) / 3)
  expected, others = getattr(losses, name)(
    **{k: jax.numpy.asarray(v) for k, v in given.items()}
  )
  np.testing.assert_allclose(loss, expected, rtol=1e-4)
  for key, value in others.items():
    np.testing.assert_allclose(
      metrics[key], value, rtol=1e-3, atol=1e-4, err_msg=key
    )
  assert metrics['weight'] == 4.0


def test_padding_changes_nothing(tiny_model):
  model, params = hf.load(tiny_model)
  loaded = common.Loaded(model, params, load_tokenizer(tiny_model), '')
  config = make_config(tiny_model)
  rows = common.load_examples(config.data)[:3]
  sums = []
  for width in (80, 130):
    config.max_prompt = width
    batch = preference.make_batch(config, loaded, rows)
    sums.append(preference.response_logps(model, params, batch.first, 48))
  assert sums[0].dtype == np.float32
  np.testing.assert_allclose(*sums, rtol=1e-5)


def test_a_shared_prompt_changes_nothing():
  """Two texts in one row, beside each in a row of its own; gradients too."""
  path = locate.resolve('tiny:xs')  # random weights would magnify rounding
  model, params = hf.load(path)
  loaded = common.Loaded(model, params, load_tokenizer(path), '')
  config = make_config(path)
  rows = common.load_examples(config.data)[:3]
  # One pair begins alike beyond its prompt.
  first = rows[0].pair[0]
  rows[0] = dataclasses.replace(rows[0], pair=(first, first + ' and more'))
  batch = preference.make_batch(config, loaded, rows)

  def apart(params):
    return [
      preference.response_logps(model, params, text, 48)
      for text in (batch.first, batch.second)
    ]

  def together(params):
    return preference.pair_logps(model, params, batch.first, batch.second, 48)

  sums, lengths = together(params)
  np.testing.assert_allclose(sums, apart(params), rtol=1e-5)
  for text, length in zip((batch.first, batch.second), lengths, strict=True):
    np.testing.assert_array_equal(length, text.loss_mask.sum(1))
  wanted = jax.grad(
    lambda p: sum(x.sum() * i for i, x in enumerate(apart(p), 1))
  )
  found = jax.grad(
    lambda p: sum(x.sum() * i for i, x in enumerate(together(p)[0], 1))
  )
  for a, b in zip(
    jax.tree.leaves(found(params)), jax.tree.leaves(wanted(params)), strict=True
  ):
    assert np.linalg.norm(a - b) <= 2e-4 * np.linalg.norm(b)


# -- the whole stage ----------------------------------------------------------

CASES = {
  'dpo': ('dpo', {}),
  'cdpo': ('dpo', {'beta': 0.5, 'smoothing': 0.1}),
  'ipo': ('ipo', {'tau': 0.2}),
  'simpo': ('simpo', {}),
  'kto': ('kto', {'undesirable': 1.2}),
  'orpo': ('orpo', {}),
  'cpl': ('cpl', {'bias': 0.7}),
}


@pytest.mark.parametrize('case', CASES)
def test_stage(tiny_model, tmp_path, one_device, case):
  config = make_config(tiny_model, *CASES[case])
  preference.run(config, tmp_path)
  rows = read_metrics(tmp_path)
  assert [row['step'] for row in rows] == [1, 2, 3, 4]
  assert {
    'loss/preference', 'rewards/chosen', 'rewards/rejected',
    'rewards/accuracies', 'rewards/margins', 'logps/chosen', 'logps/rejected',
    'optim/grad_norm',
  } <= rows[0].keys()  # fmt: skip
  assert [r['step'] for r in rows if preference.BEST in r] == [2, 4]
  if case == 'dpo':  # the policy is still its reference
    assert rows[0]['loss/preference'] == pytest.approx(np.log(2), rel=1e-5)
    assert rows[0]['rewards/margins'] == pytest.approx(0.0, abs=1e-4)
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert summary['pairs'] == 12
  assert summary['eval/loss'] == pytest.approx(rows[-1]['eval/loss'], rel=1e-6)
  _, start = hf.load(tiny_model)
  _, params = hf.load(tmp_path / 'model')
  assert largest(params, start) > 1e-4


def test_it_learns_the_pairs(tiny_model, tmp_path, one_device):
  """On one batch again and again the margin grows and the loss falls."""
  config = make_config(
    tiny_model, options={'beta': 0.5}, num_steps=12, eval_every=0
  )
  config.data.size = 4
  preference.run(config, tmp_path)
  rows = read_metrics(tmp_path)
  assert rows[-1]['loss/preference'] < 0.5 * rows[0]['loss/preference']
  assert rows[-1]['rewards/accuracies'] == 1.0


def test_evaluation_is_that_of_the_saved_model(
  tiny_model, tmp_path, one_device, logps_of
):
  """Over all human pairs, though batches of four do not divide seven."""
  config = make_config(tiny_model)
  preference.run(config, tmp_path)
  summary = json.loads((tmp_path / 'summary.json').read_text())
  margins, chosen = [], []
  for e in common.load_examples(config.eval_data):
    own, _ = logps_of(tmp_path / 'model', e.prompt, e.pair)
    anchor, _ = logps_of(tiny_model, e.prompt, e.pair)
    h = 0.1 * np.subtract(own, anchor)
    sign = 1 if e.p_first > 0.5 else -1
    margins.append(sign * (h[0] - h[1]))
    chosen.append(own[0] if e.p_first > 0.5 else own[1])
  margins = np.array(margins)
  expected = {
    'eval/loss': np.log1p(np.exp(-margins)).mean(),
    'eval_rewards/accuracies': (margins > 0).mean(),
    'eval_rewards/margins': margins.mean(),
    'eval_logps/chosen': np.mean(chosen),
  }
  for key, value in expected.items():
    assert summary[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key


def test_a_run_that_goes_on_is_the_same(tiny_model, tmp_path, one_device):
  config = make_config(tiny_model, 'kto')
  preference.run(config, tmp_path / 'whole')
  preference.run(config, tmp_path / 'cut')
  for name in ('summary.json', 'checkpoints/4', 'model'):
    path = tmp_path / 'cut' / name
    path.rename(tmp_path / path.name)
  preference.run(config, tmp_path / 'cut')
  rows = [untimed(read_metrics(tmp_path / name)) for name in ('whole', 'cut')]
  assert rows[0] == rows[1]
  weights = [
    (tmp_path / name / 'model/model.safetensors').read_bytes()
    for name in ('whole', 'cut')
  ]
  assert weights[0] == weights[1]


@pytest.mark.parametrize('loss', ['dpo', 'orpo'])
def test_accumulation_changes_nothing(tiny_model, tmp_path, one_device, loss):
  for parts in (1, 2):
    config = make_config(tiny_model, loss, num_steps=1, num_microbatches=parts)
    config.optimizer.update(name='sgd', learning_rate=1e-2)
    preference.run(config, tmp_path / str(parts))
  one, two = (hf.load(tmp_path / str(n) / 'model')[1] for n in (1, 2))
  assert largest(one, two) < 1e-6
  assert largest(one, hf.load(tiny_model)[1]) > 1e-5


def test_soft_and_hard_labels(tiny_model, tmp_path, one_device):
  """Hard labels from soft ones train as those labels themselves do."""
  found = {}
  for name, p_first, hard in (
    ('soft', 0.7, False),
    ('hard', 0.7, True),
    ('certain', 1.0, False),
  ):
    file = tmp_path / f'{name}.jsonl'
    config = make_config(tiny_model, num_steps=2, hard_labels=hard)
    records.write(
      file,
      [
        records.PreferenceRecord(e.id, e.prompt, *e.pair, p_first)
        for e in common.load_examples(config.data)
      ],
    )
    config.labels = str(file)
    preference.run(config, tmp_path / name)
    rows = read_metrics(tmp_path / name)
    found[name] = [row['loss/preference'] for row in rows]
  assert found['hard'] == found['certain']
  assert found['soft'][1] != found['hard'][1]


def test_lora(tiny_model, tmp_path, one_device):
  """Adapters move, and start as the reference."""
  config = make_config(tiny_model, num_steps=2)
  config.policy.lora.rank = 2
  preference.run(config, tmp_path)
  rows = read_metrics(tmp_path)
  assert rows[0]['rewards/margins'] == pytest.approx(0.0, abs=1e-5)
  assert rows[1]['rewards/margins'] != rows[0]['rewards/margins']
  assert (tmp_path / 'adapter').is_dir()
  assert largest(hf.load(tmp_path / 'model')[1], hf.load(tiny_model)[1]) > 1e-5


@pytest.mark.multidevice
@pytest.mark.parametrize('loss', ['dpo', 'kto'])
def test_a_mesh_changes_nothing(
  tiny_model, tmp_path, one_device, monkeypatch, loss
):
  config = make_config(tiny_model, loss, batch_size=8, num_steps=2)
  # Where a gradient is nearly 0, RMSprop makes much of its last bits.
  config.optimizer.update(name='sgd', learning_rate=1e-3)
  preference.run(config, tmp_path / 'one')
  everywhere = functools.partial(sharding.make_mesh, devices=jax.devices())
  monkeypatch.setattr(sharding, 'make_mesh', everywhere)
  config.mesh.update(data=2, fsdp=2, tensor=2)
  preference.run(config, tmp_path / 'eight')
  one, eight = (
    untimed(read_metrics(tmp_path / name)) for name in ('one', 'eight')
  )
  for first, second in zip(one, eight, strict=True):
    assert first.keys() == second.keys()
    for key, value in first.items():
      assert second[key] == pytest.approx(value, rel=1e-3, abs=1e-3), key


# -- what a loss takes --------------------------------------------------------


def test_what_losses_take():
  def of(loss, **overrides):
    return preference.loss_of(make_config('', loss, **overrides))

  assert of('dpo').reference
  assert of('kto').reference
  assert of('kto').kl
  assert not of('simpo').reference
  assert of('simpo').lengths
  assert not of('simpo', reference='x').reference
  assert not of('cpl').reference
  assert of('cpl', reference='x').reference  # which is CPL-KL


def test_no_copy_without_a_reference(tiny_model, one_device):
  """What is trained then is all there is."""
  model, params = hf.load(tiny_model)
  loaded = common.Loaded(model, params, None, '')
  s = common.Session(None, make_config(tiny_model, 'orpo'), None, None)
  frozen, trained = preference.split_models(s, loaded)
  assert frozen.base == frozen.reference == {}
  assert jax.tree.leaves(trained)[0] is jax.tree.leaves(params)[0]


@pytest.mark.parametrize(
  ('loss', 'options', 'message'),
  [
    ('dpoo', {}, "config.loss='dpoo' is unknown; there are: dpo, ipo"),
    ('dpo', {'bta': 0.1}, 'loss_options.bta is unknown; did you mean beta'),
    ('cpl', {'ref_logps_1': 0.1}, 'loss_options.ref_logps_1 is unknown'),
    ('dpo', {'beta': 'x'}, "loss_options.beta='x' is no number"),
  ],
)
def test_losses_and_options_that_there_are_not(loss, options, message):
  with pytest.raises(ValueError, match=message):
    preference.loss_of(make_config('', loss, options))
