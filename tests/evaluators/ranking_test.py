"""Elo against closed forms, SciPy and strengths that were planted."""

import dataclasses

import numpy as np
import pytest
import scipy.optimize

from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import Context, ranking, statistics


def _games(rng, strengths, count, clusters=None):
  """(first, second, preferred) of random pairs by Bradley-Terry."""
  k = len(strengths)
  a = rng.integers(k, size=count)
  b = (a + rng.integers(1, k, size=count)) % k
  p = statistics.sigmoid(strengths[a] - strengths[b])
  return a, b, (rng.random(count) < p).astype(float)


def test_two_policies_have_a_closed_form():
  wins = np.array([[0, 70.0], [30.0, 0]])
  s = ranking.log_strengths(wins, prior=0.1)
  assert s.sum() == pytest.approx(0, abs=1e-12)
  assert s[0] - s[1] == pytest.approx(np.log(70.05 / 30.05), abs=1e-9)
  # What the documentation says of the prior.
  shift = ranking.ELO * (np.log(70 / 30) - (s[0] - s[1]))
  assert shift == pytest.approx(0.2, abs=0.05)


def test_elo_is_the_chess_scale():
  # 10 to 1 is 400 points, and the anchor is exactly 0.
  found = ranking.rank(
    [0] * 11, [1] * 11, [1.0] * 10 + [0.0], 2, anchor=1, prior=1e-9
  )
  assert found.elo[0] == pytest.approx(400, abs=1e-3)
  assert found.elo[1] == found.ci_low[1] == found.ci_high[1] == 0


@pytest.mark.parametrize('seed', range(4))
def test_the_fit_is_the_maximum_that_scipy_finds(seed):
  rng = np.random.default_rng(seed)
  wins = rng.integers(0, 15, size=(5, 5)).astype(float)
  prior = 0.1
  found = ranking.log_strengths(wins, prior)

  def loss(s):
    total = 1e-9 * (s @ s)
    for i in range(5):
      for j in range(5):
        if i != j:
          total += (wins[i, j] + prior / 2) * np.log1p(np.exp(s[j] - s[i]))
    return total

  best = scipy.optimize.minimize(loss, np.zeros(5), tol=1e-10).x
  np.testing.assert_allclose(found, best - best.mean(), atol=1e-4)


def test_expected_wins_are_the_wins():
  """The score equations of maximum likelihood; the diagonal does not count."""
  wins = np.array([[99, 3, 7.5], [5, -0.0, 2], [0.5, 6, 42]])
  s = ranking.log_strengths(wins, prior=0.2)
  games = wins + wins.T + 0.2
  for i in range(3):
    others = [j for j in range(3) if j != i]
    got = sum(wins[i, j] + 0.1 for j in others)
    expected = sum(games[i, j] / (1 + np.exp(s[j] - s[i])) for j in others)
    assert got == pytest.approx(expected, abs=1e-7)


def test_every_fit_of_a_stack_is_its_own():
  rng = np.random.default_rng(0)
  wins = rng.integers(0, 9, size=(3, 2, 4, 4)).astype(float)
  wins[1, 0] = np.triu(np.full((4, 4), 50.0))  # extreme: needs many steps
  stack = ranking.log_strengths(wins)
  for i in np.ndindex(3, 2):
    np.testing.assert_allclose(
      stack[i], ranking.log_strengths(wins[i]), atol=1e-7
    )


def test_one_sided_games_do_not_lead_the_fit_astray():
  """Full Newton steps, even halved ones, run off to a singular matrix here."""
  wins = np.array(
    [
      [0, 0, 1e4, 1e4, 100],
      [1e4, 0, 0, 0.1, 1e4],
      [0, 10, 0, 0, 10],
      [0, 10, 1e4, 0, 0],
      [0.1, 0.1, 0, 0, 0],
    ]
  )
  s = ranking.log_strengths(wins)
  games = wins + wins.T + ranking.PRIOR
  won = statistics.sigmoid(s[:, None] - s) * games
  off = 1 - np.eye(5)
  np.testing.assert_allclose(
    (won * off).sum(1), ((wins + ranking.PRIOR / 2) * off).sum(1), atol=1e-6
  )


def test_known_strengths_are_recovered():
  truth = np.array([0.0, 0.5, 1.25, -0.75])
  rng = np.random.default_rng(1)
  found = ranking.rank(*_games(rng, truth, 20_000), 4, num_samples=50)
  np.testing.assert_allclose(
    found.elo, ranking.ELO * (truth - truth[0]), atol=15
  )
  assert (found.ci_low[1:] < found.elo[1:]).all()
  assert (found.ci_high[1:] - found.ci_low[1:]).max() < 40


