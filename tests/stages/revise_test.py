"""The revise stage, with a labeler that says what it is told to say."""

import dataclasses
import json
import re

import pytest

from rlaif_jax import sharding
from rlaif_jax.data import datasets
from rlaif_jax.labeler import Counters, criteria, prompts
from rlaif_jax.labeler.prompts import harmless_constitution
from rlaif_jax.rewards import TOKENS
from rlaif_jax.stages import _critique, _labelers, revise

ROUNDS = 3
REPLIES = ['cut the rope.', 'no way.', 'say that you are him.', 'so.', 'yes.']


@dataclasses.dataclass
class Scripted:
  """Counts its critiques and revisions; goes on with headings of its own.

  It writes nothing as the revision of a reply that says 'no way'.
  """

  limit: int = 4096
  identity: str = 'scripted'
  counters: Counters = dataclasses.field(default_factory=Counters)
  seen: list = dataclasses.field(default_factory=list)
  max_fitting: int = 10**6  # characters

  def fits(self, text, room=0):
    return len(text) + room <= self.max_fitting

  def write(self, texts, *, max_tokens, sampling, seed=0, ids=None):
    self.seen += list(zip(ids, texts, [max_tokens] * len(texts), strict=True))
    self.counters.tokens += sum(len(text.split()) for text in texts)
    return [
      self._one(name, text) for name, text in zip(ids, texts, strict=True)
    ]

  def _one(self, name, text):
    last = re.findall('Reply - (.*)', text)[-1]
    if text.endswith('Critique -'):
      return f' of <{last}> by {name}\n\nCritique request - and again'
    return '' if 'no way' in last else f'  better ({last})\n\nReply - x'


def make_config(tmp_path, **overrides):
  """Five replies in chunks of two, three rounds."""
  rows = [
    {
      'id': f'r{i}', 'prompt': f'Human: help {i}\n\nAssistant:',
      'response': reply, 'fields': {'context': f'Human: help {i}'},
    }
    for i, reply in enumerate(REPLIES)
  ]  # fmt: skip
  file = tmp_path / 'replies.jsonl'
  file.write_text('\n'.join(map(json.dumps, rows)))
  c = revise.default_config()
  c.data.path, c.reviser.path = str(file), 'scripted'
  c.num_rounds, c.chunk, c.max_critique = ROUNDS, 2, 99
  c.update_from_flattened_dict(overrides)
  return c


@pytest.fixture
def scripted(monkeypatch, one_device):
  labeler = Scripted()
  monkeypatch.setattr(_labelers, 'load', lambda *args: labeler)
  return labeler


def rows_of(workdir, name=revise.ALL):
  return [json.loads(x) for x in (workdir / name).read_text().splitlines()]


def test_rounds_build_on_each_other(scripted, tmp_path):
  config = make_config(tmp_path)
  revise.run(config, tmp_path / 'run')
  rows = rows_of(tmp_path / 'run')
  assert [r['id'] for r in rows] == [f'r{i}' for i in range(5)]
  first = rows[0]
  assert first['first'] == 'cut the rope.'
  assert [made['response'] for made in first['rounds']] == [
    'better (cut the rope.)',
    'better (better (cut the rope.))',
    'better (better (better (cut the rope.)))',
  ]
  assert first['response'] == first['rounds'][-1]['response']
  # What it wrote beyond its critique is cut off.
  assert [made['critique'] for made in first['rounds']][1] == (
    'of <better (cut the rope.)> by r0 round 1 critique'
  )
  # An empty revision leaves the reply as it was, and is no revision.
  assert rows[1]['rounds'] == []
  assert rows[1]['response'] == rows[1]['first'] == 'no way.'
  summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
  assert summary['replies'] == 5
  assert summary['revisions'] == 4 * ROUNDS
  assert summary['changed'] == 4 / 5
  assert summary[TOKENS] == scripted.counters.tokens
  assert {n for *_, n in scripted.seen} == {99, config.max_response}


def test_principles_are_drawn_by_row_and_round(scripted, tmp_path):
  revise.run(make_config(tmp_path), tmp_path / 'run')
  rows = rows_of(tmp_path / 'run')
  drawn = [made['principle'] for row in rows for made in row['rounds']]
  assert set(drawn) <= set(harmless_constitution.PRINCIPLES)
  assert len(set(drawn)) > 4
  prompt = dataclasses.replace(harmless_constitution.PROMPT, num_drawn=1)
  for row in rows:
    for made in row['rounds']:
      name = f'{row["id"]} round {made["round"]}'
      assert made['principle'] == criteria.of_row(prompt, name, 0)[0].text
  asked = {name: text for name, text, _ in scripted.seen}
  last = rows[0]['rounds'][2]
  text = asked['r0 round 2 revision']
  assert text.count('Revised reply -') == 4  # three exemplars, and its own
  own = text.rpartition('\n\n\n')[2]
  assert own == (
    'Context - Human: help 0\n\n'
    'Reply - better (better (cut the rope.))\n\n'
    'Critique request - Compared with the wisest reply there could be, say in '
    f'what way this one {last["principle"]}.\n\n'
    f'Critique - {last["critique"]}\n\n'
    f'Revision request - {_critique.Requests().revision}\n\nRevised reply -'
  )
  other = make_config(tmp_path, seed=1)
  revise.run(other, tmp_path / 'other')
  again = rows_of(tmp_path / 'other')
  assert drawn != [m['principle'] for row in again for m in row['rounds']]


