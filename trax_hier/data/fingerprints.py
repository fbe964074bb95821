"""Fingerprints of data, which show whether they have changed since.

A fingerprint of memory-mapped data reads only some blocks of the files.
"""

import hashlib
from collections.abc import Mapping

import numpy as np

from trax_hier.data.files import mapped_file, release_pages, sample_begins

# Arrays that determine a part of the data, such as a split, its size for
# messages, and its hash if that is known: {'train': ('900 bytes', (array,))}.
Content = Mapping[
  str,
  tuple[str, tuple[np.ndarray, ...]]
  | tuple[str, tuple[np.ndarray, ...], str | None],
]

_BLOCK, _N_BLOCKS = 1 << 16, 256  # items hashed at a time; blocks of a file


def fingerprint(
  size: str, arrays: tuple[np.ndarray, ...], known: str | None = None
) -> str:
  """Returns the size and a hash of arrays.

  Arrays in memory are hashed whole. Of memory-mapped ones, their lengths and
  evenly spaced blocks are hashed, the first and the last among them.

  Args:
    size: Size for messages, such as '900 bytes'.
    arrays: Arrays of any dtype, (n,) or any other shape.
    known: What `whole_hash` has returned for the arrays; None hashes them.

  Example:
    >>> fingerprint('3 bytes', (np.array([1, 2, 3], np.uint8),))
    '3 bytes, hash bc55b0b58d042362'
  """
  return f'{size}, hash {known or _hash(arrays, is_sampled=True)}'


def whole_hash(arrays: tuple[np.ndarray, ...]) -> str:
  """Returns the hash of arrays, as of arrays in memory.

  Args:
    arrays: Arrays, (n,) or any other shape, or `Joined`; read in blocks.
  """
  return _hash(arrays, is_sampled=False)


def _hash(arrays, is_sampled):
  digest = hashlib.sha256()
  for array in arrays:
    digest.update(f'{array.dtype.str} {array.shape}\n'.encode())
    flat = array if array.ndim == 1 else array.reshape(-1)
    n_blocks = max(1, -(-len(flat) // _BLOCK))
    if is_sampled and mapped_file(array) is not None:
      n_blocks = _N_BLOCKS
    for i, begin in enumerate(sample_begins(len(flat), _BLOCK, n_blocks)):
      digest.update(flat[begin : begin + _BLOCK].tobytes())
      if i % _N_BLOCKS == _N_BLOCKS - 1:
        release_pages(array)
  return digest.hexdigest()[:16]
