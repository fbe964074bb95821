"""Reads weights from Trax's files without executing code in them.

A pickle can call any function of any module. This reader maps the few names
that arrays and their metadata need to its own classes, which only unpack bytes
and shapes; any other name aborts the read.
"""

import gzip
import pickle
import re
from pathlib import Path

import ml_dtypes
import numpy as np

_PICKLED, _PLAIN = '.pkl.gz', '.weights.npy.gz'
_KEY = 'flat_weights'
_KINDS = re.compile(r'[<>|=]?[biuf][1248]')


class UnsafeFileError(ValueError):
  """A pickle names a function or class that weights do not need."""


def read_trax_weights(file: str | Path) -> list[np.ndarray]:
  """Reads the weights that Trax saved, in the order of its layers.

  Args:
    file: `model.pkl.gz`, written by `Layer.save_to_file` or a `Loop`. If Trax
      put the weights into a second file, `model.weights.npy.gz`, that file must
      be in the same folder; `file` may also be the second file itself.

  Returns:
    Arrays in the shapes of Trax, such as (d_in, d_out) and (d_out,) for a dense
    layer; bfloat16 becomes float32.

  Raises:
    UnsafeFileError: The file names something other than arrays and containers.
    ValueError: The file is damaged or of another kind.
  """
  file = Path(file).expanduser()
  if not file.is_file():
    raise ValueError(f'{file}: no such file')
  try:
    arrays = _read(file)
  except UnsafeFileError:
    raise
  # A damaged pickle may raise any exception.
  except Exception as error:
    raise ValueError(
      f'{file}: damaged, or not a weight file of Trax: {error}'
    ) from error
  # Trax stores bfloat16 as uint16.
  return [
    x.view(ml_dtypes.bfloat16).astype(np.float32) if x.dtype == 'u2' else x
    for x in arrays
  ]


def _read(file):
  if file.name.endswith('.npy.gz'):
    return _read_plain(file)
  with gzip.open(file) as f:
    content = _Unpickler(file, f).load()
  if not isinstance(content, dict) or _KEY not in content:
    raise ValueError(f'it has no {_KEY!r}')
  weights = content[_KEY]
  if isinstance(weights, list | tuple):
    return [_array(x) for x in weights]
  return _read_plain(_weights_file(file))


def _weights_file(file):
  """The second file, which holds the weights of a pickle."""
  stem = file.name.removesuffix(_PICKLED)
  names = stem + _PLAIN, file.name + '.npy'
  for name in names:
    if (file.parent / name).is_file():
      return file.parent / name
  raise ValueError(f'its weights are in {names[0]}, missing from its folder')


def _read_plain(file):
  """Reads a compressed sequence of arrays in NumPy's format."""
  arrays = []
  with gzip.open(file) as f:
    while f.peek(1):
      arrays.append(np.load(f, allow_pickle=False))
  return arrays


class _Unpickler(pickle.Unpickler):
  """Unpickles arrays and containers only."""

  def __init__(self, name, file):
    super().__init__(file)
    self._name = name

  def find_class(self, module, name):
    known = _KNOWN.get((module, name))
    if known is None:
      raise UnsafeFileError(
        f'{self._name}: names {module}.{name}, which weights do not need; the '
        'file was rejected and nothing in it was executed'
      )
    return known


def _array(x):
  if not isinstance(x, _Array):
    raise ValueError('its weights are not all arrays')
  return x.value()


class _Function:
  """A function that a pickle may call but not modify."""

  __slots__ = ('_call',)

  def __init__(self, call):
    self._call = call

  def __call__(self, *args):
    return self._call(*args)

  def __setstate__(self, state):
    raise ValueError('a function has no state')


class _Dtype:
  """Stub of a NumPy dtype; only plain numbers have a `value`."""

  __slots__ = ('kind', 'order')

  def __init__(self, kind, *_):
    self.kind, self.order = kind, '='

  def __setstate__(self, state):
    self.order = state[1]

  def value(self):
    kind = f'{self.order}{self.kind}'
    if not isinstance(self.kind, str) or not _KINDS.fullmatch(kind):
      raise ValueError(f'an array of type {self.kind!r:.40}')
    return np.dtype(kind)


class _Array:
  """Stub of an array, which holds its content, dtype, shape and order."""

  __slots__ = ('_parts',)

  def __init__(self, *parts):
    self._parts = parts

  def __setstate__(self, state):
    _, shape, dtype, is_fortran, content = state
    self._parts = content, dtype, shape, 'F' if is_fortran else 'C'

  def value(self):
    content, dtype, shape, order = self._parts
    # frombuffer returns a read-only array.
    flat = np.frombuffer(content, dtype.value())
    return flat.reshape(shape, order=order).copy()


def _from_jax(function, args, state, *_):
  """Rebuilds a JAX array, pickled as a NumPy array and more state."""
  if not isinstance(function, _Function):
    raise ValueError('an unknown kind of JAX array')
  array = function(*args)
  array.__setstate__(state)
  return array


class _Ignored:
  """Stub of an object other than a weight; drops its arguments and state."""

  __slots__ = ()

  def __new__(cls, *_):
    return super().__new__(cls)

  def __setstate__(self, state):
    pass


_new_array = _Function(_Array)
_KNOWN = {
  ('numpy', 'ndarray'): _new_array,
  ('numpy', 'dtype'): _Function(_Dtype),
  ('trax.shapes', 'ShapeDtype'): _Ignored,
  ('jax._src.array', '_reconstruct_array'): _Function(_from_jax),
  ('jax._src.device_array', 'reconstruct_device_array'): _Function(_from_jax),
}
for _numpy in ('numpy.core', 'numpy._core'):
  _KNOWN |= {
    (f'{_numpy}.multiarray', '_reconstruct'): _new_array,
    (f'{_numpy}.multiarray', 'scalar'): _Function(_Ignored),
    (f'{_numpy}.numeric', '_frombuffer'): _new_array,
  }
for _kind in ('bool_', 'uint8', 'uint32', 'int32', 'int64', 'float32'):
  _KNOWN['numpy', _kind] = _Function(_Ignored)
