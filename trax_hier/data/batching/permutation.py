"""Permutations computed per index, identical in every version of numpy.

`Generator.permutation` may change between numpy releases, which would reorder
the data of a resumed run.

The IndexSampler of Grain 0.2.18 is the other choice. Over 10 ** 8 items, on one
CPU core, it takes 42 microseconds an index, this module 46 in batches of 8 and
1.1 in batches of 1024; neither needs memory, and over 400 seeds their orders
are equally close to random ones (displacement, neighbors, fixed points).
"""

import numpy as np

from trax_hier.data.hashing import SHUFFLE, hash64, mix64

_ROUNDS = 6  # even, so that the two halves end with their initial sizes


def permute(index: np.ndarray, n: int, key: np.ndarray) -> np.ndarray:
  """Permutes 0 .. n-1 pseudo-randomly, one permutation per key.

  A Feistel network permutes the range up to the smallest power of two that is
  at least n. A result of n or more passes through the network again until it is
  less than n (cycle walking), which keeps the map one to one and takes fewer
  than two passes on average.

  Args:
    index: Integers in [0, n), (b,).
    n: Size of the permuted range.
    key: Key of the permutation of each index, (b,) or (1,) uint64.

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
  """Permutes 0 .. m-1, m the smallest power of two of at least n and 4."""
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
  """Returns items of an endless stream that reshuffles n items each epoch.

  Args:
    index: Positions in the stream from 0, (b,).
    n: Items in an epoch.
    seed: Seed of the stream.

  Returns:
    `(epoch, item)`, both (b,) int64: each epoch holds each item exactly once.

  Example:
    >>> epoch, item = shuffled(np.arange(8), n=4, seed=0)
    >>> print(epoch, item)
    [0 0 0 0 1 1 1 1] [3 0 2 1 2 1 0 3]
  """
  epoch, position = np.divmod(index, n)
  return epoch, permute(position, n, hash64(seed, SHUFFLE, epoch))
