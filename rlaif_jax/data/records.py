"""Preference records: labelled pairs on disk, safe to append to and resume.

One JSON object a line:

  id, prompt, response_1, response_2   what was compared
  p_first                              P(response_1 is the better one)
  logprobs_12, logprobs_21             label log-probs by order of presentation
  rationales                           chain-of-thought texts, one an order
  prompt_name, labeler, labeler_hash, config_hash    who decided, and how
  fields, meta                         of the example

Parquet files hold the same columns (`fields` and `meta` as JSON text). TRL's
columns (prompt, chosen, rejected, margin) are read and written too.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rlaif_jax.data import _files
from rlaif_jax.data._hashing import plain, stable_hash

_REQUIRED = ('prompt', 'response_1', 'response_2', 'p_first')
# JSON has no -inf; a label that cannot occur is stored with this log-prob.
_LOWEST = float(np.finfo(np.float32).min)
_CERTAIN = 1e-6  # p_first is kept this far from 0 and 1 where a logit is taken


@dataclasses.dataclass(frozen=True)
class PreferenceRecord:
  """A labelled pair; the module docstring says what the fields mean."""

  id: str
  prompt: str
  response_1: str
  response_2: str
  p_first: float
  logprobs_12: tuple[float, ...] | None = None
  logprobs_21: tuple[float, ...] | None = None
  rationales: tuple[str, ...] = ()
  prompt_name: str = ''
  labeler: str = ''
  labeler_hash: str = ''
  config_hash: str = ''
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
  meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def pair(self) -> tuple[str, str]:
    """Both responses, as `Example.pair`."""
    return self.response_1, self.response_2


_COLUMNS = tuple(f.name for f in dataclasses.fields(PreferenceRecord))


# -- checks -------------------------------------------------------------------


def validate(record: PreferenceRecord, place: str) -> PreferenceRecord:
  """Returns `record` if it can be trained on.

  Args:
    record: to check.
    place: where it stands, such as 'file.jsonl:7', for messages.

  Raises:
    ValueError: identical responses, a p_first that is not a number in [0, 1],
      or log-probs that are not numbers; names place and key.
  """
  if record.response_1 == record.response_2:
    raise ValueError(
      f'{place}: response_1 and response_2 are identical, so neither can be '
      'preferred; remove this row'
    )
  p = record.p_first
  if isinstance(p, bool) or not isinstance(p, int | float | np.number):
    raise ValueError(f'{place}: p_first should be a number but is {p!r}')
  if not math.isfinite(p):
    raise ValueError(
      f'{place}: p_first is {p}; remove this row or label it again'
    )
  if not 0 <= p <= 1:
    raise ValueError(f'{place}: p_first is {p}, outside [0, 1]')
  for key in ('logprobs_12', 'logprobs_21'):
    values = getattr(record, key)
    if values is not None and any(math.isnan(v) for v in values):
      raise ValueError(f'{place}: {key} has a NaN; label this row again')
  return record


def from_row(row: Mapping[str, Any], place: str) -> PreferenceRecord:
  """Record from columns; columns that are not ours go into `meta`.

  Without `id`, the row is named by a hash of its texts.

  Raises:
    ValueError: a missing or wrong column, or what `validate` finds.
  """
  missing = [key for key in _REQUIRED if key not in row]
  if missing:
    raise ValueError(
      f'{place}: no column {", ".join(map(repr, missing))}; it has '
      f'{", ".join(sorted(row))}'
    )
  texts = [_files.need_text(row, key, place) for key in _REQUIRED[:3]]
  values = {key: row[key] for key in _COLUMNS if row.get(key) is not None}
  values['p_first'] = row['p_first']  # `validate` refuses a null
  for key in {'logprobs_12', 'logprobs_21', 'rationales'} & values.keys():
    kind = str if key == 'rationales' else float
    values[key] = _files.need_list(row, key, kind, place)
  for key in ('fields', 'meta'):
    if isinstance(values.get(key), str):
      values[key] = _files.parse_line(values[key], f'{place}: {key}')
  values['fields'] = _files.need_texts(values, 'fields', place)
  meta = values.get('meta', {})
  if not isinstance(meta, dict):
    raise ValueError(f'{place}: meta should be an object')
  values['meta'] = meta | {k: v for k, v in row.items() if k not in _COLUMNS}
  values['id'] = str(values.get('id', stable_hash(texts)))
  return validate(PreferenceRecord(**values), place)


# -- JSON lines ---------------------------------------------------------------


def append(
  path: str | os.PathLike[str], records: Iterable[PreferenceRecord]
) -> None:
  """Adds records to a JSON lines file, and returns when they are on disk.

  Each record is one whole line; a line that an earlier run left half-written
  is removed first, with a warning. The file is made if missing.

  Raises:
    ValueError: a record that `validate` refuses; nothing is written then.
  """
  path = pathlib.Path(path)
  lines = [
    _to_line(validate(record, f'{path}: record {record.id}'))
    for record in records
  ]
  _files.append_lines(path, lines)


def read(path: str | os.PathLike[str]) -> list[PreferenceRecord]:
  """Records of a JSON lines file, in order.

  A half-written last line, as a killed run leaves it, is left out with a
  warning.

  Raises:
    FileNotFoundError: no such file.
    ValueError: any other broken line; names file, line and key.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'{path}: no such file of preference records')
  return [
    from_row(_files.parse_line(line, place), place)
    for place, line in _files.whole_lines(path)
  ]


