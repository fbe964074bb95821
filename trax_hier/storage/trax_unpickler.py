"""Unpacks the arrays of Trax's files; a program of its own, with limits.

`trax_files` runs it. A pickle can call any function of any module. This reader
maps the few names that arrays, their metadata and the history of a training
need to its own classes, which only unpack bytes and shapes; any other name
aborts the read. A pickle can also ask for any amount of memory and time, even
without a call. So the process gets limits on both, and this module imports
NumPy alone, to start quickly.
"""

import contextlib
import gzip
import io
import pickle
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

UNSAFE, DAMAGED = 3, 4  # Exit codes.
_PICKLED, _PLAIN = '.pkl.gz', '.weights.npy.gz'
_KEY = 'flat_weights'
_KINDS = re.compile(r'[<>|=]?[biuf][1248]')
# Unpacked bytes: weights compress little, and a small file may be all zeros.
_PER_BYTE, _LEAST_BYTES = 32, 2**26
# Memory of Python and NumPy, and copies of the weights while they are unpacked.
_BASE_MEMORY, _COPIES = 2**30, 6


class UnsafeFileError(ValueError):
  """A pickle names a function or class that weights do not need."""


def unpack(file: Path) -> Iterator[np.ndarray]:
  """Yields the arrays of a file in the order of Trax's layers.

  Raises:
    UnsafeFileError: The file names something other than arrays and containers.
    Exception: The file is damaged, of another kind, or unpacks to more bytes
      than its size allows.
  """
  if file.name.endswith('.npy.gz'):
    yield from _read_plain(file)
    return
  with _open(file) as f:
    content = _Unpickler(file, f).load()
  if not isinstance(content, dict) or _KEY not in content:
    raise ValueError(f'it has no {_KEY!r}')
  weights = content[_KEY]
  if not isinstance(weights, list | tuple):
    yield from _read_plain(_weights_file(file))
    return
  left = max_bytes(file)
  for x in weights:
    if not isinstance(x, _Array):
      raise ValueError('its weights are not all arrays')
    array = x.value()
    left -= array.nbytes
    # An array may be listed any number of times.
    if left < 0:
      raise ValueError('its arrays are larger than the file allows')
    yield array


def max_bytes(file: Path) -> int:
  """The most bytes that a file may unpack to."""
  return _LEAST_BYTES + _PER_BYTE * file.stat().st_size


def main(argv: Sequence[str]) -> int:
  """Unpacks a file to standard output, one .npy after another.

  Args:
    argv: The file, and the seconds that it may take.

  Returns:
    The exit code; the message of an error is on standard error.
  """
  file, seconds = Path(argv[0]), int(argv[1])
  _limit(seconds, _BASE_MEMORY + _COPIES * max_bytes(file))
  try:
    for array in unpack(file):
      buffer = io.BytesIO()
      np.lib.format.write_array(buffer, array, allow_pickle=False)
      sys.stdout.buffer.write(buffer.getbuffer())
  except UnsafeFileError as error:
    sys.stderr.write(ascii(str(error))[1:-1])
    return UNSAFE
  except MemoryError:
    sys.stderr.write('it takes more memory than its size allows')
    return DAMAGED
  except Exception as error:  # A damaged pickle may raise any exception.
    sys.stderr.write(ascii(str(error)[:300])[1:-1])
    return DAMAGED
  return 0


def _limit(seconds, memory):
  """Limits the time and the memory of this process, where the system can."""
  with contextlib.suppress(ImportError, ValueError, OSError):
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


class _Limited(io.RawIOBase):
  """A compressed file that unpacks to a limited number of bytes."""

  def __init__(self, file: Path):
    self._file = gzip.GzipFile(file)
    self._left = max_bytes(file)

  def readable(self):
    return True

  def readinto(self, buffer):
    n = self._file.readinto(buffer)
    self._left -= n
    if self._left < 0:
      raise ValueError('it unpacks to more bytes than its size allows')
    return n

  def close(self):
    self._file.close()
    super().close()


def _open(file: Path) -> BinaryIO:
  return io.BufferedReader(_Limited(file))


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
  with _open(file) as f:
    while f.peek(1):
      # Unlike np.load, this reads no other format, such as a .npz.
      yield np.lib.format.read_array(f, allow_pickle=False)


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


def _latin1(text, encoding):
  """The bytes that protocols before 3 write as text."""
  if encoding != 'latin1':
    raise ValueError(f'bytes in the encoding {encoding!r:.40}')
  return text.encode(encoding)


_new_array = _Function(_Array)
_new_dict = _Function(lambda *_: {})
_KNOWN = {
  ('_codecs', 'encode'): _Function(_latin1),
  # The history of a training: {mode: defaultdict(list)}. Protocols before 3
  # use the name of Python 2.
  ('__builtin__', 'list'): _Ignored,
  ('builtins', 'list'): _Ignored,
  ('collections', 'OrderedDict'): _new_dict,
  ('collections', 'defaultdict'): _new_dict,
  ('trax.history', 'History'): _Ignored,
  ('trax.supervised.history', 'History'): _Ignored,
  ('trax.shapes', 'ShapeDtype'): _Ignored,
  ('numpy', 'ndarray'): _new_array,
  ('numpy', 'dtype'): _Function(_Dtype),
  # As Trax stores it where it writes a second file.
  ('ml_dtypes', 'bfloat16'): 'u2',
  ('jax._src.array', '_reconstruct_array'): _Function(_from_jax),
  ('jax._src.device_array', 'reconstruct_device_array'): _Function(_from_jax),
}
for _numpy in ('numpy.core', 'numpy._core'):
  _KNOWN |= {
    (f'{_numpy}.multiarray', '_reconstruct'): _new_array,
    (f'{_numpy}.multiarray', 'scalar'): _Function(_Ignored),
    (f'{_numpy}.numeric', '_frombuffer'): _new_array,
  }
_kinds = ('float16', 'float32', 'float64', 'bfloat16', 'bool', 'bool_')
_kinds += tuple(f'{_i}{_n}' for _i in ('int', 'uint') for _n in (8, 16, 32, 64))
for _kind in _kinds:
  # Of a signature; JAX has its own.
  for _module in ('numpy', 'jax.numpy', 'jax.numpy.lax_numpy'):
    _KNOWN[_module, _kind] = _Function(_Ignored)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
