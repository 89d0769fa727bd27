"""`lint`: the checks of `data/lint.py`, and what needs statistics."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlaif_jax.data import lint
from rlaif_jax.data.lint import Finding
from rlaif_jax.data.records import PreferenceRecord
from rlaif_jax.evaluators import label_report
from rlaif_jax.labels.tables import p_text

# A bias is a warning where it is this large and that unlikely to be chance.
_LARGE = 0.1
_CHANCE = 0.01
_NOISE = 0.3  # share of verdicts that turn with the order, whichever slot wins


def check(
  path: str, evaluation: Sequence[str] = ()
) -> tuple[int, list[Finding]]:
  """(rows, findings) of a file of preferences, the worst findings first.

  Args:
    path: the file.
    evaluation: files of rows that must not be trained on; a prompt will do.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no such file as a whole, or empty.
  """
  rows, found = lint.read(path)
  held_out = []
  for file in evaluation:
    more, broken = lint.read(file, need_pair=False)
    held_out += more
    found += broken
  found += [*lint.check(rows, held_out), *biases(rows)]
  return len(rows), lint.by_severity(found)


def biases(rows: Sequence[lint.Row]) -> list[Finding]:
  """Whether labels follow length, or the position in which a pair was shown.

  Of the rows whose verdict can be used; 'info' where it is no more than usual.
  """
  rows = [r for r in rows if 0 <= r.record.p_first <= 1]
  if not rows:
    return []
  data = label_report.from_records([_sound(r.record) for r in rows])
  config = label_report.Config(num_samples=1)  # intervals are not shown
  found = [_length(label_report.length(data, config))]
  if position := label_report.position(data, config):
    first, second = data.margins()
    turned = [
      lint.at(r)
      for r, product in zip(rows, first * second, strict=True)
      if product < 0
    ]
    found.append(_swap(position, turned))
  if shown := label_report.first_shown(data, config):
    found.append(_shown(shown))
  return found


def _length(of: Mapping[str, Any]) -> Finding:
  correlation = of.get('correlation')
  return Finding(
    'length',
    _severity(of['rate'], of['p_value']),
    of['count'],
    f'{of["rate"]:.1%} of the labels prefer the longer response '
    f'({p_text(of["p_value"])} against 50%'
    + (f'; correlation {correlation:+.2f}' if correlation is not None else '')
    + '): where that is far from 50%, policies learn length; see how humans '
    'choose, and compare with "longer is better" and length-controlled rates',
  )


def _swap(of: Mapping[str, Any], turned: Sequence[lint.Where]) -> Finding:
  favoured = ''
  if 'favoured_slot' in of:
    favoured = (
      f'; slot {of["favoured_slot"] or "1 or 2 alike"} in '
      f'{of["favoured_share"]:.1%} of those, {p_text(of["p_value"])}'
    )
  share = of['same_position']['rate']
  biased = share >= _LARGE and of.get('p_value', 1.0) < _CHANCE
  biased = biased or share >= _NOISE
  return Finding(
    'swap-asymmetry',
    'warning' if biased else 'info',
    len(turned),
    f'{share:.1%} of the pairs get the same slot in both orders{favoured}; the '
    f'first slot wins {of["first_slot"]["rate"]:.1%} of all: train on the mean '
    'of both orders only, or use a better labeler or prompt',
    tuple(turned[: lint.SHOWN]),
  )


def _shown(of: Mapping[str, Any]) -> Finding:
  return Finding(
    'first-shown',
    _severity(of['rate'], of['p_value']),
    of['count'],
    f'{of["rate"]:.1%} of the labels prefer the response that was shown first '
    f'({p_text(of["p_value"])} against 50%): where that is far '
    'from 50%, ask in both orders and average',
  )


def _severity(rate: float, p_value: float) -> lint.Severity:
  large = abs(rate - 0.5) >= _LARGE - 1e-9 and p_value < _CHANCE
  return 'warning' if large else 'info'


def _sound(record: PreferenceRecord) -> PreferenceRecord:
  """The record without log-probs and notes that cannot be used."""
  orders = {
    key: values
    for key in ('logprobs_12', 'logprobs_21')
    if (values := getattr(record, key)) is not None
    and len(values) == 2
    and all(map(math.isfinite, values))
  }
  shown = record.meta.get('first_shown')
  return dataclasses.replace(
    record,
    logprobs_12=orders.get('logprobs_12'),
    logprobs_21=orders.get('logprobs_21'),
    meta={'first_shown': shown} if shown in (0, 1) else {},
  )
