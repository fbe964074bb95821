"""How trax's own modules are imported: fast, and without TensorFlow.

`install` puts a finder on `sys.meta_path` that handles modules named `trax` and
`trax.*`, and no others. What it changes for them:

*   `import` of TensorFlow and its kin yields stubs (`_trax_stubs`).
*   `trax`, `trax.models` and `trax.rl` do not import all that is below them;
    their attributes are imported when first asked for.
*   trax's TensorFlow-NumPy backend is left out.
*   a module with a patch is patched right after it has been executed.
"""

import ast
import builtins
import importlib
import importlib.machinery
import importlib.util
import sys

from trax_hier.compat import stubs

_LAZY_PACKAGES = ('trax', 'trax.models', 'trax.rl')


def install(patches):
  """Installs the finder, and patches what of trax is loaded already.

  Args:
    patches: Maps the name of a trax module to a function that is called with
      that module once it has been executed.

  Returns:
    Whether any of trax had been imported before, in the usual way.
  """
  if any(isinstance(finder, _Finder) for finder in sys.meta_path):
    return False
  before = 'trax' in sys.modules
  sys.meta_path.insert(0, _Finder(patches))
  for name, patch in patches.items():
    if name in sys.modules:
      patch(sys.modules[name])
  return before


def replace(module, name, value):
  """Replaces `module.name`, also where loaded trax modules re-export it."""
  old = getattr(module, name)
  for key, other in list(sys.modules.items()):
    if key.partition('.')[0] == 'trax' and vars(other).get(name) is old:
      setattr(other, name, value)


class _Finder:
  """Finds `trax` and `trax.*` where Python would, and loads them our way."""

  def __init__(self, patches):
    self._patches = patches

  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] != 'trax':
      return None
    spec = importlib.machinery.PathFinder.find_spec(name, path, target)
    if spec and type(spec.loader) is importlib.machinery.SourceFileLoader:
      spec.loader = _Loader(name, spec.loader.path, self._patches.get(name))
    return spec


class _Loader(importlib.machinery.SourceFileLoader):
  """Executes a trax module with the changes listed at the top."""

  def __init__(self, name, path, patch):
    super().__init__(name, path)
    self._patch = patch

  def exec_module(self, module):
    if self.name == 'trax.fastmath.tf':
      module.TF_BACKEND = _NoBackend()
      return
    if not self.name.startswith('trax.tf_numpy'):  # All of it is TensorFlow.
      module.__builtins__ = {
        **vars(builtins),
        '__import__': stubs.import_for_trax,
      }
    if self.name in _LAZY_PACKAGES:
      module.__getattr__ = _lazy_attributes(module, self)
      return
    stubs.executing += 1
    try:
      super().exec_module(module)
    finally:
      stubs.executing -= 1
    if self._patch:
      self._patch(module)


class _NoBackend(dict):
  """Takes the place of trax's TensorFlow-NumPy backend."""

  def __missing__(self, key):
    raise NotImplementedError(
      "trax's TensorFlow-NumPy backend is left out by"
      " trax_hier.compat; use trax.fastmath.set_backend('jax')."
    )


def _lazy_attributes(module, loader):
  """Module `__getattr__` for a package whose `__init__` has not been run.

  A submodule is imported. For a name that `__init__` only imports, that one
  statement is executed; for a name that it defines, such as a model that it
  registers with gin, the whole of it is.
  """
  source = loader.get_source(module.__name__)
  imports, defined = {}, set()
  for node in ast.parse(source).body:
    if isinstance(node, ast.ImportFrom):
      imports.update({alias.asname or alias.name: node for alias in node.names})
    elif isinstance(node, ast.Assign):
      defined.update(target.id for target in node.targets)
    elif isinstance(node, ast.FunctionDef):
      defined.add(node.name)

  def run(tree):
    exec(compile(tree, module.__file__, 'exec'), vars(module))

  def attribute(name):
    path = f'{module.__name__}.{name}'
    if not name.startswith('__') and importlib.util.find_spec(path):
      return importlib.import_module(path)
    if name in imports:
      run(ast.Module([imports[name]], type_ignores=[]))
    elif name in defined:
      run(ast.parse(source))
    else:
      raise AttributeError(
        f'module {module.__name__!r} has no attribute {name!r}'
      )
    return vars(module)[name]

  return attribute