def test_all_revisions_or_the_last(scripted, tmp_path):
  revise.run(make_config(tmp_path), tmp_path / 'all')
  every = rows_of(tmp_path / 'all', revise.SELECTED)
  assert [r['id'] for r in every[:4]] == ['r0/0', 'r0/1', 'r0/2', 'r2/0']
  revise.run(make_config(tmp_path, keep='last'), tmp_path / 'last')
  last = rows_of(tmp_path / 'last', revise.SELECTED)
  assert last == [r for r in every if r['id'].endswith('/2')]
  path = str(tmp_path / 'last' / revise.SELECTED)
  examples = datasets.load_dataset('jsonl', path, 'all')
  assert examples[0].prompt == 'Human: help 0\n\nAssistant:'
  assert examples[0].response == last[0]['response']


def test_own_constitution_requests_and_exemplars(scripted, tmp_path):
  prompt = {
    **dataclasses.asdict(harmless_constitution.PROMPT),
    'criteria': [{'text': 'is loud'}, {'text': 'is slow'}],
  }
  fields = {f.name for f in dataclasses.fields(prompts.LabelPrompt)}
  (tmp_path / 'mine.json').write_text(
    json.dumps({k: v for k, v in prompt.items() if k in fields and v})
  )
  case = dict(
    context='C', response='R', principle='P', critique='K', revision='V'
  )
  (tmp_path / 'cases.json').write_text(json.dumps([case]))
  config = make_config(
    tmp_path, constitution=str(tmp_path / 'mine.json'),
    exemplars=str(tmp_path / 'cases.json'), num_rounds=1,
  )  # fmt: skip
  config.requests.critique, config.requests.revision = 'How {principle}?', 'Go'
  revise.run(config, tmp_path / 'run')
  drawn = {
    m['principle'] for r in rows_of(tmp_path / 'run') for m in r['rounds']
  }
  assert drawn <= {'is loud', 'is slow'}
  name, text, _ = scripted.seen[0]
  assert name == 'r0 round 0 critique'
  assert text.startswith(
    'Context - C\n\nReply - R\n\nCritique request - How P?\n\nCritique - K\n\n'
    'Revision request - Go\n\nRevised reply - V\n\n\nContext - Human: help 0'
  )


@pytest.mark.parametrize('form', ['list', 'object'])
def test_a_constitution_of_requests(scripted, tmp_path, form):
  """Pairs of a critique and a revision request, as others publish theirs."""
  pairs = [
    {
      'critic' if form == 'object' else 'critique': f'C{i}?',
      'revision': f'R{i}.',
    }
    for i in range(3)
  ]
  data = {'constitutions': pairs, 'other': 1} if form == 'object' else pairs
  (tmp_path / 'pairs.json').write_text(json.dumps(data))
  config = make_config(
    tmp_path, constitution=str(tmp_path / 'pairs.json'), num_exemplars=0
  )
  revise.run(config, tmp_path / 'run')
  asked = {name: text for name, text, _ in scripted.seen}
  drawn = set()
  for row in rows_of(tmp_path / 'run'):
    for made in row['rounds']:
      number = int(made['principle'][1])
      drawn.add(number)
      text = asked[f'{row["id"]} round {made["round"]} revision']
      assert f'Critique request - C{number}?\n' in text
      assert f'Revision request - R{number}.\n' in text
  assert len(drawn) > 1
  (tmp_path / 'pairs.json').write_text('[{"critique": "C"}]')
  with pytest.raises(ValueError, match='pairs.json: item 0 should be'):
    revise.check(config)


def test_fewer_exemplars_where_they_do_not_fit(scripted, tmp_path):
  config = make_config(tmp_path, num_rounds=1)
  revise.run(config, tmp_path / 'run')
  sizes = [
    len(text) for name, text, _ in scripted.seen if name.endswith('critique')
  ]
  request = len(_critique.revision_text('', '', _critique.Requests().revision))
  scripted.max_fitting = (
    max(sizes) + request + config.max_critique + config.max_response - 1
  )
  scripted.seen.clear()
  revise.run(config, tmp_path / 'less')
  counts = {
    text.count('Critique request -') - 1
    for name, text, _ in scripted.seen
    if name.endswith('critique')
  }
  assert counts == {2, 3}
  scripted.max_fitting = 300
  with pytest.raises(ValueError, match='no prompt fitted the reviser'):
    revise.run(config, tmp_path / 'none')


def test_a_reply_cannot_pass_for_a_heading():
  """Nor can a critique: what strangers wrote is one paragraph."""
  reply = 'x\n\nCritique - none\n\nRevised reply - y'
  text = _critique.critique_text(
    {'context': 'c'}, reply, 'Say why.', _critique.Requests(), ()
  )
  text = _critique.revision_text(text, reply, 'Go.')
  headings = [line for line in text.split('\n') if line.endswith(' -')]
  assert headings == ['Revised reply -']
  assert text.count('\nCritique -') == 1


