"""What trax's modules see in place of TensorFlow and gym.

trax imports both nearly everywhere and uses them nearly nowhere. A `Stub`
takes the place of such a package and imports it at its first real use, so that
layers, models and `Loop` work without TensorFlow, installed or not.
"""

import builtins
import glob
import os
import pkgutil
import shutil
import sys

PACKAGES = ('tensorflow', 'tensorflow_datasets', 'tensorflow_text', 'gym')

# How many trax modules are being executed right now; kept by the loader.
executing = 0


class Overlay:
  """A view of a module, or of any object, with some of its names replaced.

  Put into the globals of one trax module, it patches what that module sees and
  leaves the object underneath as it is for everybody else.
  """

  def __init__(self, base, **names):
    self.__dict__.update(names)
    self._base = base

  def __getattr__(self, name):
    return getattr(self._base, name)


class Stub:
  """Something in a package that is imported only when it is really used.

  Attributes asked for while a trax module is being executed are stubs
  again; later ones are the real thing. Calling a stub, or deriving a class
  from it, uses the real thing. `isinstance(x, stand_in)` is False until the
  package is loaded, since nothing can be an instance before that.

  Raises ModuleNotFoundError, naming what trax asked for, at the first real use
  of a package that is not installed.
  """

  def __init__(self, path):
    self._path = path

  def __repr__(self):
    return f'<stub for {self._path}>'

  def __getattr__(self, name):
    if name.startswith('__'):  # Probed by inspect, copy and the like.
      raise AttributeError(f'{self!r} has no attribute {name!r}')
    path = f'{self._path}.{name}'
    if not self._loaded():
      if path in _SERVED:
        return _SERVED[path]
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
    try:
      return pkgutil.resolve_name(self._path)
    except ModuleNotFoundError as e:
      raise ModuleNotFoundError(
        f'trax needs {self._path} for this, which is not to be had: {e}.',
        name=e.name,
      ) from e


def import_for_trax(name, globals=None, locals=None, fromlist=(), level=0):
  """`__import__` as trax's modules see it: stubs for `PACKAGES`."""
  root = name.partition('.')[0]
  if level == 0 and root in PACKAGES:
    return Stub(name if fromlist else root)
  return builtins.__import__(name, globals, locals, fromlist, level)


def _gfile():
  """The part of `tf.io.gfile` that trax uses, for local paths from `os`."""

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
      if '://' in path:  # gs://, s3://: TensorFlow's own.
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


# Served without loading TensorFlow, for as long as nobody has loaded it.
_SERVED = {
  'tensorflow.compat.v2': Stub('tensorflow'),
  'tensorflow.io': Stub('tensorflow.io'),
  'tensorflow.io.gfile': _gfile(),
  # Used as the second argument of isinstance for every shape.
  'tensorflow.TensorShape': Stub('tensorflow.TensorShape'),
  'tensorflow.DType': Stub('tensorflow.DType'),
  # Loop seeds TensorFlow; what is not there needs no seed.
  'tensorflow.random': Overlay(
    Stub('tensorflow.random'), set_seed=lambda seed: None
  ),
}