def test_policies_that_never_met_are_ranked_through_others():
  # 0 beats 1 three to one, 1 beats 2 three to one: nine to one.
  found = ranking.rank(
    [0, 0, 0, 0, 1, 1, 1, 1] * 100, [1, 1, 1, 1, 2, 2, 2, 2] * 100,
    [1, 1, 1, 0.0] * 200, 3, anchor=2, num_samples=2, prior=1e-6,
  )  # fmt: skip
  np.testing.assert_allclose(
    found.elo, [400 * np.log10(9), 400 * np.log10(3), 0], atol=0.1
  )


def test_clean_sweeps_and_strangers_are_finite():
  s = ranking.log_strengths([[0, 20, 20], [0, 0, 20], [0, 0, 0.0]])
  assert np.isfinite(s).all() and s[0] > s[1] > s[2]
  # Two groups that never met: nothing tells their means apart.
  wins = np.zeros((4, 4))
  wins[0, 1] = wins[2, 3] = 9
  s = ranking.log_strengths(wins)
  assert s[0] == pytest.approx(s[2]) and s[1] == pytest.approx(s[3])
  assert s[0] > s[1]
  np.testing.assert_allclose(ranking.log_strengths(np.zeros((3, 3))), 0)


def test_order_sides_and_anchor_do_not_matter():
  rng = np.random.default_rng(2)
  a, b, p = _games(rng, np.array([0.0, 1.0, 0.3]), 200)
  one = ranking.rank(a, b, p, 3, num_samples=2)
  mixed = rng.permutation(200)
  swap = rng.random(200) < 0.5
  other = ranking.rank(
    np.where(swap, b, a)[mixed], np.where(swap, a, b)[mixed],
    np.where(swap, 1 - p, p)[mixed], 3, anchor=1, num_samples=2,
  )  # fmt: skip
  np.testing.assert_allclose(one.elo - one.elo[1], other.elo, atol=1e-6)
  ties = ranking.rank(a, b, np.full(200, 0.5), 3, num_samples=2)
  np.testing.assert_allclose(ties.elo, 0, atol=1e-9)


def test_copies_of_a_prompt_do_not_narrow_the_interval():
  a, b, p = _games(np.random.default_rng(3), np.array([0.0, 0.5]), 100)
  once = ranking.rank(a, b, p, 2, num_samples=300, anchor=1)
  copies = [np.repeat(x, 4) for x in (a, b, p)]
  whole = ranking.rank(
    *copies, 2, anchor=1, num_samples=300,
    clusters=np.repeat(np.arange(100), 4), prior=4 * ranking.PRIOR,
  )  # fmt: skip
  np.testing.assert_allclose(whole, once, atol=1e-5)
  naive = ranking.rank(*copies, 2, anchor=1, num_samples=300)
  width = once.ci_high[0] - once.ci_low[0]
  assert naive.ci_high[0] - naive.ci_low[0] < 0.65 * width


def test_intervals_cover_the_truth_when_prompts_are_clusters():
  """Three comparisons of a prompt share its luck: 95% needs the clusters."""
  truth, trials = np.array([0.0, 0.6, 1.0]), 80
  rng = np.random.default_rng(4)
  # The luck makes the marginal win rates, and so the fitted Elo, smaller.
  luck = rng.normal(0, 2, size=(40_000, 3))

  def games(worth):
    a, b = np.array([0, 0, 1]), np.array([1, 2, 2])
    a, b = np.tile(a, (len(worth), 3)), np.tile(b, (len(worth), 3))
    rows = np.arange(len(worth))[:, None]
    p = statistics.sigmoid(worth[rows, a] - worth[rows, b])
    won = (rng.random(p.shape) < p).astype(float)
    return a.ravel(), b.ravel(), won.ravel()

  target = ranking.rank(*games(truth + luck), 3, num_samples=1).elo
  covered = {'clusters': 0, 'none': 0}
  for seed in range(trials):
    played = games(truth + luck[rng.integers(len(luck), size=60)])
    for name, clusters in (
      ('clusters', np.repeat(np.arange(60), 9)),
      ('none', None),
    ):
      found = ranking.rank(
        *played, 3, clusters=clusters, num_samples=80, seed=seed
      )
      covered[name] += found.ci_low[2] <= target[2] <= found.ci_high[2]
  assert 0.86 <= covered['clusters'] / trials <= 0.995
  assert covered['none'] / trials < 0.82


def _context(**scores) -> Context:
  n = len(next(iter(scores.values())))
  return Context(
    examples=[Example(id=str(i), prompt=f'p{i}') for i in range(n)],
    samples={name: ['x'] * n for name in scores},
    scores={name: np.array(x, float) for name, x in scores.items()},
    baseline='sft',
  )


