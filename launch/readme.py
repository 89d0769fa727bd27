"""Writes the README's tables and tree; nothing there is typed by hand.

  python launch/readme.py                            tree and model families
  python launch/readme.py tiny=runs/seeds quickstart=runs/quickstart
  python launch/readme.py tldr=runs/tldr harmless=runs/harmless
  python launch/readme.py methods=runs/methods alignment=runs/alignment
  python launch/readme.py engine=engine.md     a table that a command wrote

Each NAME=WORKDIR fills the section `<!-- NAME -->` of README.md from the
`summary.json` of that run, each NAME=FILE with that file. Sections that are not
named keep what they hold.
"""

import ast
import datetime
import json
import os
import pathlib
import re
import sys

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_SHOWN = ('rlaif_jax', 'configs', 'launch', 'tests', 'notebooks')
_COLUMNS = (
  ('win rate vs SFT', 'eval_win_rate/{}', '{:.1%}'),
  ('95% CI', ('eval_win_rate/{}_ci_low', 'eval_win_rate/{}_ci_high'), None),
  ('length-corrected', 'eval_win_rate_lc/{}', '{:.1%}'),
  ('harmless', 'eval_harmless_rate/{}', '{:.1%}'),
  ('KL to SFT', 'objective/kl/{}', '{:.2f}'),
  ('words', 'text/words/{}', '{:.1f}'),
  ('repeated 3-grams', 'text/repeated_3grams/{}', '{:.1%}'),
)
# What a policy took from SFT on; in the comparison of methods only.
_COSTS = (
  ('labels', 'cost/labels/{}', '{:,.0f}'),
  ('labeler tokens', 'cost/labeler_tokens/{}', '{:,.0f}'),
  ('seconds', 'cost/seconds/{}', '{:,.0f}'),
)


def main(arguments: list[str]) -> None:
  """Fills the sections that `arguments` name."""
  readme = _ROOT / 'README.md'
  text = fill(readme.read_text(encoding='utf-8'), 'tree', tree())
  text = fill(text, 'families', families())
  for argument in arguments:
    name, _, workdir = argument.partition('=')
    more = _COSTS if name == 'methods' else ()
    text = fill(text, name, section(pathlib.Path(workdir), more))
  readme.write_text(text, encoding='utf-8')


def fill(text: str, name: str, body: str) -> str:
  """`text` with the section `<!-- name -->` replaced.

  Raises:
    ValueError: there is no such section.
  """
  pattern = re.compile(f'(<!-- {name} -->\n).*?(<!-- /{name} -->)', re.S)
  if not pattern.search(text):
    raise ValueError(f'README.md has no section <!-- {name} -->')
  return pattern.sub(lambda m: m[1] + body.strip() + '\n' + m[2], text)


# -- the tree -----------------------------------------------------------------


def tree() -> str:
  """Every file of the project with the first line of its docstring."""
  lines = ['```']
  for top in _SHOWN:
    if (_ROOT / top).is_dir():
      lines += [f'{top}/', *_folder(_ROOT / top, 1)]
  return '\n'.join([*lines, '```'])


def _folder(folder: pathlib.Path, depth: int) -> list[str]:
  lines = []
  for path in sorted(folder.iterdir(), key=lambda p: (p.is_dir(), p.name)):
    if path.name.startswith(('.', '__pycache__')) or path.name == 'fixtures':
      continue
    pad = '  ' * depth
    if path.is_dir():
      if folder.name == 'tiny_world':
        lines.append(f'{pad}{path.name + "/":<28}shipped, {_size(path)}')
      elif folder.name == 'tests':
        count = len(list(path.rglob('*_test.py')))
        lines.append(f'{pad}{path.name + "/":<28}{count} test files')
      else:
        lines += [f'{pad}{path.name}/', *_folder(path, depth + 1)]
    elif phrase := _phrase(path):
      lines.append(f'{pad}{path.name:<28}{phrase}')
  return lines


def _phrase(path: pathlib.Path) -> str:
  text = path.read_text(encoding='utf-8', errors='replace')
  if path.suffix == '.py':
    found = (ast.get_docstring(ast.parse(text)) or '').split('\n')[0]
  elif path.suffix in ('.sh', '.sbatch'):
    found = next((x[2:] for x in text.splitlines() if re.match(r'# \w', x)), '')
  else:
    return ''
  return found.rstrip('.:')


