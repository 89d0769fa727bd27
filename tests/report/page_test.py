"""The page as a file, the terminal, and the command line."""

import io
import json
import re

import pytest
import rich.console

from rlaif_jax.report import __main__ as command
from rlaif_jax.report import page, runs, terminal


def rendered(*paths):
  return page.render(runs.load_all(paths))


def printed(*paths, width=120):
  file = io.StringIO()
  console = rich.console.Console(file=file, width=width)
  terminal.show(runs.load_all(paths), console)
  return file.getvalue()


def test_the_numbers_are_on_the_page(pipeline):
  text = rendered(pipeline)
  for needle in ('62.5%', '56.2% to 68.8%', '0.0600 → 0.960', '75.0% of those'):
    assert needle in text, needle
  for title in ('Results', 'KL and reward', 'Samples', 'Config differences'):
    assert f'<h2>{title}</h2>' in text


def test_the_page_needs_nothing_else(pipeline):
  text = rendered(pipeline)
  for link in re.findall(r'\b(?:src|href|action)="([^"]*)"', text):
    assert link.startswith(('#', 'data:,')), link
  assert not re.search(r'https?://(?!www\.w3\.org)', text)
  assert '@import' not in text and 'url(' not in text


def test_texts_of_models_are_data(pipeline, write):
  text = rendered(pipeline)
  assert write.HOSTILE not in text
  assert text.count('<script') == 3  # two of data, one of the page
  assert text.count('</script>') == 3
  data = re.search(r'id="data-samples">(.*?)</script>', text, re.DOTALL)[1]
  assert '<' not in data and '&' not in data
  rows = json.loads(data)
  assert rows[0]['texts'][1]['text'] == write.HOSTILE


def test_all_else_is_escaped(tmp_path, write):
  hostile = '<img src=x onerror=alert(1)>'
  folder = tmp_path / hostile
  write.pipeline(folder)
  write.json(folder / 'config.json', {'stage': 'pipeline', 'steps': {hostile: {
    'stage': hostile}}, hostile: hostile})  # fmt: skip
  write.rl(folder / '<b>bold</b>', finished=False, **{hostile: hostile})
  (folder / '<b>bold</b>' / 'error.txt').write_text(hostile)
  summary = write.evaluation(folder / 'evaluate')
  summary['judge'] = {'name': hostile}
  summary['policies'] += [hostile]
  summary['metrics'] |= {
    f'eval_win_rate/{hostile}': 0.5, f'objective/kl/{hostile}': 1.0
  }  # fmt: skip
  write.json(folder / 'evaluate' / 'summary.json', summary)
  write.json(folder / 'summary.json', summary)
  text = rendered(folder)
  assert '<img' not in text and '<b>' not in text
  assert '&lt;img src=x onerror=alert(1)&gt;' in text


def test_half_of_a_surrogate_pair_can_be_written(pipeline, write, tmp_path):
  rows = [{'id': '1', 'prompt': 'cut \ud83d', 'responses': {'sft': '\ud83d'}}]
  write.lines(pipeline / 'evaluate' / 'samples.jsonl', rows)
  write.rl(pipeline / 'rlaif', note='\ud83d')
  page.write(rendered(pipeline), tmp_path / 'out')


def test_an_older_report_is_replaced_and_nothing_else(pipeline, tmp_path):
  folder = tmp_path / 'out'
  text = rendered(pipeline)
  file = page.write(text, folder)
  assert file == folder / 'index.html' and file.read_text() == text
  page.write(text + '<!-- -->', folder)
  assert file.read_text() != text
  file.write_text('<h1>my page</h1>')
  with pytest.raises(ValueError, match='no report of this program'):
    page.write(text, folder)
  assert file.read_text() == '<h1>my page</h1>'


def test_terminal(pipeline, write):
  text = printed(pipeline)
  for needle in ('Results', 'Judge: oracle.', '62.5%', '56.2% to 68.8%',
                 '▁▂▂▃▄▄▅▆▆▇▇█', 'labels_ai'):  # fmt: skip
    assert needle in text, needle
  assert 'All metrics' not in text and write.HOSTILE not in text


def test_terminal_shows_markup_as_text(tmp_path, write):
  write.rl(tmp_path / '[bold]run[/bold]')
  assert '[bold]run[/bold]' in printed(tmp_path / '[bold]run[/bold]')


def test_command_line(pipeline, write, tmp_path, capsys):
  command.main([str(pipeline)])
  assert capsys.readouterr().out == f'wrote {pipeline}/report/index.html\n'
  # The report of a run is not part of what the next one reports.
  assert [s.name for s in runs.load_all([pipeline])[0].steps][-1] == 'evaluate'
  write.rl(tmp_path / 'other')
  command.main([str(pipeline), str(tmp_path / 'other')])
  assert (tmp_path / 'report' / 'index.html').is_file()
  command.main([str(pipeline), '--out', str(tmp_path / 'deep' / 'out')])
  assert (tmp_path / 'deep' / 'out' / 'index.html').is_file()


def test_text_writes_no_file(pipeline, capsys):
  command.main([str(pipeline), '--text'])
  assert '62.5%' in capsys.readouterr().out
  assert not (pipeline / 'report').exists()


def test_errors_are_one_line(tmp_path, capsys):
  with pytest.raises(SystemExit) as error:
    command.main([str(tmp_path / 'nothing')])
  assert error.value.code == 1
  captured = capsys.readouterr()
  assert captured.err == f'error: {tmp_path}/nothing: no such folder\n'
  assert not captured.out
