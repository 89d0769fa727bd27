import numpy as np
import pytest

from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import Context, statistics, win_rate


def _context(scores, prompts=None) -> Context:
  n = len(next(iter(scores.values())))
  prompts = prompts or [f'p{i}' for i in range(n)]
  return Context(
    examples=[Example(id=str(i), prompt=p) for i, p in enumerate(prompts)],
    samples={name: ['x'] * n for name in scores},
    scores=scores,
    baseline='sft',
  )


def test_preferences_and_ties():
  np.testing.assert_array_equal(
    win_rate.preferences([1, 2, 3], [1, 1, 4]), [0.5, 1, 0]
  )
  np.testing.assert_array_equal(
    win_rate.preferences([1.2, 2.0], [1.0, 1.0], tie_margin=0.3), [0.5, 1]
  )
  with pytest.raises(ValueError, match='2 scores of A but 1 of B'):
    win_rate.preferences([1, 2], [1])


def test_win_rate_by_hand():
  result = win_rate.win_rate([1, 1, 1, 0.5, 0])
  assert result.win_rate == pytest.approx(0.7)
  assert (result.win, result.tie, result.loss) == (0.6, 0.2, 0.2)
  assert result.p_value == statistics.binomial_test(3, 4)
  assert result.ci_low < 0.7 < result.ci_high


def test_swapping_the_sides_mirrors_everything():
  p = np.random.default_rng(0).choice([0, 0.5, 1], size=40)
  a, b = win_rate.win_rate(p), win_rate.win_rate(1 - p)
  assert a.win_rate == pytest.approx(1 - b.win_rate)
  assert a.ci_low == pytest.approx(1 - b.ci_high)
  assert a.p_value == b.p_value


def test_repeated_prompts_are_one_observation():
  p = [1.0] * 10
  assert win_rate.win_rate(p, clusters=['same'] * 10).p_value == 1.0
  assert win_rate.win_rate(p).p_value < 0.01


def test_coverage_of_a_planted_win_rate():
  rng = np.random.default_rng(1)
  hits = 0
  for seed in range(200):
    a, b = rng.normal(0.5, 1, size=(100,)), rng.normal(0, 1, size=(100,))
    r = win_rate.win_rate(
      win_rate.preferences(a, b), num_samples=200, seed=seed
    )
    hits += r.ci_low <= 0.6382 <= r.ci_high  # Phi(0.5 / sqrt(2))
  assert 0.9 <= hits / 200 <= 0.99


def test_evaluate_against_baseline_and_head_to_head():
  context = _context(
    {
      'sft': np.array([0.0, 0.0, 0.0, 0.0]),
      'rlaif': np.array([1.0, 1.0, 1.0, -1.0]),
      'rlhf': np.array([1.0, 1.0, -1.0, -1.0]),
    }
  )
  config = win_rate.Config(head_to_head=(('rlaif', 'rlhf'),))
  metrics = win_rate.evaluate(context, config)
  assert metrics['eval_win_rate/rlaif'] == 0.75
  assert metrics['eval_win_rate/rlhf'] == 0.5
  assert metrics['eval_win_rate/rlaif_vs_rlhf'] == pytest.approx(0.625)
  assert metrics['eval_win_rate/rlaif_vs_rlhf_tie'] == 0.75
  assert 'eval_win_rate/sft' not in metrics
  assert (
    metrics['eval_win_rate/rlaif_ci_low']
    <= 0.75
    <= metrics['eval_win_rate/rlaif_ci_high']
  )


def test_a_bad_score_names_policy_and_row():
  context = _context({'sft': [0.0, 1.0], 'rlaif': [0.0, np.inf]})
  with pytest.raises(ValueError, match="policy 'rlaif': row 1 is inf"):
    win_rate.evaluate(context, win_rate.Config())


# -- judges who compare -------------------------------------------------------


def _compared(**fields) -> Context:
  prompts = ['p0', 'p1', 'p1', 'p2']
  return Context(
    examples=[Example(id=str(i), prompt=p) for i, p in enumerate(prompts)],
    samples={name: ['x' * 4] * 4 for name in ('sft', 'rlaif', 'rlhf')},
    baseline='sft',
    **fields,
  )


def test_a_judge_who_compares_is_believed():
  """Named in either order; what it left out does not count."""
  preferred = {
    ('rlaif', 'sft'): np.array([1.0, 0.5, np.nan, 1.0]),
    ('sft', 'rlhf'): np.array([1.0, 1.0, 0.0, 0.5]),
  }
  metrics = win_rate.evaluate(
    _compared(preferred=preferred), win_rate.Config(num_samples=50)
  )
  assert metrics['eval_win_rate/rlaif'] == pytest.approx(2.5 / 3)
  assert metrics['eval_win_rate/rlaif_tie'] == pytest.approx(1 / 3)
  assert metrics['eval_win_rate/rlhf'] == pytest.approx(1.5 / 4)
  assert 'eval_win_rate_averaged/rlaif' not in metrics


def test_both_orders_and_their_mean():
  preferred = {('rlaif', 'sft'): np.array([1.0, 0.5, 0.5, 0.0])}
  averaged = {('rlaif', 'sft'): np.array([1.0, 1.0, 0.0, 0.0])}
  flipped = {('rlaif', 'sft'): np.array([0.0, 1.0, 1.0, 0.0])}
  context = _compared(
    preferred={**preferred, ('rlhf', 'sft'): np.zeros(4)},
    averaged=averaged,
    flipped=flipped,
  )
  metrics = win_rate.evaluate(context, win_rate.Config(num_samples=50))
  assert metrics['eval_win_rate/rlaif'] == 0.5
  assert metrics['eval_win_rate/rlaif_tie'] == 0.5
  assert metrics['eval_win_rate_averaged/rlaif'] == 0.5
  assert metrics['eval_win_rate_averaged/rlaif_tie'] == 0.0
  assert metrics['eval_judge_flip_rate/rlaif'] == 0.5
  assert 'eval_judge_flip_rate/rlhf' not in metrics


def test_what_nobody_compared_is_named():
  context = _compared(preferred={('rlaif', 'sft'): np.ones(4)})
  with pytest.raises(ValueError, match="not compared 'rlhf' with 'sft'"):
    win_rate.evaluate(context, win_rate.Config())
  context = _compared(preferred={('rlaif', 'sft'): np.full(4, np.nan)})
  with pytest.raises(ValueError, match='0 comparisons of 4 prompts'):
    win_rate.evaluate(context, win_rate.Config())
