"""Stubs that stand for TensorFlow, SciPy and gym in the modules of trax.

trax imports them in many modules but rarely uses them. A `Stub` imports the
package at its first real use, so that layers, models and `Loop` work without
loading TensorFlow, even if it is not installed.
"""

import builtins
import glob
import os
import pkgutil
import shutil
import sys
import types

PACKAGES = (
  'gym',
  'scipy',
  'tensorflow',
  'tensorflow_datasets',
  'tensorflow_text',
)

# What trax.trainer imports and, as patched, does not use: a module that JAX has
# removed, and one that loads TensorFlow.
_REMOVED = ('jax.lib', 'trax.tf_numpy')

# Number of trax modules being imported now; the loader updates it.
executing = 0

# Called once with the module TensorFlow, if trax loads it.
when_tensorflow_loads = None


class Overlay:
  """A view of a module or other object with some attributes replaced.

  In the globals of one trax module, it patches the object for that module only.
  """

  def __init__(self, base, **names):
    self.__dict__.update(names)
    self._base = base

  def __getattr__(self, name):
    return getattr(self._base, name)


class Stub:
  """A package, or an object in one, that is imported at its first real use.

  While a trax module is being executed, attributes are stubs too; later, they
  are the real objects. Calling a stub, or deriving a class from it, imports the
  real object. `isinstance(x, stub)` is False until the package is loaded, since
  no instance can exist before.

  The first real use of a package that is not installed raises
  ModuleNotFoundError, which names the object that trax needs.
  """

  def __init__(self, path):
    self._path = path

  def __repr__(self):
    return f'<stub for {self._path}>'

  def __getattr__(self, name):
    if name.startswith('__'):  # Modules such as inspect and copy ask for these.
      raise AttributeError(f'{self!r} has no attribute {name!r}')
    path = f'{self._path}.{name}'
    if not self._loaded():
      if path in _SUBSTITUTES:
        return _SUBSTITUTES[path]
      if executing:
        return Stub(path)
    return getattr(self._load(), name)

  def __call__(self, *args, **kwargs):
    return self._load()(*args, **kwargs)

  def __instancecheck__(self, instance):
    return self._loaded() and isinstance(instance, self._load())

  def __mro_entries__(self, bases):
    return (self._load(),)

  def _loaded(self):
    return sys.modules.get(self._path.partition('.')[0]) is not None

  def _load(self):
    global when_tensorflow_loads
    try:
      found = pkgutil.resolve_name(self._path)
    except ModuleNotFoundError as e:
      raise ModuleNotFoundError(
        f'trax needs {self._path} here, which cannot be imported: {e}.',
        name=e.name,
      ) from e
    tensorflow = sys.modules.get('tensorflow')
    if tensorflow and when_tensorflow_loads:
      configure, when_tensorflow_loads = when_tensorflow_loads, None
      configure(tensorflow)
    return found


def import_for_trax(name, globals=None, locals=None, fromlist=(), level=0):
  """`__import__` for trax's modules, which returns stubs for `PACKAGES`."""
  root = name.partition('.')[0]
  if level == 0 and root in PACKAGES:
    return Stub(name if fromlist else root)
  if (globals or {}).get('__name__') == 'trax.trainer' and name in _REMOVED:
    return types.SimpleNamespace(**dict.fromkeys(fromlist))
  return builtins.__import__(name, globals, locals, fromlist, level)


def _gfile():
  """The functions of `tf.io.gfile` that trax uses; local paths use `os`."""

  def GFile(path, mode='r'):
    return open(path, mode, encoding=None if 'b' in mode else 'utf-8')

  def makedirs(path):
    os.makedirs(path, exist_ok=True)

  def rename(path, target, overwrite=False):
    if not overwrite and os.path.exists(target):
      raise FileExistsError(f'{target} exists, and overwrite is False.')
    os.replace(path, target)

  def for_local_paths(function, name):
    def on_path(path, *args, **kwargs):
      path = os.fspath(path)
      if '://' in path:  # TensorFlow handles gs://, s3:// etc.
        remote = pkgutil.resolve_name(f'tensorflow.io.gfile.{name}')
        return remote(path, *args, **kwargs)
      return function(path, *args, **kwargs)

    return on_path

  functions = {
    'GFile': GFile,
    'exists': os.path.exists,
    'glob': glob.glob,
    'isdir': os.path.isdir,
    'listdir': os.listdir,
    'makedirs': makedirs,
    'remove': os.remove,
    'rename': rename,
    'rmtree': shutil.rmtree,
  }
  return Overlay(
    Stub('tensorflow.io.gfile'),
    **{name: for_local_paths(f, name) for name, f in functions.items()},
  )


# Substitutes that work without TensorFlow, used until something loads it.
_SUBSTITUTES = {
  'tensorflow.compat.v2': Stub('tensorflow'),
  'tensorflow.io': Stub('tensorflow.io'),
  'tensorflow.io.gfile': _gfile(),
  # Second arguments of isinstance, which trax calls for every shape.
  'tensorflow.TensorShape': Stub('tensorflow.TensorShape'),
  'tensorflow.DType': Stub('tensorflow.DType'),
  # Loop seeds TensorFlow, which is unnecessary while it is not loaded.
  'tensorflow.random': Overlay(
    Stub('tensorflow.random'), set_seed=lambda seed: None
  ),
}
