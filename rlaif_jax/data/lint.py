"""What is wrong with a set of preferences, found before it is trained on.

Rows are read tolerantly: a broken one becomes a finding, and the others are
looked at all the same. The checks are pure functions of rows; `check` runs them
all. What needs statistics (length and position) is in `rlaif_jax/labels.py`.
"""

import collections
import dataclasses
import math
import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Literal, NamedTuple

from rlaif_jax.data import _lenient
from rlaif_jax.data._lenient import Row, Where
from rlaif_jax.data.records import PreferenceRecord

Severity = Literal['error', 'warning', 'info']
SEVERITIES: tuple[Severity, ...] = ('error', 'warning', 'info')
SHOWN = 5  # rows that a finding names
_MANY_TIES = 0.2  # share of 50/50 labels from which on they are a warning
_TIE = 1e-6  # as in evaluators/statistics.py


@dataclasses.dataclass(frozen=True)
class Finding:
  """Something that is wrong, or worth knowing.

  Attributes:
    code: names the check.
    severity: 'error' makes labels unusable or an evaluation wrong; 'warning'
      may; 'info' is a number to know.
    count: rows (or, for contradictions, pairs) concerned.
    message: what it means and what to do.
    rows: the first few of them.
  """

  code: str
  severity: Severity
  count: int
  message: str
  rows: tuple[Where, ...] = ()


def read(
  path: str | os.PathLike[str], *, need_pair: bool = True
) -> tuple[list[Row], list[Finding]]:
  """Rows of a file of preferences, and what could not be read of it.

  Args:
    path: anything that `records.read_preferences` takes, ours or TRL's.
    need_pair: False takes rows that are a prompt alone too, as an evaluation
      set may have.

  Returns:
    The rows, in order, and a finding 'unreadable' if some are left out.

  Raises:
    FileNotFoundError: no such file.
    ValueError: the file as a whole is no such file, or empty.
  """
  rows, broken = _lenient.read(path, need_pair)
  message = 'rows that cannot be read, and stop training: mend or remove them'
  return rows, found('unreadable', 'error', broken, message)


def rows_of(
  preferences: Iterable[PreferenceRecord], name: str = 'record'
) -> list[Row]:
  """Records in memory as rows; the first stands at 'record 0'."""
  return [Row(f'{name} {i}', r) for i, r in enumerate(preferences)]


def check(rows: Sequence[Row], evaluation: Sequence[Row] = ()) -> list[Finding]:
  """All findings, the worst first.

  Args:
    rows: preferences.
    evaluation: rows that must not be trained on.
  """
  return by_severity(
    [
      *single_rows(rows),
      *leakage(rows, evaluation),
      *contradictions(rows),
      *duplicates(rows),
      *shared_ids(rows),
      *ties(rows),
    ]
  )


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
  """Errors first, then warnings; in the order given otherwise."""
  return sorted(findings, key=lambda f: SEVERITIES.index(f.severity))


def found(
  code: str, severity: Severity, where: Sequence[Where], message: str
) -> list[Finding]:
  """A finding that names the first of these rows; none if there are none."""
  if not where:
    return []
  return [Finding(code, severity, len(where), message, tuple(where[:SHOWN]))]


# -- what a row shows by itself -----------------------------------------------


class RowCheck(NamedTuple):
  """A fault of single records.

  Attributes:
    code: see `Finding`.
    severity: see `Finding`.
    wrong: whether a record has it.
    message: see `Finding`.
  """

  code: str
  severity: Severity
  wrong: Callable[[PreferenceRecord], bool]
  message: str


def _bad_logprobs(record: PreferenceRecord) -> bool:
  known = [v for v in (record.logprobs_12, record.logprobs_21) if v is not None]
  return any(len(v) != 2 or not all(map(math.isfinite, v)) for v in known)


ROW_CHECKS = (
  RowCheck(
    'missing-verdict',
    'error',
    lambda r: math.isnan(r.p_first),
    'p_first is null or NaN: label these rows again or remove them',
  ),
  RowCheck(
    'impossible-verdict',
    'error',
    lambda r: r.p_first < 0 or r.p_first > 1,
    'p_first is a probability and has to be in [0, 1]: was a score or a logit '
    'stored in its place?',
  ),
  RowCheck(
    'bad-logprobs',
    'error',
    _bad_logprobs,
    'logprobs_12 and logprobs_21 have to hold two finite numbers each: label '
    'these rows again, in float32 if they overflowed',
  ),
  RowCheck(
    'identical-responses',
    'error',
    lambda r: r.response_1 == r.response_2,
    'neither response can be preferred: remove these rows',
  ),
  RowCheck(
    'single-order',
    'warning',
    lambda r: (r.logprobs_12 is None) != (r.logprobs_21 is None),
    'labelled in one order only, so a preference for a position is in the '
    'labels: label both orders and average',
  ),
  RowCheck(
    'empty-text',
    'warning',
    lambda r: not all(text.strip() for text in (r.prompt, *r.pair)),
    'a prompt or response is empty: if no policy wrote it so, a column got '
    'lost; remove these rows',
  ),
)


