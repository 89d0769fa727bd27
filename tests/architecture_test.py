"""The shape of the package: floors, exclusive imports, sizes, docstrings.

Read from the syntax trees alone; nothing is imported. Every file is its own
case, so that a message names the file and line to mend.
"""

import ast
import functools
import graphlib
import pathlib
import sys

import pytest

_REPO = pathlib.Path(__file__).resolve().parents[1]
_PACKAGE = _REPO / 'rlaif_jax'
_FILES = sorted(_PACKAGE.rglob('*.py'))

# First part of the path below rlaif_jax/ -> floor. Imports go strictly down.
_FLOORS = {
  'main': 7,
  'convert': 7,
  'plan': 7,
  'labels': 7,
  'tiny_world': 7,  # programs that make what is shipped; nobody imports them
  'stages': 6,
  'report': 5,  # stages write them at their end
  'rating': 5,
  'rewards': 4,
  'evaluators': 4,
  'labeler': 3,
  'inference': 2,
  'training': 2,
  'algorithms': 2,
  'models': 1,
  'data': 1,
  'sharding': 1,
  'host': 1,
  'offload': 0,
  'core': 0,
}
# The one import within a floor: models place their parameters on the mesh.
_SAME_FLOOR = {('models', 'sharding')}

# Library -> the only places (folder or file) that may import it.
_EXCLUSIVE = {
  'flax.linen': ('models/',),
  'orbax': ('training/checkpoint.py',),
  'grain': ('data/',),
  'datasets': ('data/',),
  'tensorflow_datasets': ('data/',),
  'transformers': ('data/',),
  'absl.flags': ('main.py', 'convert.py', 'plan/__main__.py'),
  'absl.app': ('main.py', 'convert.py', 'plan/__main__.py'),
  'ml_collections.config_flags': ('main.py', 'convert.py', 'plan/__main__.py'),
  'torch': (),
  'tensorflow': (),
  'jax.experimental.pjit': (),
}
# Folder -> libraries it must do without.
_WITHOUT = {
  'data/': ('jax.numpy', 'flax', 'optax'),
  'evaluators/': ('jax', 'flax', 'optax', 'scipy'),
}
_CORE_LIBRARIES = {'jax', 'chex', 'jaxtyping', 'optax', 'rlaif_jax'}

_MAX_FILE = 350
_MAX_FUNCTION = 80
_MAX_HOST_LOOP = 150  # stages/

_each_file = pytest.mark.parametrize(
  'path', _FILES, ids=[str(p.relative_to(_PACKAGE)) for p in _FILES]
)


@functools.cache
def _tree(path: pathlib.Path) -> ast.Module:
  return ast.parse(path.read_text(encoding='utf-8'), str(path))


def _relative(path: pathlib.Path) -> str:
  return path.relative_to(_PACKAGE).as_posix()


def _module_name(path: pathlib.Path) -> str:
  parts = path.relative_to(_REPO).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


_MODULES = {_module_name(path) for path in _FILES}


def _imports(path: pathlib.Path) -> list[tuple[str, int]]:
  """(dotted name, line) of everything imported, inside functions too.

  `from a import b` gives 'a.b', whether b is a module or a name in a.
  """
  found = []
  for node in ast.walk(_tree(path)):
    if isinstance(node, ast.Import):
      found += [(alias.name, node.lineno) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path}:{node.lineno}: relative import'
      found += [
        (f'{node.module}.{alias.name}', node.lineno) for alias in node.names
      ]
  return found


def _used(path: pathlib.Path) -> list[tuple[str, int]]:
  """Imports, and dotted uses such as `jax.numpy.zeros`."""
  dotted = [
    (ast.unparse(node), node.lineno)
    for node in ast.walk(_tree(path))
    if isinstance(node, ast.Attribute)
  ]
  return _imports(path) + dotted


def _within(name: str, library: str) -> bool:
  return name == library or name.startswith(f'{library}.')