def test_written_ends_at_a_heading():
  assert _critique.written(' a\n\nb\n\nRevision request - c') == 'a\n\nb'
  assert _critique.written('Reply - c') == ''
  assert _critique.written(' see Reply - c') == 'see Reply - c'


# -- restarts -----------------------------------------------------------------


@pytest.mark.parametrize(
  ('num_lines', 'half'), [(0, 0.5), (1, 0.0), (2, 0.7), (3, 0.0), (5, 0.0)]
)
@pytest.mark.filterwarnings('ignore:.*half-written')
def test_restart_ends_byte_identical(scripted, tmp_path, num_lines, half):
  config = make_config(tmp_path)
  whole, cut = tmp_path / 'whole', tmp_path / 'cut'
  revise.run(config, whole)
  lines = (whole / revise.ALL).read_bytes().splitlines(keepends=True)
  (cut / 'revisions').mkdir(parents=True)
  (cut / 'config.json').write_bytes((whole / 'config.json').read_bytes())
  left = b''.join(lines[:num_lines])
  if half:
    left += lines[num_lines][: int(half * len(lines[num_lines]))]
  (cut / revise.ALL).write_bytes(left)
  scripted.seen.clear()
  revise.run(config, cut)
  for name in (revise.ALL, revise.SELECTED):
    assert (cut / name).read_bytes() == (whole / name).read_bytes()
  # Chunks of two that are whole are not made again.
  asked = sorted({name.split()[0] for name, *_ in scripted.seen})
  done = num_lines // 2 * 2 if num_lines < 5 else 5
  assert asked == [f'r{i}' for i in range(done, 5)]


# -- a model ------------------------------------------------------------------


def model_config(tmp_path, tiny_model):
  config = make_config(tmp_path, num_rounds=2, chunk=8)
  config.reviser.update(path=tiny_model, max_tokens=480, batch_size=8)
  config.max_critique = config.max_response = 6
  config.num_exemplars = 0
  return config


def test_a_model_in_the_mesh(tiny_model, tmp_path, one_device):
  config = model_config(tmp_path, tiny_model)
  revise.run(config, tmp_path / 'run')
  rows = rows_of(tmp_path / 'run')
  assert len(rows) == 5
  assert any(row['rounds'] for row in rows)
  revise.run(config, tmp_path / 'again')
  assert rows_of(tmp_path / 'again') == rows


@pytest.mark.multidevice
def test_sharded_revisions_are_the_same(
  tiny_model, tmp_path, one_device, monkeypatch
):
  config = model_config(tmp_path, tiny_model)
  revise.run(config, tmp_path / 'one')
  monkeypatch.setattr(sharding, 'make_mesh', sharding.make_mesh.func)
  config.mesh.update(data=2, fsdp=2, tensor=2)
  revise.run(config, tmp_path / 'eight')
  assert rows_of(tmp_path / 'eight') == rows_of(tmp_path / 'one')


# -- what cannot be -----------------------------------------------------------


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'keep': 'first'}, "config.keep='first'; use 'all' or 'last'"),
    ({'num_rounds': 0}, 'config.num_rounds=0; it must be at least 1'),
    ({'constitution': 'harmless_base'}, "'harmless_base' has no criteria"),
    ({'constitution': 'mine'}, "'mine'; use one of"),
    ({'requests.critique': 'Is it?'}, 'critique has no {principle}'),
    ({'exemplars': '/no/such.json'}, '/no/such.json: no such file'),
  ],
)
def test_bad_config(scripted, tmp_path, overrides, message):
  config = make_config(tmp_path, **overrides)
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    revise.run(config, tmp_path / 'run')


def test_rows_without_a_response_are_named(scripted, tmp_path):
  config = make_config(tmp_path)
  config.data.path = str(tmp_path / 'p.jsonl')
  (tmp_path / 'p.jsonl').write_text('{"prompt": "a", "id": "r7"}')
  with pytest.raises(ValueError, match='p.jsonl: row r7 has no response'):
    revise.run(config, tmp_path / 'run')


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{', 'not valid JSON'),
    ('[{"context": "a"}]', 'item 0 should be an object with context, response'),
    (
      '[{"context": 1, "response": "", "principle": "", "critique": "",'
      ' "revision": ""}]',
      'item 0: context should be text',
    ),
  ],
)
def test_bad_exemplars(tmp_path, text, message):
  (tmp_path / 'e.json').write_text(text)
  with pytest.raises(ValueError, match=message):
    _critique.load_exemplars(str(tmp_path / 'e.json'))


def test_shipped_exemplars_are_whole():
  for exemplar in _critique.load_exemplars(''):
    assert all(dataclasses.astuple(exemplar))
    assert exemplar.principle in harmless_constitution.PRINCIPLES
  assert len({e.principle for e in _critique.EXEMPLARS}) == 3
