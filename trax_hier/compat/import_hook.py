"""An import hook that imports trax quickly and without TensorFlow.

`install` puts a finder on `sys.meta_path` that handles only modules named
`trax` and `trax.*`. It changes their import:

*   Importing TensorFlow and related packages yields stubs (`stubs`).
*   `trax` and `trax.rl` import each submodule and attribute at its first
    access.
*   trax's TensorFlow-NumPy backend is not loaded.
*   A module that has a patch is patched right after it has been executed.
"""

import ast
import builtins
import importlib
import importlib.machinery
import importlib.util
import sys

from trax_hier.compat import stubs

_LAZY_PACKAGES = ('trax', 'trax.rl')


def install(patches):
  """Installs the finder, and patches trax modules that are already loaded.

  Args:
    patches: Patches by name of a trax module: functions that are called with
      the module after its execution.

  Returns:
    Whether trax had already been imported, without the hook.
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
  """Replaces `module.name`, and its re-exports in loaded trax modules."""
  old = getattr(module, name)
  for key, other in list(sys.modules.items()):
    if key.partition('.')[0] == 'trax' and vars(other).get(name) is old:
      setattr(other, name, value)


class _Finder:
  """Finds `trax` and `trax.*` as Python does, but loads them with `_Loader`."""

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
  """Executes a trax module with the changes listed in the module docstring."""

  def __init__(self, name, path, patch):
    super().__init__(name, path)
    self._patch = patch

  def exec_module(self, module):
    if self.name == 'trax.fastmath.tf':
      module.TF_BACKEND = _NoBackend()
      return
    if not self.name.startswith('trax.tf_numpy'):  # It needs TensorFlow.
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
  """Stub for trax's TensorFlow-NumPy backend."""

  def __missing__(self, key):
    raise NotImplementedError(
      'trax_hier.compat does not load the TensorFlow-NumPy backend of trax; use'
      " trax.fastmath.set_backend('jax')."
    )


def _lazy_attributes(module, loader):
  """Module `__getattr__` for a package whose `__init__` has not been executed.

  For a submodule, imports it. For a name that `__init__` imports, executes only
  that import statement. For a name that `__init__` defines, such as an agent
  that it registers with gin, executes all of `__init__`.
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
