"""The structure of the package, read from its source."""

import ast
import pathlib
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'trax_hier'
SOURCES = sorted(PACKAGE.rglob('*.py'))

_BASE = {'compat', 'config', 'layers.base'}
_BLOCKS = _BASE | {'layers.attention', 'layers.blocks'}
_LAYERS = _BLOCKS | {
  'layers',
  'layers.decoding',
  'layers.hierarchy',
  'layers.recurrent',
  'layers.reversible',
  'layers.sparse',
}
_FILES = {'data.files', 'data.folders', 'data.unpacking'}
_CORPORA = _FILES | {'data.cache'}
_TEXTS = {
  'data.cache',
  'data.corpora',
  'data.files',
  'data.fingerprints',
  'data.folders',
  'data.joined',
  'data.named_splits',
}
_VOCABULARIES = _TEXTS | {'config', 'data.checks', 'data.splits'}
_BATCHING = _VOCABULARIES | {'data.hashing', 'data.vocabularies'}
_SOURCES = _BATCHING | {'data.batching', 'data.encoding', 'data.unpacking'}
_DATA = _SOURCES | {'data', 'data.sources'}
_TRAINING = {'compat', 'config', 'layers.base', 'training', 'training.logging'}
_TOP = _LAYERS | _DATA | _TRAINING | {'models', 'generation', 'inspection'}

# Packages that each package may import. Every module must belong to one.
MAY_IMPORT = {
  # Imported by all; it imports nothing.
  'environment': set(),
  'config': set(),
  'compat': {'config'},
  'layers.base': {'compat', 'config'},
  'layers.attention': _BASE,
  'layers.blocks': _BASE | {'layers.attention'},
  'layers.sparse': _BASE | {'layers.attention'},
  'layers.hierarchy': _BLOCKS,
  'layers.recurrent': _BLOCKS,
  'layers.reversible': _BASE,
  'layers.decoding': _BASE | {'layers.attention'},
  'layers': _LAYERS,
  'models': _LAYERS,
  'data.checks': set(),
  'data.files': set(),
  'data.hashing': set(),
  'data.joined': set(),
  'data.unpacking': {'data.files'},
  'data.fingerprints': {'data.files'},
  'data.folders': set(),
  'data.named_splits': {'data.folders'},
  'data.cache': set(),
  'data.corpora': _CORPORA,
  'data.splits': _TEXTS,
  'data.vocabularies': _VOCABULARIES,
  'data.encoding': {
    'data.cache',
    'data.files',
    'data.joined',
    'data.vocabularies',
  },
  'data.batching': _BATCHING,
  'data.sources': _SOURCES,
  # Programs: python -m trax_hier.data.prepare.
  'data.enwik8': _DATA,
  'data.prepare': _DATA,
  'data.subwords': _DATA,
  'data': _DATA,
  'training.logging': {'config'},
  'training': _TRAINING,
  'generation': _LAYERS,
  'inspection': _LAYERS | _TRAINING | {'generation'},
  'storage': _LAYERS | _DATA | _TRAINING | {'models', 'generation'},
  'translation': {'config'},
  'commands': _TOP | {'storage', 'translation'},
  'cli': {'commands'},
  'trainer': _TOP | {'storage', 'commands'},
  'trax_trainer': {'compat', 'config', 'commands'},
  'versions': set(),
  '': {'storage', 'versions'},
}

# External packages that only one of our packages may import.
OWNERS = {
  'gin': {'config'},
  'trax': {'compat'},
  'tensorflow': {'data'},
  'tensorflow_datasets': {'data'},
}


def name_of(path):
  return str(path.relative_to(PACKAGE))


each_source = pytest.mark.parametrize('path', SOURCES, ids=name_of)


def parse(path):
  return ast.parse(path.read_text())


def imports(tree):
  """Yields (imported module, whether the import runs at module level)."""

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


def package_of(name):
  """The package in `MAY_IMPORT` that contains a name relative to trax_hier."""
  parts = name.split('.')
  while parts and '.'.join(parts) not in MAY_IMPORT:
    parts.pop()
  return '.'.join(parts)


def within(name, package):
  """Whether a dotted name is a package or inside it."""
  return name == package or name.startswith(f'{package}.')


