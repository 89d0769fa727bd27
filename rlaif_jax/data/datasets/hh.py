"""Dialogues with a preferred and a rejected last answer (Anthropic HH).

Anthropic's hh-rlhf and sets in its form: whole transcripts `chosen` and
`rejected` that share all but the last assistant turn, or rows with `prompt`,
`chosen` and `rejected`. From JSON lines, JSON, Parquet, the hub
(Anthropic/hh-rlhf) or TFDS. The texts can be offensive: they are never shown
in messages.
"""

import collections
from collections.abc import Mapping
from typing import Any

from rlaif_jax.data import _files
from rlaif_jax.data.datasets import Example, _sources
from rlaif_jax.data.records import chosen_first

_HUMAN = '\n\nHuman:'
_ASSISTANT = '\n\nAssistant:'


def load(
  path: str | None,
  split: str,
  *,
  subset: str | None = None,
  holdout: _sources.Holdout = None,
  size: int | None = None,
  revision: str | None = None,
) -> list[Example]:
  """Loads preference pairs; `response` is the preferred one.

  Rows whose transcripts share no context, or whose answers are the same or
  empty, are left out; a log line counts them.

  Args:
    path: file, folder, hub id or tfds:NAME; see `_sources`.
    split: 'train', 'valid', 'test', 'all' or the source's own name.
    subset: such as 'helpful-base' or 'harmless-base', where a folder or the
      hub has several.
    holdout: share of the dialogues to cut off as 'valid', or (valid, test).
      Given Anthropic's test file, (0.667, 0.333) is the paper's division.
    size: take the first `size` examples.
    revision: of a hub data set.

  Raises:
    FileNotFoundError: nothing at the path.
    ValueError: an empty file, or a row without these columns; names file, row
      and key.
  """
  local = _sources.is_local(path)
  query = _sources.Query(
    path=path,
    split=split,
    holdout=holdout,
    contains=(subset,) if subset and local else (),
    data_dir=None if local else subset,
    revision=revision,
  )
  examples, skipped = [], collections.Counter()
  for place, row in _sources.read_rows(query):
    example = _example(row, place)
    if isinstance(example, str):
      skipped[example] += 1
    else:
      examples.append(example)
  _sources.log_skipped(path, skipped)
  return _sources.select(examples, query, first_turn, size)


def first_turn(example: Example) -> str:
  """What the human says first: the same for all lengths of one dialogue."""
  return ' '.join(example.prompt.split(_ASSISTANT)[0].split())


def split_transcript(text: str) -> tuple[str, str] | None:
  """(context up to and with the last 'Assistant:', answer), or None."""
  end = text.rfind(_ASSISTANT)
  if end < 0:
    return None
  end += len(_ASSISTANT)
  return text[:end], text[end:].strip()


def _example(row: Mapping[str, Any], place: str) -> Example | str:
  """The row's Example, or the reason for leaving it out."""
  chosen, rejected = (
    _files.need_text(row, key, place) for key in ('chosen', 'rejected')
  )
  if row.get('prompt') is not None:
    prompt = _as_context(_files.need_text(row, 'prompt', place))
    chosen, rejected = chosen.strip(), rejected.strip()
  else:
    parts = split_transcript(chosen), split_transcript(rejected)
    if None in parts:
      raise ValueError(
        f"{place}: no '\\n\\nAssistant:' turn in 'chosen' or 'rejected'; "
        "expected whole dialogues, or a column 'prompt'"
      )
    (prompt, chosen), (other, rejected) = parts
    if prompt != other:
      return 'the two transcripts do not share their context'
  if chosen == rejected:
    return 'identical answers'
  if not (chosen and rejected):
    return 'an answer is empty'
  name = _sources.row_name(row, prompt, chosen, rejected)
  first = chosen_first(name)
  return Example(
    id=name,
    prompt=prompt,
    response=chosen,
    pair=(chosen, rejected) if first else (rejected, chosen),
    p_first=1.0 if first else 0.0,
    fields={'context': prompt.removesuffix(_ASSISTANT).strip()},
  )


def _as_context(prompt: str) -> str:
  """A prompt as a dialogue that the assistant is to continue."""
  if not prompt.startswith(_HUMAN):
    prompt = f'{_HUMAN} {prompt.removeprefix("Human:").strip()}'
  return prompt if prompt.endswith(_ASSISTANT) else prompt + _ASSISTANT
