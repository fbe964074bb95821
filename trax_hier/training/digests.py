"""Digests of arrays, which find damaged values; arrays that are not finite.

The digest of an array is the sum, modulo 2^32, of a hash of each word and its
position. It depends neither on the devices that hold the array nor on how it
is split over them. The hash of a position is a bijection of the word, so every
change within a single word changes the digest.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

_CHUNK = 1 << 16  # Words that are hashed at one time, to stay in the cache.
_SHOWN = 3  # Names in a message.


@dataclasses.dataclass(frozen=True)
class Summary:
  """What is computed of an array.

  Attributes:
    digest: Digest of its bits, 32 bits.
    is_finite: Whether all values are finite.
  """

  digest: int
  is_finite: bool


def summarize(arrays: Mapping[str, jax.Array]) -> dict[str, Summary]:
  """Computes the digests of arrays, and whether they are finite.

  Arrays in the memory of this host are read there, which compiles nothing.
  Others are reduced on their devices, in one compiled program per shape; with
  several hosts, all must call this function with the same arrays.

  Args:
    arrays: Real arrays of any shape, by name.

  Example:
    >>> found = summarize({'a': jnp.array([1.0, jnp.inf]), 'b': jnp.arange(3)})
    >>> found['a'].is_finite, found['b'].is_finite
    (False, True)
  """
  return {name: _summarize(x) for name, x in arrays.items()}


def count_arrays(names: list[str], n: int) -> str:
  """Counts arrays among `n`, and names the first.

  Example:
    >>> count_arrays(['weights.0', 'weights.2'], 9)
    '2 of 9 arrays (weights.0, weights.2)'
  """
  more = ', …' if len(names) > _SHOWN else ''
  return f'{len(names)} of {n} arrays ({", ".join(names[:_SHOWN])}{more})'


def _summarize(x):
  if _is_local(x):
    digest, is_finite = _on_host(np.asarray(x))
  else:
    # One program at a time: on CPU, hosts that have dispatched more than 32
    # programs, some with collectives, can wait for each other forever.
    digest, is_finite = jax.device_get(_on_devices(x))
  return Summary(int(digest), bool(is_finite))


def _is_local(x):
  """Whether numpy reads an array without a copy between devices."""
  if not isinstance(x, jax.Array):
    return True
  on_cpu = all(device.platform == 'cpu' for device in x.sharding.device_set)
  return on_cpu and x.is_fully_addressable


def _hash(words, positions):
  """Hashes uint32 words; a bijection of the word at each position.

  The constants are those of the 32-bit hash "lowbias32", by Chris Wellons.
  """
  x = words ^ positions * np.uint32(0x9E3779B1)
  # In place where x is a numpy array.
  x ^= x >> np.uint32(16)
  x *= np.uint32(0x7FEB352D)
  x ^= x >> np.uint32(15)
  x *= np.uint32(0x846CA68B)
  x ^= x >> np.uint32(16)
  return x


def _word_type(dtype):
  return {1: np.uint8, 2: np.uint16}.get(np.dtype(dtype).itemsize, np.uint32)


def _is_float(x):
  return jnp.issubdtype(x.dtype, jnp.floating)


def _on_host(x):
  flat = np.ascontiguousarray(x).reshape(-1)
  words = flat.view(_word_type(x.dtype))
  indices = np.arange(min(_CHUNK, words.size), dtype=np.uint32)
  digest, is_finite = 0, True
  for start in range(0, words.size, _CHUNK):
    chunk = words[start : start + _CHUNK]
    positions = indices[: chunk.size] + np.uint32(start % 2**32)
    digest += int(_hash(chunk, positions).sum(dtype=np.uint32))
    if _is_float(x):
      is_finite &= bool(np.isfinite(flat[start : start + _CHUNK]).all())
  return digest % 2**32, is_finite


@jax.jit
def _on_devices(x):
  is_finite = jnp.isfinite(x).all() if _is_float(x) else jnp.bool_(True)
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  words = jax.lax.bitcast_convert_type(x, _word_type(x.dtype))
  words = words.astype(jnp.uint32)
  positions, stride = jnp.zeros(words.shape, jnp.uint32), 1
  for axis in reversed(range(words.ndim)):
    index = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    positions += index * np.uint32(stride % 2**32)
    stride *= words.shape[axis]
  return _hash(words, positions).sum(dtype=jnp.uint32), is_finite