def done_ids(path: str | os.PathLike[str]) -> set[str]:
  """Ids that the file holds already; empty if there is no file yet."""
  return {r.id for r in read(path)} if pathlib.Path(path).is_file() else set()


def _to_line(record: PreferenceRecord) -> str:
  row = {
    key: value
    for key, value in plain(record).items()
    if key in _REQUIRED or value not in (None, '', (), {})
  }
  for key in ('logprobs_12', 'logprobs_21'):
    if key in row:
      row[key] = [max(float(v), _LOWEST) for v in row[key]]
  row['p_first'] = float(row['p_first'])
  text = json.dumps(row, ensure_ascii=False, allow_nan=False, default=plain)
  return text + '\n'


# -- other forms --------------------------------------------------------------


def read_preferences(
  path: str | os.PathLike[str], *, margin_is_logit: bool = False
) -> list[PreferenceRecord]:
  """Records of any file of preferences, ours or TRL's.

  Args:
    path: .jsonl, .jsonl.gz, .json or .parquet; our columns, or prompt, chosen
      and rejected (text, or chat messages).
    margin_is_logit: see `from_trl`.

  Raises:
    FileNotFoundError: no such file.
    ValueError: an empty file or a bad row; names file, row and key.
  """
  records = []
  for place, row in _files.read_file(path):
    if 'chosen' in row and 'response_1' not in row:
      records.append(from_trl(row, place, margin_is_logit=margin_is_logit))
    else:
      records.append(from_row(row, place))
  return records


