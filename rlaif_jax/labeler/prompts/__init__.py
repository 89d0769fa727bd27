"""Labeling prompts: what the AI labeler is asked, as data.

One prompt is one file of this folder holding `PROMPT = LabelPrompt(...)`, found
by its file name, or a JSON file holding the same fields.
"""

import dataclasses
import importlib
import json
import pathlib
import string
from collections.abc import Mapping
from typing import Any, Literal

TASKS = ('summarization', 'helpful', 'harmless')
KINDS = ('pairwise', 'score')
PREFERS = ('better', 'worse')


@dataclasses.dataclass(frozen=True)
class Exemplar:
  """A worked example shown before the sample.

  Attributes:
    fields: values of the template's fields, such as {'text': ...}.
    responses: the candidates, in the order in which they are shown.
    label: the right answer, one of the prompt's labels.
  """

  fields: Mapping[str, str]
  responses: tuple[str, ...]
  label: str


@dataclasses.dataclass(frozen=True)
class LabelPrompt:
  """A labeling prompt: preamble, exemplars, sample and ending.

  The anatomy is that of Lee et al. (arXiv 2309.00267, section 2.1); the label
  is scored right after `ending`.

  Attributes:
    name: the name that records and reports show.
    task: 'summarization', 'helpful' or 'harmless'.
    preamble: the role and the instructions.
    template: the sample lines, with {response_1} (and {response_2} when
      pairwise) and the task's own fields, such as {text} or {context}.
    ending: the text after which the label follows.
    labels: the label strings, scored as strings. Pairwise: that of the first
      and of the second candidate shown. Score: from the lowest to the highest.
    kind: 'pairwise' compares two candidates, 'score' grades one.
    prefers: 'worse' if the label points at the worse candidate (or a high
      score means worse), so that the verdict has to be flipped.
    exemplars: worked examples, dropped first when the prompt is too long.
    chain_of_thought: the request for a rationale that takes the place of
      `ending` in a first call, or None to score right away.

  Raises:
    ValueError: when the parts do not fit together.
  """

  name: str
  task: Literal['summarization', 'helpful', 'harmless']
  preamble: str
  template: str
  ending: str
  labels: tuple[str, ...]
  kind: Literal['pairwise', 'score'] = 'pairwise'
  prefers: Literal['better', 'worse'] = 'better'
  exemplars: tuple[Exemplar, ...] = ()
  chain_of_thought: str | None = None

  def __post_init__(self):
    for key, allowed in (
      ('task', TASKS),
      ('kind', KINDS),
      ('prefers', PREFERS),
    ):
      if getattr(self, key) not in allowed:
        self._fail(f'{key} is {getattr(self, key)!r}; use one of {allowed}')
    if not self.ending.strip():
      self._fail('the ending is empty; the label needs a place to follow')
    if len(set(self.labels)) != len(self.labels) or not all(self.labels):
      self._fail(f'labels {self.labels} are empty or repeat')
    if self.num_responses == 2 and len(self.labels) != 2:
      self._fail(f'a pairwise prompt has 2 labels, not {len(self.labels)}')
    if len(self.labels) < 2:
      self._fail('a prompt needs at least 2 labels')
    for number in range(1, self.num_responses + 1):
      if f'response_{number}' not in self.placeholders:
        self._fail(f'the template lacks {{response_{number}}}')
    for i, exemplar in enumerate(self.exemplars):
      self._check_exemplar(i, exemplar)

  @property
  def num_responses(self) -> int:
    """Number of candidates that one prompt shows."""
    return 2 if self.kind == 'pairwise' else 1

  @property
  def placeholders(self) -> tuple[str, ...]:
    """Names in braces in the template, in order."""
    parsed = string.Formatter().parse(self.template)
    return tuple(name for _, name, _, _ in parsed if name is not None)

  @property
  def field_names(self) -> tuple[str, ...]:
    """Placeholders that are not candidates, in order."""
    return tuple(
      p for p in self.placeholders if p not in ('response_1', 'response_2')
    )

  def _check_exemplar(self, index: int, exemplar: Exemplar):
    missing = set(self.field_names) - set(exemplar.fields)
    if missing:
      self._fail(f'exemplar {index} lacks the fields {sorted(missing)}')
    if len(exemplar.responses) != self.num_responses:
      self._fail(
        f'exemplar {index} has {len(exemplar.responses)} candidates; '
        f'the prompt shows {self.num_responses}'
      )
    if exemplar.label not in self.labels:
      self._fail(
        f'exemplar {index} has the label {exemplar.label!r}, '
        f'which is not one of {self.labels}'
      )

  def _fail(self, message: str):
    raise ValueError(f'labeling prompt {self.name!r}: {message}')


def prompt_names() -> tuple[str, ...]:
  """Names of the prompts that ship with the package."""
  folder = pathlib.Path(__file__).parent
  return tuple(
    sorted(p.stem for p in folder.glob('*.py') if p.stem != '__init__')
  )


def load_prompt(name_or_path: str) -> LabelPrompt:
  """Returns a shipped prompt by its name, or a user's by its JSON path.

  Args:
    name_or_path: a file name of this folder such as 'summary_base', or the
      path of a .json file whose keys are the fields of `LabelPrompt`; the
      name defaults to the file's.

  Raises:
    FileNotFoundError: no such name or file; the message lists the names.
    ValueError: the JSON file is not a prompt.
  """
  if name_or_path in prompt_names():
    return importlib.import_module(f'{__name__}.{name_or_path}').PROMPT
  path = pathlib.Path(name_or_path)
  if path.suffix == '.json' and path.is_file():
    return _from_json(path)
  raise FileNotFoundError(
    f'no labeling prompt {name_or_path!r}; use one of '
    f'{", ".join(prompt_names())}, or the path of a .json file'
  )


def _from_json(path: pathlib.Path) -> LabelPrompt:
  try:
    data = json.loads(path.read_text('utf-8'))
  except json.JSONDecodeError as error:
    raise ValueError(f'{path} is not valid JSON: {error}') from error
  if not isinstance(data, dict):
    raise ValueError(f'{path}: expected an object with the prompt fields')
  data = {'name': path.stem, **data}
  _check_keys(path, 'prompt', data, LabelPrompt)
  _check_strings(path, data)
  exemplars = []
  for i, entry in enumerate(data.get('exemplars', ())):
    _check_keys(path, f'exemplar {i}', entry, Exemplar)
    responses = tuple(entry['responses'])
    exemplars.append(Exemplar(entry['fields'], responses, entry['label']))
  labels = tuple(data['labels'])
  return LabelPrompt(
    **{**data, 'labels': labels, 'exemplars': tuple(exemplars)}
  )


def _check_keys(path: pathlib.Path, what: str, data: Any, cls: type):
  fields = dataclasses.fields(cls)
  known = {f.name for f in fields}
  needed = {f.name for f in fields if f.default is dataclasses.MISSING}
  given = set(data)
  if given - known or needed - given:
    raise ValueError(
      f'{path}: {what} has unknown keys {sorted(given - known)} and lacks '
      f'{sorted(needed - given)}; the keys are {sorted(known)}'
    )


def _check_strings(path: pathlib.Path, data: Mapping[str, Any]):
  for key in ('name', 'preamble', 'template', 'ending'):
    if not isinstance(data[key], str):
      raise ValueError(f'{path}: {key} must be a string')
  labels = data['labels']
  if isinstance(labels, str) or not all(isinstance(x, str) for x in labels):
    raise ValueError(f'{path}: labels must be a list of strings')