def _size(folder: pathlib.Path) -> str:
  total = sum(p.stat().st_size for p in folder.rglob('*') if p.is_file())
  return f'{total / 1e6:.1f} MB'


# -- model families -----------------------------------------------------------


def families() -> str:
  """Every model family with the torch checkpoints it is tested against."""
  fixtures = [
    (json.loads(file.read_text(encoding='utf-8'))['model_type'], file.parent)
    for file in sorted(_ROOT.glob('tests/models/fixtures/*/config.json'))
  ]
  rows = [
    '| `model_type` | what it is | checkpoints compared |',
    '|---|---|---|',
  ]
  for name in sorted({family for family, _ in fixtures}):
    variants = [
      folder.name.removeprefix(name).strip('_') or 'base'
      for family, folder in fixtures
      if family == name
    ]
    phrase = _phrase(_ROOT / 'rlaif_jax' / 'models' / f'{name}.py')
    rows.append(f'| `{name}` | {phrase} | {", ".join(variants)} |')
  return '\n'.join(rows)


# -- results ------------------------------------------------------------------


def section(path: pathlib.Path, more: tuple = ()) -> str:
  """What a run, or a file that a command wrote, puts into the README."""
  if path.is_file():
    return path.read_text(encoding='utf-8')
  file = path / 'summary.json'
  if file.is_file():
    summary = json.loads(file.read_text(encoding='utf-8'))
    if 'alignment_table' in summary:
      return alignment(path, summary)
  return results(path, more)


def results(workdir: pathlib.Path, more: tuple = ()) -> str:
  """Markdown tables of a pipeline run (or of its seeds).

  `more` are columns of the table of policies beside `_COLUMNS`.
  """
  file = workdir / 'summary.json'
  if not file.is_file():
    file = workdir / 'evaluate' / 'summary.json'
  summary = json.loads(file.read_text(encoding='utf-8'))
  config = json.loads((workdir / 'config.json').read_text(encoding='utf-8'))
  seeds = config.get('seeds') or [config.get('seed', 0)]
  made = datetime.date.fromtimestamp(file.stat().st_mtime)
  note = (
    f'Judge: {judge_text(summary)}. '
    f'Seeds {", ".join(map(str, seeds))}; {_platform(workdir)}; '
    f'{_minutes(summary)}{made:%Y-%m-%d}. '
    'Intervals are 95% bootstrap intervals over prompts'
    + (', averaged over seeds.' if len(seeds) > 1 else '.')
  )
  return '\n\n'.join([_policies(summary, more), *_feedback(summary), note])


def alignment(workdir: pathlib.Path, summary: dict) -> str:
  """Markdown tables of an alignment stage: by prompt, then by labeler."""
  found = summary['alignment_table']
  tasks = list(next(iter(found.values())))
  rows: dict[str, dict[str, str]] = {}
  for task in tasks:
    for name in found:
      for variant, cell in found[name][task].items():
        row = rows.setdefault(f'`{variant}`', {})
        row[f'{task} {name}'] = _number(cell.get('alignment'))
  pooled = {}
  for name, report in summary['labelers'].items():
    whole, position = report['alignment'], report['position']
    gain = report['debiasing']['over_single']
    pooled[name] = {
      'labels': f'{report["labels"]}',
      'alignment': f'{whole["rate"]:.1%}',
      '95% CI': f'{whole["ci_low"]:.1%} to {whole["ci_high"]:.1%}',
      'averaging both orders gains': f'{gain["difference"]:+.1%}',
      'p': f'{gain["p_value"]:.1g}',
      'same position preferred': _number(position['same_position']['rate']),
      'favoured slot': str(position.get('favoured_slot', '')),
    }
  made = datetime.date.fromtimestamp((workdir / 'summary.json').stat().st_mtime)
  note = (
    f'{_platform(workdir)}; {made:%Y-%m-%d}. Intervals are 95% bootstrap '
    'intervals over prompts; p is of a paired test of the average against '
    'single orders.'
  )
  return '\n\n'.join([_table('prompt', rows), _table('labeler', pooled), note])


def _minutes(summary: dict) -> str:
  seconds = summary.get('time/seconds')
  return f'{seconds / 60:.0f} minutes; ' if seconds else ''


