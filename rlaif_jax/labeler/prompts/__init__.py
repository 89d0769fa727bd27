"""Labeling prompts: what the AI labeler is asked, as data.

One prompt is one file of this folder holding `PROMPT = LabelPrompt(...)`, found
by its file name, or a JSON file holding the same fields. `_2shot` after a name
puts two exemplars of the task before the sample: 'summary_detailed_cot_2shot'.
"""

import dataclasses
import importlib
import json
import math
import pathlib
import re
import string
from collections.abc import Mapping
from typing import Any, Literal

TASKS = ('summarization', 'helpful', 'harmless')
KINDS = ('pairwise', 'score', 'yes_no')
PREFERS = ('better', 'worse')
# Techniques of the paper's Table 2, to be put after 'summary_', 'helpful_' or
# 'harmless_'.
VARIANTS = (
  'base',
  'base_1shot',
  'base_2shot',
  'base_cot',
  'detailed',
  'detailed_1shot',
  'detailed_2shot',
  'detailed_8shot',
  'detailed_cot',
  'detailed_cot_1shot',
  'detailed_cot_2shot',
)
_SHOTS = re.compile(r'(.+)_(\d+)shot')
_EXEMPLARS = pathlib.Path(__file__).parents[1] / 'exemplars'


@dataclasses.dataclass(frozen=True)
class Exemplar:
  """A worked example shown before the sample.

  Attributes:
    fields: values of the template's fields, such as {'text': ...}.
    responses: the candidates, in the order in which they are shown.
    label: the right answer, one of the prompt's labels.
    rationale: what leads to it; needed where the prompt asks for one.
  """

  fields: Mapping[str, str]
  responses: tuple[str, ...]
  label: str
  rationale: str = ''


