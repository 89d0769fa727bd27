"""Critique and revision: a model mends replies by principles.

The first half of Constitutional AI (arXiv 2212.08073, section 3). In each of
several rounds, and for each reply:

  1. a principle is drawn, by seed, row and round
  2. the reviser says in what way the reply offends against it
  3. it writes the reply again

Replies are the responses of a data set, such as the samples of a policy (stage
`sample`). `revisions/all.jsonl` has every round; `revisions/selected.jsonl` the
revisions to learn from by SFT, for the data set 'jsonl'. A restart makes only
what is missing. The second half are stages that there are: labels by principles
(prompt 'harmless_constitution'), a reward model, RL; see
configs/constitutional.py.
"""

import dataclasses
import functools
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from rlaif_jax.data import _files, truncation
from rlaif_jax.data.datasets import Example
from rlaif_jax.labeler import Labeler, criteria, prompts
from rlaif_jax.rewards import TOKENS
from rlaif_jax.stages import _critique, _labelers, _options, _rows, common
from rlaif_jax.training import workdir as workdir_lib

ALL = 'revisions/all.jsonl'
SELECTED = 'revisions/selected.jsonl'

_log = logging.getLogger(__name__)

Row = dict[str, Any]  # a line of `ALL`


def default_config() -> ConfigDict:
  """The paper's: four rounds at T 1, all revisions are learned from."""
  c = common.base_config('revise')
  c.data = common.data_config('jsonl', 'all')  # prompts with responses
  block = _labelers.config()
  # Who criticises and revises; in the paper the model that wrote the replies.
  fields = ('path', *_labelers.LOADED)
  c.reviser = ConfigDict({key: block[key] for key in fields})
  c.num_rounds = 4
  # A labeling prompt with criteria, or a JSON file of one, or of pairs of
  # requests: the principles, of which each reply gets one a round.
  c.constitution = 'harmless_constitution'
  c.requests = ConfigDict(dataclasses.asdict(_critique.Requests()))
  c.exemplars = ''  # JSON file of worked examples; '' = what ships
  c.num_exemplars = 3  # at most, as many as fit
  c.max_critique = 128  # tokens
  c.max_response = 128
  c.sampling = common.sampling_config(1.0)
  c.keep = 'all'  # or 'last': only the last revision of each reply
  c.chunk = 256  # replies between two writes to disk
  return c


def run(config: ConfigDict, workdir) -> None:
  """Writes `revisions/all.jsonl`, `revisions/selected.jsonl` and a summary."""
  with common.session(config, workdir) as s:
    if s is None:
      return
    check(config)
    examples = common.load_examples(config.data)
    check_responses(examples, common.source(config.data))
    labeler = _labelers.load(config.reviser, config.reviser.path, s)
    rows, took = revise_all(s, examples, labeler)
    kept = selected(rows, config.keep)
    if not kept:
      raise ValueError(
        'there is no revision: every one was empty, or no prompt fitted the '
        'reviser; see the notes above'
      )
    if jax.process_index() == 0:
      workdir_lib.write_text_atomic(
        s.workdir / SELECTED, ''.join(map(_rows.line, kept))
      )
    workdir_lib.finish(s.workdir, {**summarise(rows, len(examples)), **took})


def check(config: ConfigDict) -> None:
  """Raises ValueError for what can be known to be wrong before loading."""
  if config.keep not in ('all', 'last'):
    raise ValueError(f"config.keep={config.keep!r}; use 'all' or 'last'")
  for key in ('num_rounds', 'max_critique'):
    if config[key] < 1:
      raise ValueError(f'config.{key}={config[key]}; it must be at least 1')
  _critique.load_constitution(config.constitution, requests_of(config))
  _critique.load_exemplars(config.exemplars)
  common.make_sampling(config.sampling)


def check_responses(examples: Sequence[Example], source: str) -> None:
  """Raises ValueError naming a row without a response to revise."""
  for example in examples:
    if not example.response:
      raise ValueError(
        f'{source}: row {example.id} has no response to revise; sample some '
        "first (stage 'sample')"
      )


def requests_of(config: ConfigDict) -> _critique.Requests:
  """How critiques and revisions are asked for."""
  return _options.build(
    _critique.Requests, config.requests.to_dict(), 'config.requests'
  )


def draw(
  principles: Sequence[_critique.Principle], name: str, seed: int
) -> _critique.Principle:
  """One principle, by seed and name alone, as labels draw theirs."""
  prompt = dataclasses.replace(
    prompts.load_prompt('harmless_constitution'),
    criteria=tuple(prompts.Criterion(p.text) for p in principles),
    num_drawn=1,
  )
  (drawn,) = criteria.of_row(prompt, name, seed)
  return next(p for p in principles if p.text == drawn.text)


# -- revising -----------------------------------------------------------------


