"""The notebooks run from their first cell to the last, on small settings."""

import json
import os

import pytest

NAMES = (
  '1_quickstart',
  '2_labels_and_position_bias',
  '3_reward_model',
  '4_direct_rlaif',
  '5_compare_runs',
)


def cells(repo, name, kind='code'):
  notebook = json.loads((repo / 'notebooks' / f'{name}.ipynb').read_text())
  return [c for c in notebook['cells'] if c['cell_type'] == kind]


def source(cell) -> str:
  return ''.join(cell['source'])


def test_all_notebooks_are_tested(repo):
  found = {path.stem for path in (repo / 'notebooks').glob('*.ipynb')}
  assert found == set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_outputs_are_stripped(repo, name):
  for cell in cells(repo, name):
    assert cell['outputs'] == [], source(cell)
    assert cell['execution_count'] is None


@pytest.mark.parametrize('name', NAMES)
def test_the_first_cell_installs(repo, name):
  """The same one everywhere; a title is next, and every step is explained."""
  first = json.loads((repo / 'notebooks' / f'{name}.ipynb').read_text())[
    'cells'
  ]
  assert first[0]['cell_type'] == 'code'
  assert source(first[0]) == source(cells(repo, NAMES[0])[0])
  assert "'pip', 'install'" in source(first[0])
  assert source(first[1]).startswith('# ')
  assert len(cells(repo, name, 'markdown')) >= 4


@pytest.mark.parametrize('name', NAMES)
def test_it_runs(repo, name, tmp_path, monkeypatch):
  """In a kernel of its own, as a person would run it."""
  nbclient = pytest.importorskip('nbclient')
  nbformat = pytest.importorskip('nbformat')
  monkeypatch.setenv('RLAIF_SMALL', '1')
  monkeypatch.setenv('RLAIF_WORK', str(tmp_path))
  monkeypatch.setenv('PYTHONPATH', str(repo))
  monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(repo / '.cache' / 'jax'))
  notebook = nbformat.read(repo / 'notebooks' / f'{name}.ipynb', as_version=4)
  client = nbclient.NotebookClient(
    notebook,
    timeout=900,
    kernel_name='python3',
    resources={'metadata': {'path': str(repo / 'notebooks')}},
  )
  client.execute(env=dict(os.environ))
  shown = [output for c in notebook.cells for output in c.get('outputs', ())]
  assert not [o for o in shown if o.output_type == 'error']
  pages = [
    o for o in shown if '<iframe' in str(o.get('data', {}).get('text/html'))
  ]
  assert len(pages) == {'3_reward_model': 0, '5_compare_runs': 2}.get(name, 1)
