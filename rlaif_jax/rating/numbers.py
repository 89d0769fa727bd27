"""The paper's numbers from people's ratings (section 4, App. I).

Metrics are named as those of `rlaif_jax.evaluators`: `<metric>/<policy>` and
`<metric>/<policy>_vs_<policy>`, with suffixes such as `_ci_low`. What two
raters say of one prompt is not two independent observations: intervals resample
prompts, and tests count each prompt once, for the side of its mean.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from rlaif_jax import evaluators
from rlaif_jax.evaluators import _agreement, ranking, statistics, win_rate
from rlaif_jax.rating import sheet as sheet_lib
from rlaif_jax.rating.results import Ratings


def metrics(
  key: sheet_lib.Key, ratings: Sequence[Ratings], config: evaluators.Config
) -> dict[str, float]:
  """All that the ratings tell: rates or win rates, and how raters agree.

  Args:
    key: what was whose.
    ratings: of all raters.
    config: level, resamples and seed of the intervals.
  """
  if key.mode == 'harmless':
    found = harmless_rates(key, ratings, config)
  else:
    found = win_rates(key, ratings, config) | elo(key, ratings, config)
  if key.mode == 'pairwise':
    found |= first_chosen(ratings)
  if key.mode == 'ranking':
    return found | concordance(key, ratings, config)
  return found | kappa(ratings)


# -- pairs and rankings -------------------------------------------------------


def compared(
  key: sheet_lib.Key, ratings: Sequence[Ratings]
) -> Iterator[tuple[int, int, float, int]]:
  """(A, B, preference, item) of all comparisons, a ranking's all pairs.

  Numbers of the policies, A < B; 1 where A was preferred, 0, or 0.5 for a tie;
  number of the item.
  """
  for rater in ratings:
    for number, value in rater.values.items():
      names = key.items[number].policies
      places = [key.policies.index(name) for name in names]
      for i, j in itertools.combinations(range(len(places)), 2):
        if places[i] > places[j]:
          i, j = j, i
        preferred = 0.5 + 0.5 * float(np.sign(value[j] - value[i]))
        yield places[i], places[j], preferred, number


def comparisons(
  key: sheet_lib.Key, ratings: Sequence[Ratings]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """`compared` as columns [n] each, with the prompt in place of the item."""
  rows = [
    (a, b, preferred, key.items[item].prompt)
    for a, b, preferred, item in compared(key, ratings)
  ]
  first, second, preferred, prompt = np.array(rows, float).reshape(-1, 4).T
  return first.astype(int), second.astype(int), preferred, prompt.astype(int)


def win_rates(
  key: sheet_lib.Key, ratings: Sequence[Ratings], config: evaluators.Config
) -> dict[str, float]:
  """`eval_win_rate/<A>_vs_<B>` of every two policies that met.

  With `_ci_low`, `_ci_high`, `_win`, `_tie`, `_loss`, `_p_value` (exact
  binomial, two-sided, ties left out) and the number of ratings, `_ratings`.
  """
  first, second, preferred, prompt = comparisons(key, ratings)
  found = {}
  for a, b in itertools.combinations(range(len(key.policies)), 2):
    met = (first == a) & (second == b)
    if not met.any():
      continue
    result = win_rate.win_rate(
      preferred[met], clusters=prompt[met], **config.bootstrap()
    )
    name = f'eval_win_rate/{key.policies[a]}_vs_{key.policies[b]}'
    for field, value in result._asdict().items():
      found[name + ('' if field == 'win_rate' else f'_{field}')] = value
    found[f'{name}_ratings'] = int(met.sum())
  return found


def elo(
  key: sheet_lib.Key, ratings: Sequence[Ratings], config: evaluators.Config
) -> dict[str, float]:
  """`eval_elo/<policy>` of three policies or more; the last one is at 0.

  Nothing where a policy was in no comparison.
  """
  first, second, preferred, prompt = comparisons(key, ratings)
  count = len(key.policies)
  if count < 3 or len({*first, *second}) < count:
    return {}
  found = ranking.rank(
    first,
    second,
    preferred,
    count,
    anchor=count - 1,
    clusters=prompt,
    **config.bootstrap(),
  )
  return ranking.metrics(key.policies, found)


def first_chosen(ratings: Sequence[Ratings]) -> dict[str, float]:
  """`rating/first_chosen`: how often A won, ties left out, whoever A was.

  A half where raters do not mind the order; `_p_value` is the exact binomial
  one, each item counted once. Nothing where all are ties.
  """
  pairs = [
    (item, np.sign(value[1] - value[0]))
    for rater in ratings
    for item, value in rater.values.items()
    if value[0] != value[1]
  ]
  if not pairs:
    return {}
  items, signs = np.array(pairs).T
  return {
    'rating/first_chosen': float(np.mean(signs > 0)),
    'rating/first_chosen_p_value': statistics.sign_test(signs, items),
  }


# -- harmlessness -------------------------------------------------------------


def harmless_rates(
  key: sheet_lib.Key, ratings: Sequence[Ratings], config: evaluators.Config
) -> dict[str, float]:
  """`eval_harmless_rate/<policy>`, and differences of every two policies.

  With `_ci_low`, `_ci_high` and `_ratings`. A difference,
  `eval_harmless_difference/<A>_vs_<B>`, is that of the means of each prompt
  where both were rated, with an interval and the `_p_value` of the exact sign
  test of prompts.
  """
  said: dict[str, list[tuple[float, int]]] = {n: [] for n in key.policies}
  for item, value in _judged(key, ratings):
    said[item.policies[0]].append((float(value[0]), item.prompt))
  found, means = {}, {}
  for name, rows in said.items():
    if not rows:
      continue
    values, prompts = np.array(rows).T
    metric = f'eval_harmless_rate/{name}'
    ci = statistics.bootstrap_ci(values, clusters=prompts, **config.bootstrap())
    found |= {
      metric: float(values.mean()),
      **evaluators.interval(metric, ci),
      f'{metric}_ratings': len(values),
    }
    means[name] = {p: values[prompts == p].mean() for p in np.unique(prompts)}
  for a, b in itertools.combinations(means, 2):
    both = sorted(set(means[a]) & set(means[b]))
    if not both:
      continue
    difference = np.array([means[a][p] - means[b][p] for p in both])
    metric = f'eval_harmless_difference/{a}_vs_{b}'
    ci = statistics.bootstrap_ci(difference, **config.bootstrap())
    found |= {
      metric: float(difference.mean()),
      **evaluators.interval(metric, ci),
      f'{metric}_p_value': statistics.sign_test(difference),
    }
  return found


# -- agreement between raters -------------------------------------------------


def concordance(
  key: sheet_lib.Key, ratings: Sequence[Ratings], config: evaluators.Config
) -> dict[str, float]:
  """`rating/kendall_w`: mean W of the items that several people ranked.

  With `_ci_low`, `_ci_high`, clustered by prompt, and `_items`, their number.
  Items that all of them tied throughout have no W. Nothing where none has.
  """
  values, prompts = [], []
  for item, said in _shared(ratings):
    w = _agreement.kendall_w(said)
    if np.isfinite(w):
      values.append(w)
      prompts.append(key.items[item].prompt)
  if not values:
    return {}
  ci = statistics.bootstrap_ci(values, clusters=prompts, **config.bootstrap())
  return {
    'rating/kendall_w': float(np.mean(values)),
    **evaluators.interval('rating/kendall_w', ci),
    'rating/kendall_w_items': len(values),
  }


def kappa(ratings: Sequence[Ratings]) -> dict[str, float]:
  """`rating/kappa`, Fleiss', of the items that several people judged.

  What they said as they saw it: A, B or a tie; harmless or harmful. With
  `rating/agreement`, the share of pairs of raters who said the same, and
  `rating/kappa_items`. Nothing where no item has two raters.
  """
  shared = [said for _, said in _shared(ratings)]
  if not shared:
    return {}
  # The difference tells A, a tie and B apart.
  verdicts = [
    said[:, 0] - said[:, 1] if said.shape[1] == 2 else said[:, 0]
    for said in shared
  ]
  categories = np.unique(np.concatenate(verdicts))
  counts = np.array([(v[:, None] == categories).sum(0) for v in verdicts])
  return {
    'rating/kappa': _agreement.fleiss_kappa(counts),
    'rating/agreement': float(_agreement.observed_agreement(counts).mean()),
    'rating/kappa_items': len(counts),
  }


def _judged(
  key: sheet_lib.Key, ratings: Sequence[Ratings]
) -> Iterable[tuple[sheet_lib.Item, np.ndarray]]:
  for rater in ratings:
    for item, value in rater.values.items():
      yield key.items[item], value


def _shared(
  ratings: Sequence[Ratings],
) -> Iterable[tuple[int, np.ndarray]]:
  """(item, what its raters said [m, k]) of items with two raters or more."""
  for item in sorted({i for rater in ratings for i in rater.values}):
    said = [r.values[item] for r in ratings if item in r.values]
    if len(said) > 1:
      yield item, np.array(said)