def revise_all(
  s: common.Session, examples: Sequence[Example], labeler: Labeler
) -> tuple[list[Row], dict[str, float]]:
  """Rows of all replies, of which those not in `ALL` yet are made.

  Returns:
    The rows, and seconds and tokens that they took.
  """
  path = s.workdir / ALL
  rows, seconds, share = _rows.add_missing(
    path,
    read_rows(path) if path.is_file() else [],
    examples,
    s.config.chunk,
    lambda part: revise(s.config, labeler, [e for _, e in part]),
    ids_of=lambda e: [e.id],
    unit='replies',
  )
  return rows, {
    'time/revise_s': seconds,
    TOKENS: labeler.counters.tokens * share,
  }


def revise(
  config: ConfigDict, labeler: Labeler, examples: Sequence[Example]
) -> list[Row]:
  """All rounds of some replies, one row each.

  A round that gives an empty reply, or does not fit the reviser, leaves the
  reply as it was, and is not among the row's rounds.
  """
  rows = [_row(example) for example in examples]
  principles = _critique.load_constitution(
    config.constitution, requests_of(config)
  )
  exemplars = _critique.load_exemplars(config.exemplars)[: config.num_exemplars]
  ask = functools.partial(_ask, config, labeler, principles, exemplars)
  for number in range(config.num_rounds):
    asked = [one for one in (ask(row, number) for row in rows) if one]
    critiques = _write(config, labeler, 'critique', asked)
    again = [
      dataclasses.replace(one, text=_ask_again(config, labeler, one, critique))
      for one, critique in zip(asked, critiques, strict=True)
    ]
    revisions = _write(config, labeler, 'revision', again)
    for one, critique, revision in zip(
      asked, critiques, revisions, strict=True
    ):
      if revision:
        made = dict(principle=one.principle.text, critique=critique)
        one.row['rounds'].append(dict(round=number, **made, response=revision))
        one.row['response'] = revision
  return rows


@dataclasses.dataclass(frozen=True)
class _Asked:
  """One text that the reviser goes on with."""

  row: Row
  name: str
  principle: _critique.Principle
  text: str


def _ask(
  config: ConfigDict,
  labeler: Labeler,
  principles: Sequence[_critique.Principle],
  exemplars: Sequence[_critique.Exemplar],
  row: Row,
  number: int,
) -> _Asked | None:
  """The request for a critique in a round, or None where it does not fit."""
  requests, name = requests_of(config), f'{row["id"]} round {number}'
  drawn = draw(principles, name, config.seed)
  room = config.max_critique + config.max_response
  text = _critique.fitting(
    functools.partial(
      _critique.critique_text,
      row['fields'],
      row['response'],
      drawn.critique,
      requests,
    ),
    exemplars,
    lambda t: labeler.fits(
      _critique.revision_text(t, '', drawn.revision), room
    ),
  )
  if text is None:
    _log.warning('%s: left as it is, over %d tokens', name, labeler.limit)
    return None
  return _Asked(row, name, drawn, text)


def _ask_again(
  config: ConfigDict, labeler: Labeler, asked: _Asked, critique: str
) -> str:
  """The request for a revision; a critique that reads back too long is cut."""

  def build(critique: str) -> str:
    return _critique.revision_text(
      asked.text, critique, asked.principle.revision
    )

  def fit(critique: str) -> bool:
    return labeler.fits(build(critique), config.max_response)

  if not fit(critique):
    critique = truncation.shorten(critique, fit) or ''
  return build(critique)


def _write(
  config: ConfigDict, labeler: Labeler, kind: str, asked: Sequence[_Asked]
) -> list[str]:
  """The critiques or revisions that the reviser writes."""
  lengths = {'critique': config.max_critique, 'revision': config.max_response}
  texts = labeler.write(
    [one.text for one in asked],
    max_tokens=lengths[kind],
    sampling=common.make_sampling(config.sampling),
    seed=config.seed,
    ids=[f'{one.name} {kind}' for one in asked],
  )
  return [_critique.written(text) for text in texts]


def _row(example: Example) -> Row:
  return {
    'id': example.id,
    'prompt': example.prompt,
    'first': example.response,
    'response': example.response,  # the newest
    'rounds': [],
    'fields': dict(example.fields),
  }


def read_rows(path: pathlib.Path) -> list[Row]:
  """Rows of a file of revisions; a half-written last line is left out."""
  return [
    _files.parse_line(line, place) for place, line in _files.whole_lines(path)
  ]


# -- what is left -------------------------------------------------------------


def selected(rows: Sequence[Row], keep: str) -> list[Row]:
  """Revisions to learn from: 'all' of each reply, or its 'last'."""
  return [
    {
      'id': f'{row["id"]}/{made["round"]}',
      'prompt': row['prompt'],
      'response': made['response'],
      'principle': made['principle'],
      'fields': row['fields'],
    }
    for row in rows
    for made in (row['rounds'] if keep == 'all' else row['rounds'][-1:])
  ]


def summarise(rows: Sequence[Row], count: int) -> dict[str, float]:
  """Counts, and how much changed: the share of replies that are others now."""
  rounds = sum(len(row['rounds']) for row in rows)
  changed = sum(row['response'] != row['first'] for row in rows)
  return {
    'replies': count,
    'revisions': rounds,
    'changed': changed / max(len(rows), 1),
  }
