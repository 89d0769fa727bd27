import gzip
import json

import numpy as np
import pytest

from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import Context, length_control, statistics, win_rate

_FORMS = [length_control.ratio_win_rate, length_control.log_ratio_win_rate]


def _texts(lengths):
  return ['x' * int(n) for n in lengths]


def test_ratio_guards_empty_and_extreme_responses():
  np.testing.assert_allclose(
    length_control.length_ratio(
      _texts([100, 0, 0, 50]), _texts([50, 50, 0, 0])
    ),
    [2.0, 0.1, 1.0, 10.0],
  )
  with pytest.raises(ValueError, match='1 responses of A but 2'):
    length_control.length_ratio(['a'], ['a', 'b'])


def _planted(quality: float, length: float, n: int = 4000):
  """Log-odds of A = quality + length * log ratio; A is longer on average."""
  rng = np.random.default_rng(0)
  ratio = np.exp(rng.normal(0.2, 0.25, size=n))
  p = statistics.sigmoid(quality + length * np.log(ratio))
  return (rng.random(n) < p).astype(float), ratio


@pytest.mark.parametrize('form', _FORMS)
def test_a_planted_length_effect_is_removed(form):
  preferred, ratio = _planted(quality=0.0, length=3.0)
  assert preferred.mean() > 0.6
  assert form(preferred, ratio) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize('form', _FORMS)
def test_a_planted_quality_effect_is_kept(form):
  preferred, ratio = _planted(quality=0.8, length=0.0)
  assert form(preferred, ratio) == pytest.approx(
    float(statistics.sigmoid(0.8)), abs=0.03
  )
  preferred, ratio = _planted(quality=0.8, length=3.0)
  assert preferred.mean() > 0.75
  assert form(preferred, ratio) == pytest.approx(
    float(statistics.sigmoid(0.8)), abs=0.03
  )


def test_paper_form_recovers_its_own_model():
  rng = np.random.default_rng(1)
  ratio = rng.uniform(0.6, 1.8, size=500)
  p = statistics.sigmoid(-2.0 + 2.5 * ratio)
  assert length_control.ratio_win_rate(p, ratio) == pytest.approx(
    float(statistics.sigmoid(0.5)), abs=1e-4
  )


def test_log_form_is_antisymmetric():
  preferred, ratio = _planted(quality=0.5, length=1.0, n=300)
  there = length_control.log_ratio_win_rate(preferred, ratio)
  back = length_control.log_ratio_win_rate(1 - preferred, 1 / ratio)
  assert there == pytest.approx(1 - back, abs=1e-8)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('form', _FORMS)
def test_degenerate_data_stay_finite(form):
  ratio = np.linspace(0.5, 2.0, 30)
  for preferred in (ratio > 1.2, ratio < 0.8, np.ones(30), np.zeros(30)):
    value = form(preferred.astype(float), ratio)
    assert 0 <= value <= 1
  assert form([1.0], [1.7]) > 0.9


@pytest.mark.parametrize('form', _FORMS)
def test_equal_lengths_leave_the_win_rate_alone(form):
  preferred = np.array([1, 1, 1, 0, 0.5])
  for ratio in (1.0, 1.6):
    assert form(preferred, np.full(5, ratio)) == pytest.approx(0.7, abs=1e-3)


def test_interval_covers_the_planted_truth():
  hits = 0
  for seed in range(60):
    rng = np.random.default_rng(seed)
    ratio = np.exp(rng.normal(0.1, 0.3, size=150))
    p = statistics.sigmoid(0.4 + 2.0 * np.log(ratio))
    y = (rng.random(150) < p).astype(float)
    low, high = statistics.bootstrap_statistic(
      lambda i, y=y, r=ratio: length_control.log_ratio_win_rate(y[i], r[i]),
      150,
      num_samples=60,
      seed=seed,
    )
    hits += low <= float(statistics.sigmoid(0.4)) <= high
  assert 0.82 <= hits / 60 <= 1.0


def test_evaluate_keys_and_values():
  rng = np.random.default_rng(2)
  lengths = rng.integers(20, 60, size=80)
  context = Context(
    examples=[Example(id=str(i), prompt=f'p{i}') for i in range(80)],
    samples={'sft': _texts(np.full(80, 40)), 'long': _texts(lengths)},
    judge=lambda example, text: float(len(text)),
    baseline='sft',
  )
  config = length_control.Config(num_samples=20)
  metrics = length_control.evaluate(context, config)
  assert metrics['eval_length_ratio/long'] == pytest.approx(lengths.mean() / 40)
  for metric in ('eval_win_rate_lc', 'eval_win_rate_lc_log'):
    low = metrics[f'{metric}/long_ci_low']
    assert 0 <= low <= metrics[f'{metric}/long_ci_high'] <= 1
    assert low <= metrics[f'{metric}/long'] + 0.2


def test_real_tldr_judgements(shared_data):
  """GPT-4's choices between a PPO policy and the authors' own summaries."""
  path = (
    shared_data
    / 'summarize-from-feedback/tldr_posts_policy_ai_judged_dev.jsonl.gz'
  )
  with gzip.open(path, 'rt', encoding='utf-8') as lines:
    rows = [json.loads(line) for line in lines]
  rows = [r for r in rows if r['ai_preferred'] in ('policy', 'reference')]
  preferred = np.array([float(r['ai_preferred'] == 'policy') for r in rows])
  ratio = length_control.length_ratio(
    [r['policy_response'].strip() for r in rows],
    [r['reference_response'].strip() for r in rows],
  )
  plain = win_rate.win_rate(preferred, num_samples=50).win_rate
  assert plain == sum(r['ai_preferred'] == 'policy' for r in rows) / len(rows)
  optimize = pytest.importorskip('scipy.optimize')

  def loss(w):
    logits = w[0] + w[1] * ratio
    return (np.logaddexp(0, logits) - preferred * logits).sum()

  w = optimize.minimize(loss, [0.0, 0.0], method='BFGS', tol=1e-9).x
  corrected = length_control.ratio_win_rate(preferred, ratio)
  assert corrected == pytest.approx(1 / (1 + np.exp(-w.sum())), abs=1e-4)
  assert 0.3 < corrected < 0.95


def test_of_a_judge_who_compared_some():
  """As of these rows alone, and of their lengths."""
  rng = np.random.default_rng(3)
  lengths, preferred = rng.integers(20, 60, 30), rng.choice([0, 0.5, 1], 30)
  known = rng.random(30) < 0.6
  context = Context(
    examples=[Example(id=str(i), prompt=f'p{i}') for i in range(30)],
    samples={'sft': _texts(np.full(30, 40)), 'long': _texts(lengths)},
    preferred={('long', 'sft'): np.where(known, preferred, np.nan)},
    baseline='sft',
  )
  metrics = length_control.evaluate(
    context, length_control.Config(num_samples=10)
  )
  assert metrics['eval_win_rate_lc/long'] == pytest.approx(
    length_control.ratio_win_rate(preferred[known], lengths[known] / 40)
  )
