"""Shares: which source a row of a mixture comes from."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from trax_hier.data.batching.permutation import permute
from trax_hier.data.hashing import MIXTURE, hash64

_LARGEST_BLOCK = 1000


def block_shares(weights: Sequence[float]) -> np.ndarray:
  """Returns the rows of each source in a block.

  A block is the least number of rows, at most 1000, in which the rows of the
  sources have the ratio of the weights; weights without such a ratio are
  rounded to thousandths of their sum, and to at least one row.

  Args:
    weights: Positive numbers.

  Returns:
    Rows of each source, (n,) int64.

  Example:
    >>> print(block_shares((3, 1)), block_shares((0.2, 0.3)))
    [3 1] [2 3]
  """
  exact = [Fraction(x).limit_denominator(_LARGEST_BLOCK) for x in weights]
  if all(exact):
    denominator = math.lcm(*(each.denominator for each in exact))
    rows = [int(each * denominator) for each in exact]
    divisor = math.gcd(*rows)
    if sum(rows) // divisor <= _LARGEST_BLOCK:
      return np.array([each // divisor for each in rows], np.int64)
  return split_rows(_LARGEST_BLOCK, weights)


def split_rows(n: int, weights: Sequence[float]) -> np.ndarray:
  """Splits n rows by weights, at least one for each.

  Args:
    n: Number of rows, at least that of the weights.
    weights: Positive numbers.

  Returns:
    Rows of each source, (n,) int64.

  Example:
    >>> print(split_rows(8, (3, 1)), split_rows(8, (100, 1, 1)))
    [6 2] [6 1 1]
  """
  scaled = np.asarray(weights, np.float64) / max(weights)
  wanted = scaled / scaled.sum() * n
  rows = np.maximum(np.floor(wanted), 1).astype(np.int64)
  while rows.sum() < n:
    rows[np.argmax(wanted - rows)] += 1
  while rows.sum() > n:
    rows[np.argmax(np.where(rows > 1, rows - wanted, -np.inf))] -= 1
  return rows


def locate_rows(
  index: np.ndarray, shares: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the source of each row of a mixture, and its number there.

  Each block of rows holds the same number of rows of each source, in an order
  that a hash of the seed and of the block chooses. Each source is read in its
  own order, without gaps.

  Args:
    index: Numbers of the rows from 0, (b,).
    shares: Rows of each source in a block, (sources,).
    seed: Seed of the order.

  Returns:
    Numbers of the sources and of the rows, both (b,) int64.

  Example:
    >>> source, row = locate_rows(np.arange(8), np.array([3, 1]), seed=0)
    >>> print(source, row)
    [0 1 0 0 1 0 0 0] [0 0 1 2 1 3 4 5]
  """
  size = int(shares.sum())
  block, position = np.divmod(index, size)
  sources, rows = np.empty_like(index), np.empty_like(index)
  ends = np.cumsum(shares)
  for number in np.unique(block).tolist():
    key = hash64(seed, MIXTURE, number)
    order = permute(np.arange(size), size, key)
    source = np.searchsorted(ends, order, 'right')
    here = block == number
    sources[here] = source[position[here]]
    for i, share in enumerate(shares.tolist()):
      rank = np.cumsum(source == i) - 1 + number * share
      mine = here & (sources == i)
      rows[mine] = rank[position[mine]]
  return sources, rows
