"""The structure of the package, read from its source."""

import ast
import pathlib
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'trax_hier'
SOURCES = sorted(PACKAGE.rglob('*.py'))
DOORS = {'trax_compat.py', '_trax_import.py'}

PROGRAMS = {'trax_hier.cli', 'trax_hier.trainer', 'trax_hier._commands'}
TOP = PROGRAMS | {'trax_hier.runs', 'trax_hier._configurables'}

# What a folder or file must not import. `jax` is meant at import time.
FORBIDDEN = {
  'layers': {
    'trax_hier.models',
    'trax_hier.data',
    'trax_hier.training',
    'trax_hier.generation',
    'trax_hier.config',
  },
  'models': {
    'trax_hier.data',
    'trax_hier.training',
    'trax_hier.generation',
    'trax_hier.config',
  },
  'data': {
    'trax_hier.layers',
    'trax_hier.models',
    'trax_hier.training',
    'trax_hier.generation',
    'trax_hier.trax_compat',
  },
  'training': {'trax_hier.layers', 'trax_hier.models', 'trax_hier.data'},
  'generation.py': {'trax_hier.models', 'trax_hier.data', 'trax_hier.training'},
  'runs.py': {'trax_hier.layers', 'trax_hier.models', 'trax_hier.data'}
  | {'trax_hier.generation'},
}


def name_of(path):
  return str(path.relative_to(PACKAGE))


each_source = pytest.mark.parametrize('path', SOURCES, ids=name_of)


def imports(tree):
  """Yields (module, whether it happens when the module is imported)."""

  def visit(node, at_import):
    for child in ast.iter_child_nodes(node):
      if isinstance(child, ast.Import):
        yield from ((alias.name, at_import) for alias in child.names)
      elif isinstance(child, ast.ImportFrom):
        assert not child.level, 'imports are absolute'
        names = (f'{child.module}.{alias.name}' for alias in child.names)
        yield from ((name, at_import) for name in names)
      inside = isinstance(child, ast.FunctionDef | ast.Lambda)
      yield from visit(child, at_import and not inside)

  yield from visit(tree, True)


def above(folder):
  """What is imported only by what stands over the folder or file."""
  if f'trax_hier.{folder.removesuffix(".py")}' in PROGRAMS:
    return set()
  return PROGRAMS if folder == 'runs.py' else TOP


def within(name, package):
  return name == package or name.startswith(f'{package}.')


def parse(path):
  return ast.parse(path.read_text())


@each_source
def test_imports_go_one_way(path):
  folder = path.relative_to(PACKAGE).parts[0]
  for name, at_import in imports(parse(path)):
    assert not within(name, 'jax._src'), name
    if folder != 'data':
      assert not within(name, 'tensorflow'), name
      assert not within(name, 'tensorflow_datasets'), name
    if path.name not in DOORS:
      assert not within(name, 'trax'), name
    for package in FORBIDDEN.get(folder, ()):
      assert not within(name, package), name
    for package in above(folder):
      assert not within(name, package), name
    if folder == 'data' and at_import:
      assert not within(name, 'jax'), name


@each_source
def test_no_global_random_state(path):
  allowed = {'default_rng', 'Generator', 'SeedSequence', 'Philox', 'PCG64'}
  tree = parse(path)
  assert not any(within(name, 'random') for name, _ in imports(tree))
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute):
      match node.value:
        case ast.Attribute(ast.Name('np' | 'numpy'), 'random'):
          assert node.attr in allowed, f'line {node.lineno}: {node.attr}'


def public(nodes):
  """Yields the public functions, classes and methods among the nodes."""
  for node in nodes:
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
      continue
    # The getter of a property has the docstring.
    setter = any(
      isinstance(d, ast.Attribute) and d.attr == 'setter'
      for d in node.decorator_list
    )
    if not node.name.startswith('_') and not setter:
      yield node
      if isinstance(node, ast.ClassDef):
        yield from public(node.body)


# Their meaning is Trax's, for every layer.
OF_EVERY_LAYER = {'forward', 'init_weights_and_state'}


@each_source
def test_public_names_have_docstrings(path):
  tree = parse(path)
  assert ast.get_docstring(tree), 'the module'
  for node in public(tree.body):
    if node.name not in OF_EVERY_LAYER:
      assert ast.get_docstring(node), node.name


def test_all_folders_are_packaged():
  settings = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  settings = settings['tool']['setuptools']
  moved = settings.get('package-dir', {})
  folders = {moved.get(p, p.replace('.', '/')) for p in settings['packages']}
  assert len(folders) == len(settings['packages'])
  assert all((ROOT / folder).is_dir() for folder in folders)
  assert {str(path.parent.relative_to(ROOT)) for path in SOURCES} <= folders
