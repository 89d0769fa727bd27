"""Writes the README's tables and tree; nothing there is typed by hand.

  python launch/readme.py                            tree and model families
  python launch/readme.py tiny=runs/seeds quickstart=runs/quickstart
  python launch/readme.py tldr=runs/tldr harmless=runs/harmless

Each NAME=WORKDIR fills the section `<!-- NAME -->` of README.md from the
`summary.json` of that run. Sections that are not named keep what they hold.
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
  ('KL to SFT', 'objective/kl/{}', '{:.2f}'),
  ('words', 'text/words/{}', '{:.1f}'),
  ('repeated 3-grams', 'text/repeated_3grams/{}', '{:.1%}'),
)


def main(arguments: list[str]) -> None:
  """Fills the sections that `arguments` name."""
  readme = _ROOT / 'README.md'
  text = fill(readme.read_text(encoding='utf-8'), 'tree', tree())
  text = fill(text, 'families', families())
  for argument in arguments:
    name, _, workdir = argument.partition('=')
    text = fill(text, name, results(pathlib.Path(workdir)))
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


def results(workdir: pathlib.Path) -> str:
  """Markdown tables of a pipeline run (or of its seeds)."""
  file = workdir / 'summary.json'
  if not file.is_file():
    file = workdir / 'evaluate' / 'summary.json'
  summary = json.loads(file.read_text(encoding='utf-8'))
  config = json.loads((workdir / 'config.json').read_text(encoding='utf-8'))
  seeds = config.get('seeds') or [config.get('seed', 0)]
  made = datetime.date.fromtimestamp(file.stat().st_mtime)
  note = (
    f'Seeds {", ".join(map(str, seeds))}; {_platform()}; {made:%Y-%m-%d}. '
    'Intervals are 95% bootstrap intervals over prompts'
    + (', averaged over seeds.' if len(seeds) > 1 else '.')
  )
  return '\n\n'.join([_policies(summary), *_feedback(summary), note])


def _policies(summary: dict) -> str:
  metrics = summary['metrics']
  names = list(summary['policies'])
  names += sorted(
    key.removeprefix('eval_win_rate/').removesuffix('_win')
    for key in metrics
    if re.fullmatch(r'eval_win_rate/\w+_vs_\w+_win', key)
  )
  rows = [['policy', *(title for title, _, _ in _COLUMNS)]]
  for name in names:
    row = [name.replace('_vs_', ' vs ').replace('_', ' ')]
    for _, key, form in _COLUMNS:
      row.append(_cell(metrics, name, key, form))
    rows.append(row)
  return _markdown(rows)


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


def _feedback(summary: dict) -> list[str]:
  tables = []
  for block, columns in (
    (
      'labelers',
      {
        'labeler/alignment': 'alignment with human labels',
        'labeler/flip_rate': 'flip rate',
        'labeler/position_bias': 'same position preferred',
        'pairs': 'pairs',
      },
    ),
    (
      'reward_models',
      {
        'eval_rewards/accuracies/model': 'accuracy on human pairs',
        'eval_rewards/accuracies/longer': 'longer is better',
      },
    ),
  ):
    if summary.get(block):
      rows = [[block.replace('_', ' ')[:-1], *columns.values()]]
      for name, found in summary[block].items():
        cells = [found.get(key) for key in columns]
        rows.append([name.replace('_', ' '), *map(_number, cells)])
      tables.append(_markdown(rows))
  return tables


def _number(value) -> str:
  if value is None:
    return ''
  return f'{value:.1%}' if value <= 1 else f'{value:.0f}'


def _markdown(rows: list[list[str]]) -> str:
  lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
  rule = '|' + '---|' + '---:|' * (len(rows[0]) - 1)
  return '\n'.join([lines[0], rule, *lines[1:]])


def _platform() -> str:
  return f'{os.cpu_count()} CPU cores'


if __name__ == '__main__':
  main(sys.argv[1:])