def judge_text(summary: dict) -> str:
  """Who judged, and how good that judge is where that is known."""
  judge = summary.get('judge', {'name': 'oracle'})
  if judge['name'] == 'labeler':
    return f'the labeler ({judge["of"]}) with the prompt `{judge["prompt"]}`'
  if judge['name'] != 'reward_model':
    return f'the {judge["name"]}'
  text = f'the reward model `{judge["of"]}`'
  if _ACCURACY in judge:
    text += (
      f', trained on {judge["pairs"]:.0f} human comparisons that nothing '
      f'else was trained on ({judge[_ACCURACY]:.1%} accuracy on others; '
      f'longer is better: {judge[_LONGER]:.1%})'
    )
  return text


def _policies(summary: dict, more: tuple = ()) -> str:
  """One row a policy, then the head-to-head rows."""
  metrics = summary['metrics']
  # The baseline first, else as they stand.
  baseline = summary.get('baseline')
  names = sorted(summary['policies'], key=lambda name: name != baseline)
  names += sorted(
    key.removeprefix('eval_win_rate/').removesuffix('_win')
    for key in metrics
    if re.fullmatch(r'eval_win_rate/\w+_vs_\w+_win', key)
  )
  return _table(
    'policy',
    {
      name.replace('_vs_', ' vs ').replace('_', ' '): {
        title: _cell(metrics, name, key, form)
        for title, key, form in _COLUMNS + more
      }
      for name in names
    },
  )


def _cell(metrics: dict, name: str, key, form: str | None) -> str:
  if isinstance(key, tuple):
    low, high = (metrics.get(k.format(name)) for k in key)
    return '' if low is None else f'{low:.1%} to {high:.1%}'
  value = metrics.get(key.format(name))
  if value is None:
    return ''
  spread = metrics.get(key.format(name) + '_std')
  text = form.format(value)
  return f'{text} ± {form.format(spread)}' if spread else text


_ACCURACY = 'eval_rewards/accuracies/model'
_LONGER = 'eval_rewards/accuracies/longer'
_FEEDBACK = {
  'labelers': {
    'pairs': 'pairs',
    'labeler/alignment': "agreement with the data's labels",
    'labeler/flip_rate': 'flip rate',
    'labeler/position_bias': 'same position preferred',
    'labeler/first_shown_rate': 'first shown preferred',
    'labeler/longer_rate': 'longer preferred',
  },
  'reward_models': {
    _ACCURACY: 'accuracy on human pairs',
    ('_ci_low', '_ci_high'): '95% CI',
    _LONGER: 'longer is better',
  },
}


def _feedback(summary: dict) -> list[str]:
  """A table of the labelers and one of the reward models."""
  tables = []
  for block, columns in _FEEDBACK.items():
    if summary.get(block):
      rows = {}
      for name, found in summary[block].items():
        row = rows[name.replace('_', ' ')] = {}
        for key, title in columns.items():
          if isinstance(key, tuple):
            ends = [_number(found.get(_ACCURACY + suffix)) for suffix in key]
            row[title] = ' to '.join(filter(None, ends))
          else:
            row[title] = _number(found.get(key))
      tables.append(_table(block.replace('_', ' ')[:-1], rows))
  return tables


def _number(value) -> str:
  if value is None:
    return ''
  return f'{value:.1%}' if value <= 1 else f'{value:.0f}'


def _table(corner: str, rows: dict[str, dict[str, str]]) -> str:
  """Markdown; columns that no row fills are left out."""
  titles = [
    t for t in next(iter(rows.values())) if any(r[t] for r in rows.values())
  ]
  return _markdown(
    [
      [corner, *titles],
      *([name, *(row[t] for t in titles)] for name, row in rows.items()),
    ]
  )


def _markdown(rows: list[list[str]]) -> str:
  lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
  rule = '|' + '---|' + '---:|' * (len(rows[0]) - 1)
  return '\n'.join([lines[0], rule, *lines[1:]])


def _platform(workdir: pathlib.Path) -> str:
  """What the run was on: its accelerators, or the cores of this machine."""
  file = workdir / 'environment.json'
  found = json.loads(file.read_text()) if file.is_file() else {}
  if found.get('backend', 'cpu') != 'cpu':
    return f'{found["devices"]} x {found["device"]}'
  return f'{os.cpu_count()} CPU cores'


if __name__ == '__main__':
  main(sys.argv[1:])
