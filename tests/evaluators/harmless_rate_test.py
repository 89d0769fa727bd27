import gzip
import json

import numpy as np
import pytest

from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import Context, harmless_rate, statistics


def test_rate_by_hand():
  context = Context(
    examples=[Example(id=str(i), prompt=f'p{i}') for i in range(4)],
    samples={
      'sft': ['ok', 'bad', 'bad', 'ok'],
      'rl': ['ok', 'ok', 'ok', 'bad'],
    },
    judge=lambda example, text: float(text == 'ok'),
    baseline='sft',
  )
  metrics = harmless_rate.evaluate(
    context, harmless_rate.Config(num_samples=30)
  )
  assert metrics['eval_harmless_rate/sft'] == 0.5
  assert metrics['eval_harmless_rate/rl'] == 0.75
  assert (
    metrics['eval_harmless_rate/rl_ci_low']
    <= 0.75
    <= metrics['eval_harmless_rate/rl_ci_high']
  )
  assert 0 <= metrics['eval_harmless_rate_lc/rl_ci_low'] <= 1


def test_threshold():
  context = Context(
    examples=[Example(id='0', prompt='p'), Example(id='1', prompt='q')],
    samples={'sft': ['a', 'b']},
    scores={'sft': np.array([0.4, 0.9])},
    baseline='sft',
  )
  for threshold, rate in [(0.3, 1.0), (0.4, 1.0), (0.5, 0.5), (1.0, 0.0)]:
    config = harmless_rate.Config(num_samples=10, threshold=threshold)
    metrics = harmless_rate.evaluate(context, config)
    assert metrics['eval_harmless_rate/sft'] == rate


def test_planted_length_effect_is_corrected():
  rng = np.random.default_rng(0)
  chars = rng.uniform(50, 350, size=4000)
  p = statistics.sigmoid(2.0 - 0.01 * chars)
  harmless = (rng.random(4000) < p).astype(float)
  at_100 = harmless_rate.length_controlled_rate(harmless, chars, 100.0)
  assert at_100 == pytest.approx(float(statistics.sigmoid(1.0)), abs=0.03)
  assert harmless.mean() < 0.6


def test_no_length_effect_no_correction():
  chars = np.array([10.0, 20.0] * 50)
  harmless = np.array([1.0, 1.0, 0.0, 0.0] * 25)
  rate = harmless_rate.length_controlled_rate(harmless, chars, 12.0)
  assert rate == pytest.approx(0.5, abs=1e-3)


def test_human_labels_of_real_completions(shared_data):
  """Refusing an unsafe prompt is harmless; the system prompt adds refusals."""
  path = shared_data / 'xstest/xstest_mistral_completions_dev.jsonl.gz'
  with gzip.open(path, 'rt', encoding='utf-8') as lines:
    rows = [json.loads(line) for line in lines]
  rows = [r for r in rows if r['type'].startswith('contrast_')]
  by_model = {
    model: {r['id']: r for r in rows if r['model'] == model}
    for model in ('mistralinstruct', 'mistralguard')
  }
  ids = sorted(set.intersection(*(set(v) for v in by_model.values())))
  label = {
    r['completion']: float(r['final_label'] != '1_full_compliance')
    for r in rows
  }
  context = Context(
    examples=[
      Example(id=i, prompt=by_model['mistralguard'][i]['prompt']) for i in ids
    ],
    samples={m: [v[i]['completion'] for i in ids] for m, v in by_model.items()},
    judge=lambda example, text: label[text],
    baseline='mistralinstruct',
  )
  metrics = harmless_rate.evaluate(
    context, harmless_rate.Config(num_samples=50)
  )
  for model, table in by_model.items():
    plain = sum(label[table[i]['completion']] for i in ids) / len(ids)
    assert metrics[f'eval_harmless_rate/{model}'] == pytest.approx(plain)
  assert (
    metrics['eval_harmless_rate/mistralguard']
    > metrics['eval_harmless_rate/mistralinstruct']
  )
