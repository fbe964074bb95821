"""The weights in Trax's own files, read without running what a file says.

A pickle may name any function of any module and have it called. Here the names
that arrays and their surroundings need stand for objects of this module, which
take bytes and shapes apart and call nothing; every other name ends the reading.
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


class RefusedError(ValueError):
  """A file asks for what weights do not need."""


def read_trax_weights(file: str | Path) -> list[np.ndarray]:
  """Reads the weights that Trax saved, in the order of its layers.

  Args:
    file: `model.pkl.gz`, as `Layer.save_to_file` or a `Loop` writes it. Where
      that keeps the weights in a second file, `model.weights.npy.gz` must lie
      beside it; `file` may also be the second one itself.

  Returns:
    Arrays, those of bfloat16 as float32.

  Raises:
    ValueError: one message, if the file is damaged, of another kind, or names
      anything that is not an array or a container (`RefusedError`).
  """
  file = Path(file).expanduser()
  if not file.is_file():
    raise ValueError(f'{file}: no such file')
  try:
    arrays = _read(file)
  except RefusedError:
    raise
  # Damaged pickles raise whatever the damaged place happens to say.
  except Exception as error:
    raise ValueError(
      f'{file}: not weights as Trax saves them, or damaged: {error}'
    ) from error
  # Of NumPy's types, Trax takes this one for bfloat16.
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
  return _read_plain(_beside(file))


def _beside(file):
  """The file with the weights that belongs to a pickle without them."""
  stem = file.name.removesuffix(_PICKLED)
  names = stem + _PLAIN, file.name + '.npy'
  for name in names:
    if (file.parent / name).is_file():
      return file.parent / name
  raise ValueError(f'its weights are in {names[0]}, which must lie beside it')


def _read_plain(file):
  """Arrays of NumPy's own format, one after another, compressed."""
  arrays = []
  with gzip.open(file) as f:
    while f.peek(1):
      arrays.append(np.load(f, allow_pickle=False))
  return arrays


class _Unpickler(pickle.Unpickler):
  """Knows arrays and containers alone."""

  def __init__(self, name, file):
    super().__init__(file)
    self._name = name

  def find_class(self, module, name):
    known = _KNOWN.get((module, name))
    if known is None:
      raise RefusedError(
        f'{self._name}: asks for {module}.{name}, which weights do not need; '
        'it is not loaded, nothing of it was run'
      )
    return known


def _array(x):
  if not isinstance(x, _Array):
    raise ValueError('its weights are not all arrays')
  return x.value()


class _Function:
  """What a pickle calls, and cannot change."""

  __slots__ = ('_call',)

  def __init__(self, call):
    self._call = call

  def __call__(self, *args):
    return self._call(*args)

  def __setstate__(self, state):
    raise ValueError('a function has no state')


class _Dtype:
  """In place of a NumPy dtype, of which only plain numbers have a value."""

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
  """In place of an array: what one is made of."""

  __slots__ = ('_parts',)

  def __init__(self, *parts):
    self._parts = parts

  def __setstate__(self, state):
    _, shape, dtype, is_fortran, content = state
    self._parts = content, dtype, shape, 'F' if is_fortran else 'C'

  def value(self):
    content, dtype, shape, order = self._parts
    # A copy, as the bytes of a pickle cannot be written to.
    flat = np.frombuffer(content, dtype.value())
    return flat.reshape(shape, order=order).copy()


def _from_jax(function, args, state, *_):
  """An array of JAX, which is one of NumPy and what is known of its type."""
  if not isinstance(function, _Function):
    raise ValueError('an array of JAX of another kind')
  array = function(*args)
  array.__setstate__(state)
  return array


class _Nothing:
  """In place of what stands beside the weights."""

  __slots__ = ()

  def __new__(cls, *_):
    return super().__new__(cls)

  def __setstate__(self, state):
    pass


_new_array = _Function(_Array)
_KNOWN = {
  ('numpy', 'ndarray'): _new_array,
  ('numpy', 'dtype'): _Function(_Dtype),
  ('trax.shapes', 'ShapeDtype'): _Nothing,
  ('jax._src.array', '_reconstruct_array'): _Function(_from_jax),
  ('jax._src.device_array', 'reconstruct_device_array'): _Function(_from_jax),
}
for _numpy in ('numpy.core', 'numpy._core'):
  _KNOWN |= {
    (f'{_numpy}.multiarray', '_reconstruct'): _new_array,
    (f'{_numpy}.multiarray', 'scalar'): _Function(_Nothing),
    (f'{_numpy}.numeric', '_frombuffer'): _new_array,
  }
for _kind in ('bool_', 'uint8', 'uint32', 'int32', 'int64', 'float32'):
  _KNOWN['numpy', _kind] = _Function(_Nothing)
