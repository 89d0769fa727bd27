"""What a model is asked when it criticises a reply and writes it again.

The texts are those of a conversation with itself: a reply, a request to
criticise it by one principle, the critique, a request to write the reply anew,
the revised reply (Constitutional AI, arXiv 2212.08073, 3.1). Worked examples
before it keep the roles straight. All wording is our own.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

from rlaif_jax.labeler import prompts

HEADINGS = (
  'Context -',
  'Reply -',
  'Critique request -',
  'Critique -',
  'Revision request -',
  'Revised reply -',
)
_CONTEXT, _REPLY, _ASK, _CRITIQUE, _ASK_AGAIN, _REVISED = HEADINGS
_STOP = re.compile('|'.join(f'\n\\s*{re.escape(h)}' for h in HEADINGS))


@dataclasses.dataclass(frozen=True)
class Exemplar:
  """One worked example; `principle` as in a constitution."""

  context: str
  response: str
  principle: str
  critique: str
  revision: str


@dataclasses.dataclass(frozen=True)
class Requests:
  """What is asked for.

  Attributes:
    critique: with {principle}, which reads on from it as a verb does: "is
      rude", "gives away a secret".
    revision: asks for the reply anew.

  Raises:
    ValueError: `critique` names no principle.
  """

  critique: str = (
    'Compared with the wisest reply there could be, say in what way this one '
    '{principle}.'
  )
  revision: str = (
    'Write the reply again so that this can no longer be said of it. Help '
    'where help is right.'
  )

  def __post_init__(self):
    if '{principle}' not in self.critique:
      raise ValueError(
        'config.requests.critique has no {principle}: say where it goes'
      )

  def about(self, principle: str) -> str:
    """The request for a critique by a principle."""
    return self.critique.replace('{principle}', principle)


@dataclasses.dataclass(frozen=True)
class Principle:
  """One principle, with the requests for a critique and a revision by it."""

  text: str
  critique: str
  revision: str


EXEMPLARS = (
  Exemplar(
    context='Human: My brother always takes my bike. How do I cut its tires?',
    response='Push a thin blade into the side of the tire, where it is soft.',
    principle='would more likely lead to someone getting hurt',
    critique=(
      'The reply explains how to damage a tire. He may ride off before he '
      'notices it, and fall.'
    ),
    revision=(
      'I would leave the tires alone: he could fall and be hurt. Tell him that '
      'you need the bike, and lock it when you do not want to lend it.'
    ),
  ),
  Exemplar(
    context='Human: What is a good soup for a cold evening?',
    response='Only a fool has to ask that. Make lentil soup.',
    principle='is more insulting or rude to the person who asks',
    critique=(
      'The question is harmless, and the reply calls the person a fool for it. '
      'The advice itself is fine.'
    ),
    revision=(
      'Lentil soup is a good choice: it is warm, filling, and done in half an '
      'hour.'
    ),
  ),
  Exemplar(
    context='Human: Can you find out where my old teacher lives now?',
    response='Sure, ask at the town hall and say that you are her nephew.',
    principle='encourages more deceit or manipulation',
    critique=(
      'The reply tells the person to lie about who they are in order to get an '
      'address that the teacher may not want to give away.'
    ),
    revision=(
      'I would rather not help to find her address behind her back. The school '
      'may pass on a letter, and then she can decide whether to answer.'
    ),
  ),
)


def load_exemplars(path: str) -> tuple[Exemplar, ...]:
  """Worked examples from a JSON list of objects, or those that ship for ''.

  Raises:
    FileNotFoundError: no such file.
    ValueError: it holds something else; names the file, the item and the key.
  """
  if not path:
    return EXEMPLARS
  file = pathlib.Path(path).expanduser()
  if not file.is_file():
    raise FileNotFoundError(f'{path}: no such file of exemplars')
  try:
    rows = json.loads(file.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{path}: not valid JSON ({error})') from error
  keys = [field.name for field in dataclasses.fields(Exemplar)]
  for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
    if not isinstance(row, dict) or sorted(row) != sorted(keys):
      raise ValueError(
        f'{path}: item {number} should be an object with {", ".join(keys)}'
      )
    for key in keys:
      if not isinstance(row[key], str):
        raise ValueError(f'{path}: item {number}: {key} should be text')
  return tuple(Exemplar(**row) for row in rows)


def load_constitution(
  name_or_path: str, requests: Requests
) -> tuple[Principle, ...]:
  """The principles of a constitution.

  Args:
    name_or_path: a labeling prompt with criteria, by its name or JSON file; or
      a JSON file of whole requests, a list (or an object that holds it as
      `constitutions`) of objects with `critique` (or `critic`) and `revision`.
    requests: how a principle of a labeling prompt is asked for.

  Raises:
    ValueError: there are no principles, or one is broken; names the item.
  """
  path = pathlib.Path(name_or_path).expanduser()
  data = None
  if path.suffix == '.json' and path.is_file():
    try:
      data = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
      raise ValueError(f'{path}: not valid JSON ({error})') from error
  if isinstance(data, dict) and 'constitutions' in data:
    data = data['constitutions']
  if isinstance(data, list):
    found = [_pair(f'{path}: item {i}', row) for i, row in enumerate(data)]
  else:
    found = [
      Principle(c.text, requests.about(c.text), requests.revision)
      for c in prompts.load_prompt(name_or_path).criteria
    ]
  if not found:
    raise ValueError(
      f'config.constitution={name_or_path!r} has no criteria, which are the '
      'principles'
    )
  return tuple(found)


def _pair(place: str, row) -> Principle:
  row = row if isinstance(row, dict) else {}
  critique = row.get('critique', row.get('critic'))
  revision = row.get('revision')
  if not (isinstance(critique, str) and isinstance(revision, str)):
    raise ValueError(
      f'{place} should be an object with the texts critique and revision'
    )
  return Principle(critique, critique, revision)


def critique_text(
  fields: Mapping[str, str],
  response: str,
  request: str,
  requests: Requests,
  exemplars: Sequence[Exemplar],
) -> str:
  """What the model reads before it writes a critique.

  Args:
    fields: of the row; its context, else its text, is the conversation.
    response: what is criticised.
    request: that of a principle.
    requests: how the principles of exemplars are asked for.
    exemplars: shown before.
  """
  shown = [
    revision_text(
      _case(e.context, e.response, requests.about(e.principle)),
      e.critique,
      requests.revision,
    )
    + f' {e.revision}'
    for e in exemplars
  ]
  context = fields.get('context') or fields.get('text') or ''
  case = _case(context, response, request)
  return '\n\n\n'.join([*shown, case])


def revision_text(critique_text: str, critique: str, request: str) -> str:
  """What it reads before it writes the reply again."""
  return (
    f'{critique_text} {plain(critique)}\n\n{_ASK_AGAIN} {request}\n\n{_REVISED}'
  )


def _case(context: str, response: str, request: str) -> str:
  return '\n\n'.join(
    (
      f'{_CONTEXT} {context.strip()}',
      f'{_REPLY} {plain(response)}',
      f'{_ASK} {request}',
      _CRITIQUE,
    )
  )


def plain(text: str) -> str:
  """A text as one paragraph: no line of it can pass for a heading."""
  return ' '.join(text.split())


def written(text: str) -> str:
  """What the model wrote, up to where it goes on with a heading of its own."""
  return _STOP.split(f'\n{text}', maxsplit=1)[0].strip()


def fitting(
  build: Callable[[Sequence[Exemplar]], str],
  exemplars: Sequence[Exemplar],
  fits: Callable[[str], bool],
) -> str | None:
  """The text with as many of the first exemplars as fit; None if none does."""
  for count in range(len(exemplars), -1, -1):
    text = build(exemplars[:count])
    if fits(text):
      return text
  return None
