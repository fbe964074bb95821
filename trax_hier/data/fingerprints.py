"""Fingerprints of data, which show whether they have changed since.

A fingerprint of memory-mapped data reads only some blocks of the files.
"""

import hashlib
from collections.abc import Mapping

import numpy as np

from trax_hier.data.files import mapped_file, sample_begins

# Arrays that determine a part of the data, such as a split, and its size for
# messages: {'train': ('900 bytes', (array,))}.
Content = Mapping[str, tuple[str, tuple[np.ndarray, ...]]]

_BLOCK, _N_BLOCKS = 1 << 16, 256  # items hashed at a time; blocks of a file


def fingerprint(size: str, arrays: tuple[np.ndarray, ...]) -> str:
  """Returns the size and a hash of arrays.

  Arrays in memory are hashed whole. Of memory-mapped ones, their lengths and
  evenly spaced blocks are hashed, the first and the last among them.

  Args:
    size: Size for messages, such as '900 bytes'.
    arrays: Arrays of any dtype, (n,) or any other shape.

  Example:
    >>> fingerprint('3 bytes', (np.array([1, 2, 3], np.uint8),))
    '3 bytes, hash bc55b0b58d042362'
  """
  digest = hashlib.sha256()
  for array in arrays:
    digest.update(f'{array.dtype.str} {array.shape}\n'.encode())
    flat = array.reshape(-1)
    is_mapped = mapped_file(array) is not None
    n_blocks = _N_BLOCKS if is_mapped else max(1, -(-len(flat) // _BLOCK))
    for begin in sample_begins(len(flat), _BLOCK, n_blocks):
      digest.update(flat[begin : begin + _BLOCK].tobytes())
  return f'{size}, hash {digest.hexdigest()[:16]}'