@dataclasses.dataclass(frozen=True)
class Criterion:
  """A principle of a constitution, or one line of a rubric.

  Attributes:
    text: stands for {criterion} in the preamble.
    weight: of its verdict in the mean; above 0.
  """

  text: str
  weight: float = 1.0


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
      Yes or no: that of no first.
    kind: 'pairwise' compares two candidates, 'score' grades one, and 'yes_no'
      asks whether one is good.
    prefers: 'worse' if the label points at the worse candidate (or a high
      score means worse), so that the verdict has to be flipped.
    exemplars: worked examples, dropped first when the prompt is too long.
    chain_of_thought: the request for a rationale that takes the place of
      `ending` in a first call, or None to score right away.
    criteria: what {criterion} in the preamble stands for, one at a time: the
      candidates are judged by each, and the verdicts averaged by weight.
    num_drawn: how many criteria are drawn for each row, as principles of a
      constitution are (arXiv 2212.08073, 4.1); 0 asks all of them.

  Raises:
    ValueError: when the parts do not fit together.
  """

  name: str
  task: Literal['summarization', 'helpful', 'harmless']
  preamble: str
  template: str
  ending: str
  labels: tuple[str, ...]
  kind: Literal['pairwise', 'score', 'yes_no'] = 'pairwise'
  prefers: Literal['better', 'worse'] = 'better'
  exemplars: tuple[Exemplar, ...] = ()
  chain_of_thought: str | None = None
  criteria: tuple[Criterion, ...] = ()
  num_drawn: int = 0

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
    if self.kind != 'score' and len(self.labels) != 2:
      self._fail(f'a {self.kind} prompt has 2 labels, not {len(self.labels)}')
    if len(self.labels) < 2:
      self._fail('a prompt needs at least 2 labels')
    for number in range(1, self.num_responses + 1):
      if f'response_{number}' not in self.placeholders:
        self._fail(f'the template lacks {{response_{number}}}')
    if self.chain_of_thought is not None and not self.chain_of_thought.strip():
      self._fail('chain_of_thought is empty; None asks for no rationale')
    self._check_criteria()
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

  def _check_criteria(self):
    if bool(self.criteria) != ('{criterion}' in self.preamble):
      self._fail('criteria and {criterion} in the preamble need each other')
    for criterion in self.criteria:
      if not criterion.text.strip() or not 0 < criterion.weight < math.inf:
        self._fail(f'{criterion} is empty or has no weight above 0')
    if not 0 <= self.num_drawn <= len(self.criteria):
      self._fail(f'num_drawn={self.num_drawn} of {len(self.criteria)} criteria')

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
    if self.chain_of_thought is not None and not exemplar.rationale.strip():
      self._fail(f'exemplar {index} lacks the rationale that the prompt wants')

  def _fail(self, message: str):
    raise ValueError(f'labeling prompt {self.name!r}: {message}')


def prompt_names() -> tuple[str, ...]:
  """Names of the prompts that ship with the package."""
  folder = pathlib.Path(__file__).parent
  return tuple(
    sorted(p.stem for p in folder.glob('*.py') if p.stem != '__init__')
  )


def load_prompt(name_or_path: str, exemplars: str = '') -> LabelPrompt:
  """Returns a shipped prompt by its name, or a user's by its JSON path.

  Args:
    name_or_path: a file name of this folder such as 'summary_base', or the
      path of a .json file whose keys are the fields of `LabelPrompt`; the
      name defaults to the file's. With `_<n>shot` after it (before .json for a
      path), the first n exemplars of `exemplars` are shown.
    exemplars: a .json file of worked examples, each with `fields`, `responses`,
      `better` (1 or 2) and, for chain of thought, `rationale`; or a folder of
      them, named by task. '' is the one that ships with the package.

  Raises:
    FileNotFoundError: no such name or file; the message lists the names.
    ValueError: the JSON file is not a prompt, or there are fewer exemplars.
  """
  stem = name_or_path.removesuffix('.json')
  shots = _SHOTS.fullmatch(stem)
  if shots and not pathlib.Path(name_or_path).is_file():
    base = load_prompt(shots[1] + name_or_path[len(stem) :])
    return with_exemplars(base, int(shots[2]), exemplars)
  if name_or_path in prompt_names():
    return importlib.import_module(f'{__name__}.{name_or_path}').PROMPT
  path = pathlib.Path(name_or_path)
  if path.suffix == '.json' and path.is_file():
    return _from_json(path)
  raise FileNotFoundError(
    f'no labeling prompt {name_or_path!r}; use one of '
    f'{", ".join(prompt_names())}, perhaps with _1shot or so after it, or the '
    'path of a .json file'
  )


def with_exemplars(
  prompt: LabelPrompt, count: int, path: str = ''
) -> LabelPrompt:
  """`prompt` with the first `count` exemplars of a file; see `load_prompt`.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not a pairwise prompt, fewer exemplars, or one is broken.
  """
  if prompt.kind != 'pairwise':
    raise ValueError(
      f'labeling prompt {prompt.name!r}: exemplars are pairs, and this prompt '
      f'is {prompt.kind}; put exemplars of its own into its file'
    )
  file = pathlib.Path(path or _EXEMPLARS)
  if file.is_dir():
    file = file / f'{prompt.task}.json'
  if not file.is_file():
    raise FileNotFoundError(f'{file}: no such file of exemplars')
  rows = _load_json(file)
  if not isinstance(rows, list) or len(rows) < count:
    raise ValueError(
      f'{file}: {prompt.name}_{count}shot needs a list of {count} exemplars'
    )
  shown = tuple(
    _pair_exemplar(prompt, f'{file}: exemplar {i}', row)
    for i, row in enumerate(rows[:count])
  )
  try:
    return dataclasses.replace(
      prompt, name=f'{prompt.name}_{count}shot', exemplars=shown
    )
  except ValueError as error:
    raise ValueError(f'{file}: {error}') from error


def _pair_exemplar(prompt: LabelPrompt, place: str, row: Any) -> Exemplar:
  better = row.get('better') if isinstance(row, dict) else None
  if isinstance(better, bool) or better not in (1, 2):
    raise ValueError(f'{place}: should be an object with better: 1 or 2')
  first = (better == 1) == (prompt.prefers == 'better')
  values = {k: v for k, v in row.items() if k != 'better'}
  label = prompt.labels[0 if first else 1]
  return _exemplar(place, {**values, 'label': label})


def _exemplar(place: str, row: Any) -> Exemplar:
  if not isinstance(row, dict):
    raise ValueError(f'{place}: should be an object')
  _check_keys(place, row, Exemplar)
  fields, responses = row['fields'], row['responses']
  if not isinstance(fields, dict) or not isinstance(responses, list | tuple):
    raise ValueError(f'{place}: fields is an object, and responses a list')
  texts = [row['label'], row.get('rationale', ''), *responses]
  if not all(isinstance(x, str) for x in (*texts, *fields.values())):
    raise ValueError(f'{place}: fields, responses and label should be texts')
  return Exemplar(**{**row, 'responses': tuple(responses)})


def _load_json(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text('utf-8'))
  except json.JSONDecodeError as error:
    raise ValueError(f'{path} is not valid JSON: {error}') from error


def _from_json(path: pathlib.Path) -> LabelPrompt:
  data = _load_json(path)
  if not isinstance(data, dict):
    raise ValueError(f'{path}: expected an object with the prompt fields')
  data = {'name': path.stem, **data}
  _check_keys(f'{path}: prompt', data, LabelPrompt)
  _check_strings(path, data)
  for i, row in enumerate(data.get('criteria', ())):
    _check_keys(f'{path}: criterion {i}', row, Criterion)
  return LabelPrompt(
    **{
      **data,
      'labels': tuple(data['labels']),
      'criteria': tuple(Criterion(**c) for c in data.get('criteria', ())),
      'exemplars': tuple(
        _exemplar(f'{path}: exemplar {i}', row)
        for i, row in enumerate(data.get('exemplars', ()))
      ),
    }
  )


def _check_keys(place: str, data: Any, cls: type):
  fields = dataclasses.fields(cls)
  known = {f.name for f in fields}
  needed = {f.name for f in fields if f.default is dataclasses.MISSING}
  given = set(data)
  if given - known or needed - given:
    raise ValueError(
      f'{place} has unknown keys {sorted(given - known)} and lacks '
      f'{sorted(needed - given)}; the keys are {sorted(known)}'
    )


def _check_strings(path: pathlib.Path, data: Mapping[str, Any]):
  for key in ('name', 'preamble', 'template', 'ending'):
    if not isinstance(data[key], str):
      raise ValueError(f'{path}: {key} must be a string')
  labels = data['labels']
  if isinstance(labels, str) or not all(isinstance(x, str) for x in labels):
    raise ValueError(f'{path}: labels must be a list of strings')
