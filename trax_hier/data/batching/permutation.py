"""Shuffles that need no table and do not depend on numpy's version.

numpy does not promise that `Generator.permutation` stays the same across
releases; a resumed run must not depend on that, so the shuffle is our own.
"""

import numpy as np

from trax_hier.data.hashing import hash64, mix64

_ROUNDS = 6  # even, so that the two halves end with the sizes they began with
_SHUFFLE = 1  # names this use of the seed's hash; see windows._OFFSET


def permute(index: np.ndarray, n: int, key: np.ndarray) -> np.ndarray:
  """Maps 0 .. n-1 one to one onto itself, one pseudo-random order per key.

  A Feistel network over the smallest power of two that holds n; an index that
  lands outside is sent through again until it lands inside (cycle walking,
  fewer than two passes on average), which keeps the map one to one.

  Args:
    index: (b,) integers in [0, n).
    n: size of the permuted range.
    key: (b,) or (1,) uint64, which permutation to use for each index.

  Returns:
    (b,) int64 in [0, n).
  """
  out = index.astype(np.uint64)
  key = np.broadcast_to(key, out.shape)
  outside = np.arange(out.size)
  while outside.size:
    out[outside] = _feistel(out[outside], n, key[outside])
    outside = outside[out[outside] >= n]
  return out.astype(np.int64)


def _feistel(x, n, key):
  """One pass over the power of two that holds n (at least 4, two bits)."""
  bits = max(2, (n - 1).bit_length())
  left_bits, right_bits = bits // 2, bits - bits // 2
  left = x >> np.uint64(right_bits)
  right = x & np.uint64((1 << right_bits) - 1)
  for _ in range(_ROUNDS):
    key = mix64(key + np.uint64(1))
    scrambled = mix64(right ^ key) & np.uint64((1 << left_bits) - 1)
    left, right = right, left ^ scrambled
    left_bits, right_bits = right_bits, left_bits
  return (left << np.uint64(right_bits)) | right


def shuffled(
  index: np.ndarray, n: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Item number `index` of an endless stream that reshuffles n items an epoch.

  Args:
    index: (b,) positions in the stream, from 0 without end.
    n: items in an epoch.
    seed: which stream.

  Returns:
    `(epoch, item)`, both (b,) int64: each epoch holds each item exactly once.

  Example:
    >>> epoch, item = shuffled(np.arange(8), n=4, seed=0)
    >>> print(epoch, item)
    [0 0 0 0 1 1 1 1] [3 0 2 1 2 1 0 3]
  """
  epoch, position = np.divmod(index, n)
  return epoch, permute(position, n, hash64(seed, _SHUFFLE, epoch))