def single_rows(rows: Sequence[Row]) -> list[Finding]:
  """What `ROW_CHECKS` find."""
  return [
    finding
    for code, severity, wrong, message in ROW_CHECKS
    for finding in found(
      code, severity, [at(r) for r in rows if wrong(r.record)], message
    )
  ]


# -- what rows show together --------------------------------------------------


def ties(rows: Sequence[Row]) -> list[Finding]:
  """The share of 50/50 labels, a warning where it is large."""
  known = [r for r in rows if 0 <= r.record.p_first <= 1]
  tied = [at(r) for r in known if _side(r.record.p_first) == 0]
  share = len(tied) / max(len(known), 1)
  return found(
    'tie',
    'warning' if share > _MANY_TIES else 'info',
    tied,
    f'{share:.1%} of the labels are 50/50 and teach nothing: leave them out, '
    'or use a labeler that can tell the responses apart',
  )


def duplicates(rows: Sequence[Row]) -> list[Finding]:
  """Warnings: same prompt, pair and verdict as an earlier row, or swapped."""
  first: dict[Hashable, Row] = {}
  repeated = []
  for row in rows:
    earlier = first.setdefault(_compared(row.record), row)
    if earlier is not row:
      repeated.append(at(row, f'as {earlier.place}'))
  return found(
    'duplicate',
    'warning',
    repeated,
    'the same pair with the same verdict as an earlier row counts twice in '
    'training: remove these rows',
  )


def contradictions(rows: Sequence[Row]) -> list[Finding]:
  """Warnings: pairs with one verdict in one row and the opposite in another.

  Counts pairs; each is named by the first row that contradicts an earlier one.
  """
  first: dict[Hashable, dict[int, Row]] = collections.defaultdict(dict)
  against = []
  for row in rows:
    key, side = _compared(row.record)
    if side in (-1, 1):
      sides = first[key]
      if side not in sides and -side in sides:
        against.append(at(row, f'against {sides[-side].place}'))
      sides.setdefault(side, row)
  return found(
    'contradiction',
    'warning',
    against,
    'pairs with opposite verdicts: merge them into one row whose p_first is '
    'the mean, or keep them as the noise of several raters',
  )


def shared_ids(rows: Sequence[Row]) -> list[Finding]:
  """Warnings: an id that an earlier row with other texts has."""
  first: dict[str, Row] = {}
  again = []
  for row in rows:
    earlier = first.setdefault(row.record.id, row)
    if _compared(earlier.record)[0] != _compared(row.record)[0]:
      again.append(at(row, f'as {earlier.place}'))
  return found(
    'shared-id',
    'warning',
    again,
    'one id for different pairs, which a restart would take for done: give '
    'each pair an id of its own',
  )


def leakage(rows: Sequence[Row], evaluation: Sequence[Row]) -> list[Finding]:
  """Rows that an evaluation set holds too, whatever their case and spaces.

  An error for the same prompt; a warning for both responses of one pair under
  another prompt, which may be the same one in another frame.
  """
  prompts: dict[str, Row] = {}
  pairs: dict[Hashable, Row] = {}
  for row in evaluation:
    prompts.setdefault(_normal(row.record.prompt), row)
    if any(row.record.pair):
      pairs.setdefault(frozenset(map(_normal, row.record.pair)), row)
  same_prompt, same_pair = [], []
  for row in rows:
    prompt = prompts.get(_normal(row.record.prompt))
    pair = pairs.get(frozenset(map(_normal, row.record.pair)))
    if prompt is not None:
      same_prompt.append(at(row, f'as {prompt.place}'))
    elif pair is not None:
      same_pair.append(at(row, f'as {pair.place}'))
  return [
    *found(
      'leaked-prompt',
      'error',
      same_prompt,
      'prompts of the evaluation set, which measures memory then: remove these '
      'rows, or split by prompt',
    ),
    *found(
      'leaked-pair',
      'warning',
      same_pair,
      'both responses are a pair of the evaluation set under another prompt: '
      'remove these rows if it is the same one in another frame',
    ),
  ]


# -- parts --------------------------------------------------------------------


def at(row: Row, note: str = '') -> Where:
  """Where a row is, for a finding to name it."""
  return Where(row.place, row.record.id, note)


def _side(p_first: float) -> int | None:
  """1 first, -1 second, 0 a tie, None no verdict."""
  if math.isnan(p_first):
    return None
  return 0 if abs(p_first - 0.5) <= _TIE else 1 if p_first > 0.5 else -1


def _compared(record: PreferenceRecord) -> tuple[Hashable, int | None]:
  """Prompt and pair in one order, whichever the row has; and the verdict."""
  side, pair = _side(record.p_first), record.pair
  if pair[0] > pair[1]:
    pair, side = pair[::-1], -side if side is not None else None
  return (record.prompt, pair), side


def _normal(text: str) -> str:
  """The text whatever its case and white space."""
  return ' '.join(text.split()).casefold()