def _unit(name: str) -> str | None:
  """'rlaif_jax.core.kl' -> 'core'; None for the package itself and others."""
  parts = name.split('.')
  if parts[0] != 'rlaif_jax' or len(parts) == 1 or parts[1].startswith('__'):
    return None
  return parts[1]


@_each_file
def test_imports_go_down(path):
  unit = _unit(_module_name(path))
  if unit is None:
    assert not [name for name, _ in _imports(path) if _unit(name)]
    return
  assert unit in _FLOORS, f'{_relative(path)}: give {unit!r} a floor here'
  wrong = []
  for name, line in _imports(path):
    other = _unit(name)
    if other in (None, unit) or (unit, other) in _SAME_FLOOR:
      continue
    assert other in _FLOORS, f'{_relative(path)}:{line}: unknown {name}'
    if _FLOORS[other] >= _FLOORS[unit]:
      wrong.append(f'{_relative(path)}:{line}: {unit} imports {name}')
  assert not wrong, '\n'.join(wrong)


@_each_file
def test_exclusive_imports(path):
  relative = _relative(path)
  wrong = [
    f'{relative}:{line}: {name} belongs to {" or ".join(places) or "nobody"}'
    for name, line in _imports(path)
    for library, places in _EXCLUSIVE.items()
    if _within(name, library) and not relative.startswith(places)
  ]
  wrong += [
    f'{relative}:{line}: {name}; {folder} does without {library}'
    for folder, libraries in _WITHOUT.items()
    if relative.startswith(folder)
    for name, line in _used(path)
    for library in libraries
    if _within(name, library)
  ]
  assert not wrong, '\n'.join(wrong)


@_each_file
def test_core_needs_little(path):
  if not _relative(path).startswith('core/'):
    return
  wrong = [
    f'{_relative(path)}:{line}: {name}'
    for name, line in _imports(path)
    if name.split('.')[0] not in _CORE_LIBRARIES | sys.stdlib_module_names
  ]
  assert not wrong, '\n'.join(wrong)


def test_no_import_cycles():
  graph = {}
  for path in _FILES:
    module = _module_name(path)
    graph[module] = set()
    for name, _ in _imports(path):
      # A name that is no module lives in its parent.
      target = name if name in _MODULES else name.rpartition('.')[0]
      if target in _MODULES and target != module:
        graph[module].add(target)
  try:
    graphlib.TopologicalSorter(graph).prepare()
  except graphlib.CycleError as error:
    pytest.fail('import cycle: ' + ' <- '.join(error.args[1]))


@_each_file
def test_sizes(path):
  relative = _relative(path)
  lines = len(path.read_text(encoding='utf-8').splitlines())
  assert lines <= _MAX_FILE, f'{relative} has {lines} lines: split it'
  limit = _MAX_HOST_LOOP if relative.startswith('stages/') else _MAX_FUNCTION
  wrong = []
  for node in ast.walk(_tree(path)):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      length = node.end_lineno - node.lineno + 1
      if length > limit:
        wrong.append(f'{relative}:{node.lineno}: {node.name}, {length} lines')
  assert not wrong, '\n'.join(wrong)


@_each_file
def test_public_definitions_have_docstrings(path):
  kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
  open_nodes = [(_tree(path), '')]
  wrong = []
  while open_nodes:
    parent, prefix = open_nodes.pop()
    for node in parent.body:
      if isinstance(node, kinds) and not node.name.startswith('_'):
        name = prefix + node.name
        if not ast.get_docstring(node):
          wrong.append(f'{_relative(path)}:{node.lineno}: {name}')
        if isinstance(node, ast.ClassDef):
          open_nodes.append((node, f'{name}.'))
  if not ast.get_docstring(_tree(path)):
    wrong.append(f'{_relative(path)}: the file itself')
  assert not wrong, 'no docstring:\n' + '\n'.join(sorted(wrong))


def test_the_package_has_files():
  # Every other test here passes on an empty list.
  assert _PACKAGE / '__init__.py' in _FILES