def test_evaluate_by_hand():
  # rl beats sft 3 of 4 times; the fourth is a tie.
  context = _context(rl=[1, 1, 1, 0], sft=[0, 0, 0, 0])
  metrics = ranking.evaluate(context, ranking.Config(num_samples=20))
  assert set(metrics) == {
    f'eval_elo/{name}{suffix}'
    for name in ('rl', 'sft')
    for suffix in ('', '_ci_low', '_ci_high')
  }
  assert metrics['eval_elo/rl'] == pytest.approx(
    400 * np.log10(3.55 / 0.55), abs=1e-6
  )
  assert metrics['eval_elo/sft'] == 0
  wide = ranking.evaluate(context, ranking.Config(num_samples=2, tie_margin=1))
  assert wide['eval_elo/rl'] == pytest.approx(0, abs=1e-9)


def test_evaluate_uses_all_pairs_and_one_policy_is_the_anchor():
  context = _context(best=[3, 3, 3, 0], good=[2, 2, 0, 2], sft=[1, 1, 1, 1.0])
  metrics = ranking.evaluate(context, ranking.Config(num_samples=2))
  wins = [[0, 3, 3], [1, 0, 3], [1, 1, 0]]
  s = ranking.log_strengths(wins)
  for i, name in enumerate(('best', 'good', 'sft')):
    assert metrics[f'eval_elo/{name}'] == pytest.approx(
      ranking.ELO * (s[i] - s[2]), abs=1e-6
    )
  alone = ranking.evaluate(_context(sft=[1, 2]), ranking.Config())
  assert alone['eval_elo/sft'] == alone['eval_elo/sft_ci_high'] == 0
  with pytest.raises(ValueError, match="no samples of policy 'sft'"):
    ranking.evaluate(_context(rl=[1, 2]), ranking.Config())


def test_evaluate_resamples_prompts():
  context = _context(rl=[1, 1, 1, 0] * 5, sft=[0.5] * 20)
  wide = dataclasses.replace(
    context, examples=[Example(id='', prompt='p')] * 20
  )
  config = ranking.Config(num_samples=50)
  found = ranking.evaluate(wide, config)
  # One prompt: nothing to resample.
  assert found['eval_elo/rl_ci_low'] == found['eval_elo/rl_ci_high']
  found = ranking.evaluate(context, config)
  assert found['eval_elo/rl_ci_low'] < found['eval_elo/rl_ci_high'] - 50


@pytest.mark.parametrize(
  ('wins', 'prior', 'message'),
  [
    (np.zeros((2, 3)), 0.1, 'must be \\[..., k, k\\]'),
    (np.zeros(4), 0.1, 'must be \\[..., k, k\\]'),
    (np.zeros((0, 0)), 0.1, 'must be \\[..., k, k\\]'),
    ([[0, -1], [1, 0]], 0.1, 'at least 0'),
    ([[0, np.nan], [1, 0]], 0.1, 'finite'),
    ([[0, 1], [1, 0]], 0, 'prior=0 must be above 0'),
  ],
)
def test_strengths_need_wins(wins, prior, message):
  with pytest.raises(ValueError, match=message):
    ranking.log_strengths(wins, prior)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (([0], [1], [1, 0], 2), 'lengths differ'),
    (([0], [2], [1], 2), 'policies 0 to 1'),
    (([-1], [1], [1], 2), 'policies 0 to 1'),
    (([1], [1], [1], 2), 'comparisons must be of two'),
    (([0], [1], [1.5], 2), 'in \\[0, 1\\]'),
    (([0], [1], [np.nan], 2), 'row 0 is nan'),
    (([], [], [], 2), 'must be a list of numbers'),
  ],
)
def test_rank_needs_comparisons(arguments, message):
  with pytest.raises(ValueError, match=message):
    ranking.rank(*arguments)


def test_rank_needs_its_anchor_and_clusters():
  with pytest.raises(ValueError, match='policies 0 to 1'):
    ranking.rank([0], [1], [1], 2, anchor=2)
  with pytest.raises(ValueError, match=r'\(2,\) clusters'):
    ranking.rank([0], [1], [1], 2, clusters=[1, 2])


def test_evaluate_uses_the_pairs_that_were_compared():
  """a beats b and b beats c; nobody compared a with c, nor every prompt."""
  examples = [Example(id=str(i), prompt=f'p{i}') for i in range(10)]
  wins = np.array([1.0] * 7 + [0.0] * 2 + [np.nan])
  context = Context(
    examples=examples,
    samples={name: ['x'] * 10 for name in 'abc'},
    preferred={('a', 'b'): wins, ('c', 'b'): 1 - wins},
    baseline='c',
  )
  metrics = ranking.evaluate(context, ranking.Config(num_samples=20))
  by_hand = ranking.rank(
    [0] * 9 + [1] * 9, [1] * 9 + [2] * 9, [*wins[:9], *wins[:9]], 3,
    anchor=2, num_samples=20,
  )  # fmt: skip
  for i, name in enumerate('abc'):
    assert metrics[f'eval_elo/{name}'] == pytest.approx(by_hand.elo[i])
  assert metrics['eval_elo/a'] > metrics['eval_elo/b'] > 0
