"""How good labels are: everything that can be said of a labeler, in one dict.

Agreement with humans (also by the labeler's confidence and by prompt, task or
labeler), position bias and accuracy by order of presentation (paper App. B),
calibration, preference for length, what averaging both orders is worth, and
cost (paper App. L). Intervals resample prompts, since pairs of one prompt are
no independent observations. A 50/50 label, the labeler's or the human's,
counts as half an agreement. What cannot be known is left out, never NaN.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rlaif_jax import evaluators
from rlaif_jax.evaluators import _labelled, alignment, statistics
from rlaif_jax.evaluators._labelled import Labelled

BY = _labelled.BY
from_context = _labelled.from_context
from_records = _labelled.from_records

# A wrong label that is sure of itself costs -log(1e-6) = 13.8 nats, not inf.
_CERTAIN = 1e-6


@dataclasses.dataclass(frozen=True)
class Config(evaluators.Config):
  """Options of the label report.

  Attributes:
    confidence_edges: inner edges, rising, of the bins of |2p - 1|.
    num_bins: bins of the reliability curve between confidence 0.5 and 1.
    price_in: dollars per 1000 tokens that a labeler reads; 0: unknown.
    price_out: dollars per 1000 tokens that it writes.
  """

  confidence_edges: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
  num_bins: int = 10
  price_in: float = 0.0
  price_out: float = 0.0


def report(data: Labelled, config: Config | None = None) -> dict[str, Any]:
  """The whole report, as JSON can hold it.

  Returns:
    `labels` and `human_labels`, numbers of them, and those of the sections
    `alignment`, `by_confidence` (list), `by` (key -> name), `position`,
    `first_shown`, `order`, `debiasing`, `calibration`, `length` and `cost` of
    which something is known. A share has `rate`, `ci_low`, `ci_high`, `count`.
  """
  config = config or Config()
  sections = {
    'alignment': agreement_with_humans(data, config),
    'by_confidence': by_confidence(data, config),
    'by': by_group(data, config),
    'position': position(data, config),
    'first_shown': first_shown(data, config),
    'order': by_order(data, config),
    'debiasing': debiasing(data, config),
    'calibration': calibration(data, config),
    'length': length(data, config),
    'cost': cost(data, config),
  }
  return {
    'labels': len(data.p_first),
    'human_labels': int(data.known.sum()),
    **{name: found for name, found in sections.items() if found},
  }


def evaluate(context: evaluators.Context, config: Config) -> dict[str, float]:
  """The numbers of `report` as `label_report/<section>/<name>`, less lists.

  Raises:
    ValueError: as `from_context`.
  """
  found = report(from_context(context), config)
  return dict(_flat(found, 'label_report'))


# -- against humans -----------------------------------------------------------


def agreement_with_humans(data: Labelled, config: Config) -> dict[str, Any]:
  """Agreement, kappa (ties a category of their own), entropy, ties."""
  rows = data.known
  if not rows.any():
    return {}
  # Its own interval is not by prompt, so it is not asked for a good one.
  found = alignment.alignment(
    data.p_first[rows], data.human[rows], num_samples=1
  )
  human_ties = statistics.verdicts(data.human[rows] - 0.5) == 0
  return {
    **_rate(data, rows, data.agreed, config),
    'kappa': found['labeler/kappa'],
    'entropy': found['labeler/entropy'],
    'ties': found['labeler/ties'],
    'human_ties': float(human_ties.mean()),
  }


def by_confidence(data: Labelled, config: Config) -> list[dict[str, Any]]:
  """Agreement in bins low <= |2p - 1| < high; empty ones are left out."""
  # Rounded, so that a label of 0.6 is at the edge 0.2.
  confidence = np.round(np.abs(2 * data.p_first - 1), 9)
  edges = (0.0, *config.confidence_edges, 1.0)
  member = np.digitize(confidence, config.confidence_edges)
  return [
    {'low': low, 'high': high, **_rate(data, rows, data.agreed, config)}
    for i, (low, high) in enumerate(itertools.pairwise(edges))
    if (rows := data.known & (member == i)).any()
  ]


def by_group(data: Labelled, config: Config) -> dict[str, Any]:
  """Agreement by each of `data.groups` that has several names."""
  result = {}
  for key, names in data.groups.items():
    column = np.array(names)
    result[key] = {
      str(name): _rate(data, rows, data.agreed, config)
      for name in np.unique(column)
      if (rows := data.known & (column == name)).any()
    }
  return {key: found for key, found in result.items() if len(found) > 1}


def calibration(data: Labelled, config: Config) -> dict[str, Any]:
  """Whether labels of confidence c agree with the human in a share c of pairs.

  Of the response that the labeler prefers, so from 0.5 on: which response is
  stored first does not matter. `brier` and `nll` (nats) are of p_first against
  the human's; `curve` lists bins with the means of confidence and agreement.
  """
  rows = data.known
  if not rows.any():
    return {}
  p, human = data.p_first[rows], data.human[rows]
  # By how much the human, who may be soft, is with the labeler.
  outcome = 0.5 + statistics.verdicts(p - 0.5) * (human - 0.5)
  confidence = np.maximum(p, 1 - p)
  num_bins = 2 * config.num_bins  # of [0, 1], of which the upper half is used
  member = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
  curve = [
    {
      'low': i / num_bins,
      'high': (i + 1) / num_bins,
      'confidence': float(confidence[member == i].mean()),
      **_share(outcome[member == i], data.prompts[rows][member == i], config),
    }
    for i in np.unique(member).tolist()
  ]
  q = np.clip(p, _CERTAIN, 1 - _CERTAIN)
  return {
    'ece': statistics.calibration_error(confidence, outcome, num_bins),
    'brier': float(np.mean((p - human) ** 2)),
    'nll': float(-np.mean(human * np.log(q) + (1 - human) * np.log1p(-q))),
    'mean_confidence': float(confidence.mean()),
    'count': len(p),
    'curve': curve,
  }


# -- position -----------------------------------------------------------------


def position(data: Labelled, config: Config) -> dict[str, Any]:
  """The paper's table: how often the same slot wins in both orders, and which.

  `first_slot` is the share of all answers for the first slot, `flip_rate` that
  of contradictions among pairs with a verdict in both orders. Of pairs that
  prefer one slot twice, `favoured_slot` (0: neither) has `favoured_share`, and
  `p_value` is the exact binomial test against 50%.
  """
  rows = data.both_orders
  if not rows.any():
    return {}
  orders = data.logprobs_12[rows], data.logprobs_21[rows]
  slots = [statistics.verdicts(x[:, 0] - x[:, 1]) for x in orders]
  decided = (slots[0] != 0) & (slots[1] != 0)
  same = decided & (slots[0] == slots[1])
  prompts = data.prompts[rows]
  found = alignment.position_bias(*orders)
  result = {
    'count': int(rows.sum()),
    'first_slot': _share(0.5 + 0.25 * (slots[0] + slots[1]), prompts, config),
    'same_position': _share(same.astype(float), prompts, config),
  }
  if decided.any():
    result['flip_rate'] = found['labeler/flip_rate']
  if same.any():
    first = found['labeler/position_bias_first']
    result |= {
      'favoured_slot': int(found['labeler/favoured_slot']),
      'favoured_share': max(first, 1 - first),
      'p_value': found['labeler/position_bias_p_value'],
    }
  return result


def first_shown(data: Labelled, config: Config) -> dict[str, Any]:
  """Share of labels for the response shown first, by judges of one order."""
  rows = np.isfinite(data.first_shown)
  if not rows.any():
    return {}
  verdict = statistics.verdicts(data.p_first[rows] - 0.5)
  toward = verdict * (1 - 2 * data.first_shown[rows])
  return {
    **_share(0.5 + 0.5 * toward, data.prompts[rows], config),
    'p_value': statistics.sign_test(toward, data.prompts[rows]),
  }


def by_order(data: Labelled, config: Config) -> dict[str, Any]:
  """Accuracy of each order alone, by where the human's choice was shown.

  `order_12` shows the pair in its own order, `order_21` swapped. `shown_first`
  and `shown_second` join both orders: there each pair on which the human chose
  is once in either, and `first_over_second` is the paired difference.
  """
  rows = data.both_orders & data.known
  if not rows.any():
    return {}
  own, swapped = (_labelled.agreement(m, data.human) for m in data.margins())
  side = np.zeros(len(rows))
  side[rows] = statistics.verdicts(data.human[rows] - 0.5)
  result: dict[str, Any] = {}
  for name, agreed, first in (('order_12', own, 1), ('order_21', swapped, -1)):
    result[name] = _rate(data, rows, agreed, config)
    for part, of in (('shown_first', first), ('shown_second', -first)):
      if (chosen := rows & (side == of)).any():
        result[name][part] = _rate(data, chosen, agreed, config)
  chosen = rows & (side != 0)
  if chosen.any():
    first = np.where(side > 0, own, swapped)
    second = np.where(side > 0, swapped, own)
    result |= {
      'shown_first': _rate(data, chosen, first, config),
      'shown_second': _rate(data, chosen, second, config),
      'first_over_second': _difference(data, chosen, first - second, config),
    }
  return result


def debiasing(data: Labelled, config: Config) -> dict[str, Any]:
  """Agreement of the mean of both orders less that of one, on the same pairs.

  Of the log-probs alone, whatever else (a panel, a calibration) is in p_first.
  `over_single` is against the mean of the two. Each difference has an interval
  and the exact sign test over prompts (McNemar's where each has one pair).
  """
  rows = data.both_orders & data.known
  if not rows.any():
    return {}
  first, second = data.margins()
  mean = (statistics.sigmoid(first) + statistics.sigmoid(second)) / 2
  averaged, single_12, single_21 = (
    _labelled.agreement(m, data.human) for m in (mean - 0.5, first, second)
  )
  single = (single_12 + single_21) / 2
  return {
    'averaged': _rate(data, rows, averaged, config),
    'order_12': _rate(data, rows, single_12, config),
    'order_21': _rate(data, rows, single_21, config),
    'over_order_12': _difference(data, rows, averaged - single_12, config),
    'over_order_21': _difference(data, rows, averaged - single_21, config),
    'over_single': _difference(data, rows, averaged - single, config),
  }


# -- length and cost ----------------------------------------------------------


def length(data: Labelled, config: Config) -> dict[str, Any]:
  """Share of labels for the longer response, in characters; the human's too.

  Ties and pairs of one length count half; the exact sign test leaves them out.
  `correlation` is Pearson's, of p_first with the difference in length.
  """
  longer, every = data.longer, np.ones(len(data.p_first), bool)
  toward = statistics.agreement(data.p_first - 0.5, longer)
  result = {
    **_rate(data, every, toward, config),
    'p_value': statistics.sign_test(toward - 0.5, data.prompts),
  }
  if data.p_first.std() > 1e-9 and longer.std() > 0:
    result['correlation'] = float(np.corrcoef(data.p_first, longer)[0, 1])
  if data.known.any():
    human = _labelled.agreement(longer, data.human)
    result['human'] = _rate(data, data.known, human, config)
  return result


def cost(data: Labelled, config: Config) -> dict[str, float]:
  """Tokens, seconds and, with prices, dollars of a label."""
  result = dict(data.cost)
  priced = config.price_in > 0 or config.price_out > 0
  if priced and {'tokens_in', 'tokens_out'} <= result.keys():
    result['dollars'] = (
      config.price_in * result['tokens_in']
      + config.price_out * result['tokens_out']
    ) / 1000
  return result


# -- parts --------------------------------------------------------------------


def _rate(data: Labelled, rows, values, config: Config) -> dict[str, Any]:
  return _share(values[rows], data.prompts[rows], config)


def _share(values, prompts, config: Config) -> dict[str, Any]:
  """The mean of `values` with its interval over prompts."""
  ci = statistics.bootstrap_ci(values, clusters=prompts, **config.bootstrap())
  return {
    'rate': float(np.mean(values)),
    'ci_low': ci.low,
    'ci_high': ci.high,
    'count': len(values),
  }


def _difference(data: Labelled, rows, values, config: Config) -> dict[str, Any]:
  """A mean difference, how many pairs it is made of, and whether by chance."""
  found = _share(values[rows], data.prompts[rows], config)
  return {
    'difference': found.pop('rate'),
    **found,
    'better': int(np.sum(values[rows] > statistics.TIE)),
    'worse': int(np.sum(values[rows] < -statistics.TIE)),
    'p_value': statistics.sign_test(values[rows], data.prompts[rows]),
  }


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
  for key, value in tree.items():
    name = f'{prefix}/{key}'
    if isinstance(value, Mapping):
      yield from _flat(value, name)
    elif not isinstance(value, list):
      yield name, float(value)