def write(
  path: str | os.PathLike[str], records: Sequence[PreferenceRecord]
) -> None:
  """Writes a whole new file, JSON lines or (by its ending) Parquet.

  Raises:
    FileExistsError: the file is there already.
    ValueError: a record that `validate` refuses, or no record at all.
  """
  path = pathlib.Path(path)
  if not records:
    raise ValueError(f'{path}: there is no record to write')
  if path.exists():
    raise FileExistsError(
      f'{path}: exists already; remove it or write elsewhere'
    )
  if path.suffix != '.parquet':
    append(path, records)
    return
  import pyarrow
  import pyarrow.parquet

  rows = []
  for record in records:
    row = plain(validate(record, f'{path}: record {record.id}'))
    row['p_first'] = float(row['p_first'])
    for key in ('fields', 'meta'):
      row[key] = json.dumps(row[key], ensure_ascii=False, default=plain)
    rows.append(row)
  path.parent.mkdir(parents=True, exist_ok=True)
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def to_trl(record: PreferenceRecord) -> dict[str, Any]:
  """TRL's columns: prompt, chosen, rejected, margin.

  Responses get the leading space that the policy sees. `margin` is the logit
  of the preference, >= 0: the reward difference that p_first stands for.
  """
  p = min(max(float(record.p_first), _CERTAIN), 1 - _CERTAIN)
  logit = math.log(p / (1 - p))
  best, other = record.pair if logit >= 0 else record.pair[::-1]
  return {
    'prompt': record.prompt,
    'chosen': ' ' + best,
    'rejected': ' ' + other,
    'margin': abs(logit),
  }


def write_trl(
  path: str | os.PathLike[str], records: Iterable[PreferenceRecord]
) -> None:
  """Writes a new JSON lines file with the columns that TRL reads.

  Raises:
    FileExistsError: the file is there already.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, 'x', encoding='utf-8') as file:
    for record in records:
      file.write(json.dumps(to_trl(record), ensure_ascii=False) + '\n')


def from_trl(
  row: Mapping[str, Any], place: str, *, margin_is_logit: bool = False
) -> PreferenceRecord:
  """Record from TRL's columns.

  Args:
    row: prompt, chosen, rejected, each text or a list of chat messages; other
      columns go into `meta`.
    place: where the row stands, for messages.
    margin_is_logit: take p_first from `margin` as `to_trl` writes it. Others
      mean other things by it, so the default is a hard label.

  Raises:
    ValueError: a missing column or what `validate` finds.
  """
  chat = isinstance(row.get('prompt'), list)
  prompt, chosen, rejected = (
    _chat_text(row[key], place, key)
    if chat and key in row
    else _files.need_text(row, key, place)
    for key in ('prompt', 'chosen', 'rejected')
  )
  if chat:
    prompt += '\n\nAssistant:'
    chosen, rejected = (
      text.removeprefix('\n\nAssistant:') for text in (chosen, rejected)
    )
  chosen, rejected = chosen.strip(), rejected.strip()
  p_chosen = 1.0
  if margin_is_logit:
    margin = row.get('margin')
    if not isinstance(margin, int | float) or not math.isfinite(margin):
      raise ValueError(f'{place}: margin should be a finite number: {margin!r}')
    p_chosen = 0.5 * (1 + math.tanh(margin / 2))  # sigmoid, no overflow
  name = str(row.get('id', stable_hash([prompt, chosen, rejected])))
  first = chosen_first(name)
  columns = ('id', 'prompt', 'chosen', 'rejected')
  return validate(
    PreferenceRecord(
      id=name,
      prompt=prompt,
      response_1=chosen if first else rejected,
      response_2=rejected if first else chosen,
      p_first=p_chosen if first else 1 - p_chosen,
      meta={key: row[key] for key in row if key not in columns},
    ),
    place,
  )


def chosen_first(name: str) -> bool:
  """Whether the chosen response of row `name` becomes response 1.

  Decided by a hash: were it always 1, a model could learn the position.
  """
  return int(stable_hash(name)[:8], 16) % 2 == 0


def _chat_text(messages: Any, place: str, key: str) -> str:
  """Chat messages as a dialogue, '\\n\\nHuman: ...\\n\\nAssistant: ...'."""
  speakers = {'user': 'Human', 'assistant': 'Assistant', 'system': 'System'}
  try:
    turns = [(speakers[m['role']], m['content']) for m in messages]
  except (KeyError, TypeError) as error:
    raise ValueError(
      f'{place}: column {key!r} should be text or a list of messages with role '
      f'and content (user, assistant, system); problem: {error!r}'
    ) from error
  return ''.join(f'\n\n{who}: {text.strip()}' for who, text in turns)
