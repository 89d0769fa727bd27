"""Best of n against all subsets, order statistics and an integral."""

import itertools
import math

import numpy as np
import pytest
import scipy.integrate

from rlaif_jax.data.datasets import Example
from rlaif_jax.evaluators import Context, best_of_n


def _all_subsets(scores, n, worth):
  """Mean worth of the best of every subset; equals share."""
  found = []
  for subset in itertools.combinations(range(len(scores)), n):
    top = max(scores[i] for i in subset)
    # Who of several equals is taken is chance among all who have the score.
    found.append(np.mean([w for s, w in zip(scores, worth, strict=True)
                          if s == top]))  # fmt: skip
  return np.mean(found)


def test_by_hand():
  # {1,2} {1,4} {2,4}: 2, 4, 4.
  np.testing.assert_allclose(
    best_of_n.expected_best([4.0, 1.0, 2.0], [1, 2, 3]), [7 / 3, 10 / 3, 4]
  )


@pytest.mark.parametrize('seed', range(3))
def test_all_subsets(seed):
  rng = np.random.default_rng(seed)
  scores = rng.integers(0, 5, size=8).astype(float)  # with ties
  worth = rng.normal(size=8)
  for n in range(1, 9):
    assert best_of_n.expected_best(scores, [n])[0] == pytest.approx(
      _all_subsets(scores, n, scores)
    )
    assert best_of_n.expected_best(scores, [n], worth)[0] == pytest.approx(
      _all_subsets(scores, n, worth)
    )


def test_unbiased_for_the_maximum_of_uniforms():
  """E max of n uniforms is n / (n + 1), though only 16 were drawn."""
  rng = np.random.default_rng(0)
  sizes = [1, 2, 4, 8, 16]
  curves = [best_of_n.expected_best(rng.random(16), sizes) for _ in range(4000)]
  np.testing.assert_allclose(
    np.mean(curves, 0), [n / (n + 1) for n in sizes], atol=0.006
  )


def test_choosing_by_a_judge_who_is_gamed():
  """The proxy rises for ever; what it is worth turns down (2210.10760)."""
  scores = np.linspace(-2, 2, 64)
  worth = scores - 0.6 * np.maximum(scores, 0) ** 2
  sizes = [1, 2, 4, 8, 16, 32, 64]
  proxy = best_of_n.expected_best(scores, sizes)
  gold = best_of_n.expected_best(scores, sizes, worth)
  assert (np.diff(proxy) > 0).all()
  assert gold[1] > gold[0] and gold[-1] < gold.max() - 0.3
  assert 0 < gold.argmax() < len(sizes) - 1


def test_large_counts_do_not_overflow():
  scores = np.arange(3000.0)
  found = best_of_n.expected_best(scores, [1, 1500, 3000])
  assert found[0] == pytest.approx(1499.5)
  # n (m + 1) / (n + 1) - 1 of the numbers from 0.
  assert found[1] == pytest.approx(1500 * 3001 / 1501 - 1)
  assert found[2] == 2999


@pytest.mark.parametrize('n', [1, 2, 3, 16])
def test_kl_is_that_of_the_density(n):
  """The quantile of the best of n has density n u^(n-1) on [0, 1]."""

  def integrand(u):
    density = n * u ** (n - 1)
    return density * math.log(density) if density else 0.0

  found, _ = scipy.integrate.quad(integrand, 0, 1)
  assert best_of_n.kl(n) == pytest.approx(found, abs=1e-8)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (([], [1]), 'scores must be a list'),
    (([1.0, np.inf], [1]), 'row 1 is inf'),
    (([1.0, 2.0], [3]), 'best of 3 cannot be estimated from 2 samples'),
    (([1.0, 2.0], [0]), 'best of 0'),
    (([1.0, 2.0], [1], [1.0]), '2 scores but 1 values'),
    (([1.0, 2.0], [1], [1.0, np.nan]), 'worth: row 1 is nan'),
  ],
)
def test_errors(arguments, message):
  with pytest.raises(ValueError, match=message):
    best_of_n.expected_best(*arguments)


def test_evaluate_by_hand():
  # Prompt p has four samples, q three: three are known of both.
  prompts = ['p', 'q', 'p', 'q', 'p', 'q', 'p']
  scores = np.array([0, 10, 1, 20, 2, 30, 3.0])
  context = Context(
    examples=[Example(id=str(i), prompt=p) for i, p in enumerate(prompts)],
    samples={'rl': ['x'] * 7},
    scores={'rl': scores},
    baseline='rl',
  )
  config = best_of_n.Config(sizes=(1, 2, 3, 4), num_samples=200)
  metrics = best_of_n.evaluate(context, config)
  assert set(metrics) == {
    f'eval_best_of/rl_{n}{suffix}'
    for n in (1, 2, 3)
    for suffix in ('', '_ci_low', '_ci_high', '_kl')
  }
  for n, best_p, best_q in [
    (1, 1.5, 20),
    (2, (1 + 2 * 2 + 3 * 3) / 6, (20 + 2 * 30) / 3),
    (3, (2 + 3 * 3) / 4, 30),
  ]:
    # Each prompt counts once, however many samples it has.
    key = f'eval_best_of/rl_{n}'
    assert metrics[key] == pytest.approx((best_p + best_q) / 2)
    # Of two prompts, resamples are both of one or one of each.
    assert metrics[f'{key}_ci_low'] == pytest.approx(best_p)
    assert metrics[f'{key}_ci_high'] == pytest.approx(best_q)
  assert metrics['eval_best_of/rl_1_kl'] == 0
  assert metrics['eval_best_of/rl_2_kl'] == pytest.approx(math.log(2) - 0.5)