@each_source
def test_imports_follow_the_allowed_directions(path):
  module = '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)
  package = package_of(module.removesuffix('__init__').rstrip('.'))
  assert package or name_of(path) == '__init__.py', 'belongs to no package'
  for name, at_import in imports(parse(path)):
    assert not within(name, 'jax._src'), name
    for owned, owners in OWNERS.items():
      if within(name, owned):
        assert package.partition('.')[0] in owners, name
    if within(package, 'data') and at_import:
      assert not within(name, 'jax'), name
    # `import trax_hier` reads only the version.
    if within(name, 'trax_hier') and name != 'trax_hier':
      other = package_of(name.removeprefix('trax_hier').lstrip('.'))
      assert other in MAY_IMPORT[package] | {package, 'environment'}, name


def test_directions_have_no_cycle():
  """No two packages may import each other."""
  for package, allowed in MAY_IMPORT.items():
    for other in allowed - {package}:
      # A package and its subpackages may.
      nested = within(other, package) or within(package, other)
      assert nested or package not in MAY_IMPORT[other], (package, other)


# Only programs read gin bindings.
BINDS_NOTHING = {
  'trax_hier.config.configurable',
  *(f'trax_hier.config.effects.{n}' for n in ('building', 'note_use')),
  'trax_hier.config.effects.passes_on',
}


@each_source
def test_layers_and_models_read_no_configuration(path):
  if path.relative_to(PACKAGE).parts[0] in ('layers', 'models'):
    for name, _ in imports(parse(path)):
      if within(name, 'trax_hier.config'):
        assert name in BINDS_NOTHING


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
    # The docstring of a property belongs to its getter.
    setter = any(
      isinstance(d, ast.Attribute) and d.attr == 'setter'
      for d in node.decorator_list
    )
    if not node.name.startswith('_') and not setter:
      yield node
      if isinstance(node, ast.ClassDef):
        yield from public(node.body)


# Methods that trax documents in the base class of layers.
LAYER_METHODS = {'forward', 'init_weights_and_state'}


@each_source
def test_public_names_have_docstrings(path):
  tree = parse(path)
  assert ast.get_docstring(tree), 'the module'
  for node in public(tree.body):
    if node.name not in LAYER_METHODS:
      assert ast.get_docstring(node), node.name


MAX_LINES = {'module': 400, 'function': 80}
# Modules and functions that read better whole, with the reasons.
LONGER = {}


@each_source
def test_modules_and_functions_are_small(path):
  """Counts the lines of modules, and of functions without docstrings."""
  lines = path.read_text().count('\n')
  name = name_of(path)
  assert lines <= MAX_LINES['module'] or name in LONGER, lines
  for node in ast.walk(parse(path)):
    if isinstance(node, ast.FunctionDef):
      docstring = ast.get_docstring(node, clean=False)
      n = node.end_lineno - node.lineno + 1
      n -= docstring.count('\n') + 1 if docstring else 0
      known = f'{name}: {node.name}' in LONGER
      assert n <= MAX_LINES['function'] or known, (node.name, n)


def test_all_packages_are_in_pyproject():
  settings = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  settings = settings['tool']['setuptools']
  moved = settings.get('package-dir', {})
  folders = {moved.get(p, p.replace('.', '/')) for p in settings['packages']}
  assert len(folders) == len(settings['packages'])
  assert all((ROOT / folder).is_dir() for folder in folders)
  assert {str(path.parent.relative_to(ROOT)) for path in SOURCES} <= folders


@each_source
def test_text_files_are_utf8_whatever_the_locale(path):
  for node in ast.walk(parse(path)):
    if not isinstance(node, ast.Call):
      continue
    name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
    words = {k.arg for k in node.keywords}
    n = {'read_text': 0, 'write_text': 1}.get(name)
    if n is not None:
      assert len(node.args) > n or 'encoding' in words, ast.unparse(node)
    if name in ('open', 'fdopen') and 'encoding' not in words:
      modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
      text = [m for m in modes if m in ('r', 'w', 'a', 'x', 'r+', 'w+', 'rt')]
      # A call of open() without a mode reads text.
      assert not text, ast.unparse(node)
      assert name != 'open' or not isinstance(node.func, ast.Name) or modes
