"""`python -m rlaif_jax.labels`: lint and report of files."""

import gzip
import json
import math
import runpy
import sys

import pytest

from rlaif_jax.data import records
from rlaif_jax.data.records import PreferenceRecord
from rlaif_jax.evaluators import label_report, statistics
from rlaif_jax.labels import __main__ as labels
from rlaif_jax.labels import checks, quality


def record(i, p_first=0.9, orders=None, **kwargs):
  logprobs = {}
  if orders is not None:
    for key, p in zip(('logprobs_12', 'logprobs_21'), orders, strict=True):
      logprobs[key] = (math.log(p), math.log(1 - p))
  fields = dict(prompt=f'p{i}', response_1='one', response_2='other')
  return PreferenceRecord(
    id=f'r{i}', p_first=p_first, **logprobs, **{**fields, **kwargs}
  )


def trl(i, **kwargs):
  fields = dict(prompt=f'p{i}', chosen='other', rejected='one')
  return {'id': f'r{i}', **fields, **kwargs}


def write_lines(path, *rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


def run(capsys, *args):
  """(exit code, what was printed, what was said to be wrong)."""
  code = 0
  try:
    labels.main([str(arg) for arg in args])
  except SystemExit as error:
    code = error.code
  return code, *capsys.readouterr()


def findings(path, *evaluation):
  _, found = checks.check(str(path), [str(e) for e in evaluation])
  return {f.code: f for f in found}


# -- lint ---------------------------------------------------------------------


def test_lint_of_a_sound_file(tmp_path, capsys):
  path = tmp_path / 'p.jsonl'
  rows = [record(i, 0.9 if i % 2 else 0.1) for i in range(20)]
  records.append(path, rows)
  code, out, _ = run(capsys, 'lint', path)
  assert code == 0
  assert out.splitlines()[-1] == f'{path}: 20 rows read, 0 errors, 0 warnings'
  assert '50.0% of the' in ' '.join(out.split())


def test_lint_says_what_is_wrong_and_where(tmp_path, capsys):
  path = write_lines(
    tmp_path / 'p.jsonl',
    trl(0),
    {**trl(0), 'id': '[b]x[/b]'},
    trl(1, rejected='other'),
    trl(2, prompt=None),
    trl(3),
  )
  held_out = write_lines(
    tmp_path / 'e.jsonl', {'prompt': 'P3 '}, trl(9, chosen='x')
  )
  out_path = tmp_path / 'out.json'
  code, out, _ = run(
    capsys, 'lint', path, '--eval', held_out, '--json', out_path
  )
  assert code == 1
  text = ' '.join(out.replace('│', ' ').split())
  assert f'{path}: 4 rows read, 3 errors, 1 warning' in text
  for part in (
    'line 2 ([b]x[/b]) as line 1',  # an id is text, no markup
    'line 3 (r1)',
    'line 4 (r2): column',
    'line 5 (r3) as e.jsonl:1',
  ):
    assert part in text, part
  found = json.loads(out_path.read_text())
  assert (found['rows'], found['errors'], found['warnings']) == (4, 3, 1)
  by_code = {f['code']: f for f in found['findings']}
  assert by_code['duplicate']['rows'] == [
    {'place': f'{path}:2', 'id': '[b]x[/b]', 'note': f'as {path}:1'}
  ]
  order = [f['severity'] for f in found['findings']]
  assert order == sorted(order, key=['error', 'warning', 'info'].index)


def test_lint_takes_several_evaluation_sets(tmp_path, capsys):
  path = write_lines(tmp_path / 'p.jsonl', trl(0), trl(1), trl(2))
  sets = [
    write_lines(tmp_path / f'e{i}.jsonl', {'prompt': f'p{i}'}) for i in (0, 1)
  ]
  assert findings(path, *sets)['leaked-prompt'].count == 2
  for args in (['--eval', *sets], ['--eval', sets[0], '--eval', sets[1]]):
    code, out, _ = run(capsys, 'lint', path, *args)
    assert code == 1
    assert 'line 2 (r1) as e1.jsonl:1' in ' '.join(out.split())
  assert run(capsys, 'lint', path)[0] == 0


def test_a_planted_length_confound(tmp_path):
  path = tmp_path / 'p.jsonl'
  longer = dict(response_1='a long one', response_2='short')
  records.append(
    path, [record(i, 0.9 if i < 70 else 0.1, **longer) for i in range(100)]
  )
  found = findings(path)['length']
  assert found.severity == 'warning'
  assert found.count == 100
  assert found.message.startswith('70.0% of the labels prefer the longer')
  assert 'p < 0.001' in found.message
  path.unlink()  # as many, but it may be chance
  records.append(
    path, [record(i, 0.9 if i < 7 else 0.1, **longer) for i in range(10)]
  )
  found = findings(path)['length']
  assert found.severity == 'info'
  p = statistics.binomial_test(7, 10)
  assert f'p = {p:.2g}' in found.message


def test_a_planted_position_bias(tmp_path):
  path = tmp_path / 'p.jsonl'
  orders = [(0.3, 0.2)] * 12 + [(0.9, 0.1)] * 8
  rows = [
    record(i, (own + 1 - swapped) / 2, (own, swapped))
    for i, (own, swapped) in enumerate(orders)
  ]
  records.append(path, rows)
  found = findings(path)['swap-asymmetry']
  assert found.severity == 'warning'
  assert found.count == 12
  assert [where.id for where in found.rows] == ['r0', 'r1', 'r2', 'r3', 'r4']
  assert '60.0% of the pairs' in found.message
  assert 'slot 2 in 100.0% of those, p < 0.001' in found.message
  assert 'first slot wins 20.0% of all' in found.message
  path.unlink()
  records.append(path, rows[12:])
  found = findings(path)['swap-asymmetry']
  assert (found.severity, found.count, found.rows) == ('info', 0, ())


def test_verdicts_that_turn_with_the_order_at_random_are_a_warning(tmp_path):
  path = tmp_path / 'p.jsonl'
  orders = [(0.3, 0.3), (0.7, 0.7), (0.9, 0.1)] * 4  # no slot is favoured
  records.append(
    path,
    [record(i, (a + 1 - b) / 2, (a, b)) for i, (a, b) in enumerate(orders)],
  )
  found = findings(path)['swap-asymmetry']
  assert found.severity == 'warning'
  assert 'slot 1 or 2 alike in 50.0% of those, p = 1' in found.message


def test_judges_of_one_order(tmp_path):
  path = tmp_path / 'p.jsonl'
  rows = [
    record(i, 1.0 if i < 75 else 0.0, meta={'first_shown': 0})
    for i in range(100)
  ]
  records.append(path, [*rows, record('x', meta={'first_shown': 'A'})])
  found = findings(path)['first-shown']
  assert (found.severity, found.count) == ('warning', 100)
  assert '75.0% of the labels prefer the response' in found.message


def test_rows_that_cannot_be_used_do_not_disturb_the_rest(tmp_path, capsys):
  row = dict(prompt='p', response_1='a', response_2='b', p_first=0.9)
  path = write_lines(
    tmp_path / 'p.jsonl',
    {**row, 'p_first': None},
    {**row, 'p_first': 7, 'prompt': 'q'},
    {**row, 'logprobs_12': [math.nan, 0], 'logprobs_21': [0, 0]},
  )
  found = findings(path)
  assert found['length'].count == 1
  assert 'swap-asymmetry' not in found
  assert run(capsys, 'lint', path)[0] == 1
  write_lines(path, {**row, 'p_first': None})
  assert set(findings(path)) == {'missing-verdict'}


# -- report -------------------------------------------------------------------


def labelled(n=12):
  return [
    record(
      i,
      (0.9 + 1 - 0.3) / 2 if i % 3 else (0.8 + 1 - 0.9) / 2,
      (0.9, 0.3) if i % 3 else (0.8, 0.9),
      prompt_name='base' if i % 2 else 'detailed',
      meta={'human_p_first': float(i % 4 != 0)},
    )
    for i in range(n)
  ]


def test_report_prints_and_writes_the_same(tmp_path, capsys, monkeypatch):
  path, out_path = tmp_path / 'p.jsonl', tmp_path / 'out.json'
  records.append(path, labelled())
  monkeypatch.chdir(tmp_path)  # a short name, for the title to be one line
  code, out, _ = run(capsys, 'report', path.name, '--json', out_path)
  assert code == 0
  found = json.loads(out_path.read_text())
  assert found == label_report.report(label_report.from_records(labelled()))
  text = ' '.join(out.replace('│', ' ').split())
  assert 'p.jsonl: 12 labels, 12 with a human one' in text
  agreement = found['alignment']
  assert (
    f'agreement with humans {agreement["rate"]:.1%} {agreement["ci_low"]:.1%} '
    f'to {agreement["ci_high"]:.1%} 12'
  ) in text
  assert 'same position preferred 33.3%' in text
  assert 'first (100%), p = 0.12' in text
  for part in ('agreement by confidence', 'reliability', 'agreement by prompt'):
    assert part in text


def test_human_labels_from_another_file(tmp_path, capsys):
  path, human = tmp_path / 'p.jsonl', tmp_path / 'h.jsonl'
  rows = [
    record(0, prompt='SUBREDDIT: r/x\n\nPOST: the post\n\nTL;DR:'),
    record(1, response_1='b', response_2='a'),
    record(2),
    record(3),
    record(4, prompt='another'),
  ]
  records.append(path, rows)
  write_lines(
    human,
    trl('h0', prompt='the  post', chosen='one', rejected='other'),
    trl('h1', prompt='p1', chosen='a', rejected='b'),  # swapped there
    *(
      trl(f'h2{k}', prompt='p2', chosen=pair[0], rejected=pair[1])
      for k, pair in enumerate((('one', 'other'), ('other', 'one')))
    ),
    trl('h3', prompt='p3', chosen='one', rejected='something else'),
    trl('h4', prompt='p4', chosen='one', rejected='other'),
  )
  said = quality.human_labels(rows, records.read_preferences(human))
  assert said == [1.0, 0.0, 0.5, None, None]
  found = quality.report(str(path), str(human))
  assert (found['labels'], found['human_labels']) == (5, 3)
  assert found['alignment']['rate'] == pytest.approx((1 + 0 + 0.5) / 3)
  write_lines(human, trl(0, chosen='never', rejected='seen'))
  code, _, err = run(capsys, 'report', path, '--human', human)
  assert code == 2
  assert 'has none of the pairs' in err


def test_breaking_down_by_a_column(tmp_path, capsys):
  path = tmp_path / 'p.jsonl'
  records.append(
    path,
    [
      record(i, meta={'human_p_first': 1.0 - i, 'source': f's{i}'})
      for i in (0, 1)
    ],
  )
  code, out, _ = run(capsys, 'report', path, '--by', 'source')
  assert code == 0
  assert 'agreement by source' in out
  code, _, err = run(capsys, 'report', path, '--by', 'colour')
  assert code == 2
  assert "no row has 'colour'" in err


def test_cost_of_a_label_stage(tmp_path, capsys):
  path = tmp_path / 'labels' / 'preferences.jsonl'
  records.append(path, [record(0)])
  (tmp_path / 'summary.json').write_text(
    json.dumps({'labeler/tokens_per_label': 1500.0, 'perf/pairs_per_second': 4})
  )
  prices = ('--price-in', '0.03', '--price-out', '0.06')
  code, out, _ = run(capsys, 'report', path, *prices)
  assert code == 0
  text = ' '.join(out.replace('│', ' ').split())
  assert 'tokens read per label 1,500' in text
  assert 'seconds per label 0.25' in text
  assert 'dollars per label 0.045' in text
  # With rationales, how many were written is not known; and so no price.
  records.append(path, [record(1, rationales=('since', 'as'))])
  config = label_report.Config(price_in=0.03)
  assert quality.report(str(path), config=config)['cost'] == {
    'tokens': 1500.0,
    'seconds': 0.25,
  }
  # Of rows that count for themselves, it is known.
  meta = dict(tokens_in=10, tokens_out=2)
  records.append(path, [record(2, meta=meta)])
  cost = quality.report(str(path), config=config)['cost']
  assert cost['dollars'] == pytest.approx(0.0003)


# -- both ---------------------------------------------------------------------


@pytest.mark.parametrize('name', ['p.jsonl.gz', 'p.json', 'p.parquet'])
def test_any_file_that_training_reads(tmp_path, capsys, name):
  path, rows = tmp_path / name, labelled(4)
  records.append(tmp_path / 'plain.jsonl', rows)
  plain = (tmp_path / 'plain.jsonl').read_text()
  if name.endswith('.gz'):
    path.write_bytes(gzip.compress(plain.encode()))
  elif name.endswith('.json'):
    path.write_text(f'[{",".join(plain.splitlines())}]')
  else:
    records.write(path, rows)
  for command in ('lint', 'report'):
    code, out, _ = run(capsys, command, path)
    assert code == 0
    assert '4 rows read' in out or '4 labels' in out


def test_what_is_wrong_is_said(tmp_path, capsys):
  gone = tmp_path / 'gone.jsonl'
  for command in ('lint', 'report'):
    code, _, err = run(capsys, command, gone)
    assert code == 2
    assert err.startswith(f'error: {gone}: no such file')
  path = write_lines(tmp_path / 'p.jsonl', trl(0), trl(1, chosen=3))
  code, _, err = run(capsys, 'report', path)
  assert code == 2
  assert f"{path}:2: column 'chosen' should be text" in err
  assert 'rlaif_jax.labels lint' in err
  code, out, err = run(capsys, 'lint', path, '--json', path)
  assert code == 2
  assert 'exists already' in err
  assert not out  # it is known before anything is done
  assert json.loads(path.read_text().splitlines()[0]) == trl(0)


def test_command_line(tmp_path, capsys, monkeypatch):
  path = write_lines(tmp_path / 'p.jsonl', trl(0))
  monkeypatch.setattr(sys, 'argv', ['labels', 'lint', str(path)])
  monkeypatch.delitem(sys.modules, 'rlaif_jax.labels.__main__')
  runpy.run_module('rlaif_jax.labels', run_name='__main__')
  assert '1 row read, 0 errors, 0 warnings' in capsys.readouterr().out


# -- real data ----------------------------------------------------------------


def test_real_judgements_from_file_to_report(shared_data, tmp_path):
  def rows(name):
    path = shared_data / f'llmbar/llmbar_{name}dev.jsonl.gz'
    with gzip.open(path, 'rt', encoding='utf-8') as lines:
      return [json.loads(line) for line in lines]

  items = {(r['subset'], r['idx']): r for r in rows('')}
  path, human = tmp_path / 'p.jsonl', tmp_path / 'human.jsonl'
  written, agreed, turned, total = [], 0, 0, 0
  for r in rows('ai_judge_outputs_'):
    item = items[r['subset'], r['idx']]
    answers = r['winner_12'], r['winner_21']
    if (r['judge'], r['style']) != ('PaLM2', 'vanilla') or None in answers:
      continue
    total += 1
    turned += answers[0] != answers[1]
    agreed += sum(a == str(item['label']) for a in answers) / 2
    written.append(
      PreferenceRecord(
        id=str(total),
        prompt=item['input'],
        response_1=item['output_1'],
        response_2=item['output_2'],
        p_first=answers.count('1') / 2,
        logprobs_12=(0.0, -9.0) if answers[0] == '1' else (-9.0, 0.0),
        logprobs_21=(0.0, -9.0) if answers[1] == '2' else (-9.0, 0.0),
      )
    )
  records.append(path, written)
  chosen = [
    (r['input'], r[f'output_{r["label"]}'], r[f'output_{3 - int(r["label"])}'])
    for r in items.values()
  ]
  write_lines(
    human,
    *(
      {'prompt': prompt, 'chosen': good, 'rejected': bad}
      for prompt, good, bad in chosen
      if good.strip() != bad.strip()  # one item of another subset
    ),
  )
  found = quality.report(str(path), str(human))
  assert found['human_labels'] == found['labels'] == total == 204
  assert found['alignment']['rate'] == pytest.approx(agreed / total)
  assert found['position']['flip_rate'] == pytest.approx(turned / total)
  linted = findings(path)
  assert linted['swap-asymmetry'].count == turned
  assert linted['swap-asymmetry'].severity == 'warning'
  assert linted['tie'].count == turned
