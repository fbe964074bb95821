"""Joined: parts of an array, read as one array without a copy."""

import numpy as np


class Joined:
  """Parts of an array, one after the other, as one array that can be sliced.

  Attributes:
    base: Array of the parts, (n,), in memory or memory-mapped.
    begins: Where each part begins in `base`, (parts,) int64.
    ends: Where each part ends, exclusive, (parts,) int64.
    dtype: Type of the items.
    shape: Number of items of all parts, (1,).

  Example:
    >>> parts = Joined(np.arange(10), np.array([0, 6]), np.array([3, 9]))
    >>> len(parts), parts[1:5]
    (6, array([1, 2, 6, 7]))
  """

  ndim = 1

  def __init__(self, base: np.ndarray, begins: np.ndarray, ends: np.ndarray):
    """Stores the parts; neighbors that touch become one."""
    begins, ends = np.asarray(begins, np.int64), np.asarray(ends, np.int64)
    full = ends > begins
    begins, ends = begins[full], ends[full]
    is_new = np.ones(len(begins), np.bool_)
    is_new[1:] = begins[1:] != ends[:-1]
    self.base = base
    self.begins = begins[is_new]
    self.ends = ends[np.append(is_new[1:], True)[: len(ends)]]
    self.dtype = base.dtype
    # Where each part begins in the joined array, and where the last one ends.
    self._edges = np.append(0, np.cumsum(self.ends - self.begins))
    self.shape = (int(self._edges[-1]),)

  def __len__(self) -> int:
    """Number of items."""
    return self.shape[0]

  def __getitem__(self, where: slice) -> np.ndarray:
    """Returns a slice of step 1, (m,): a view where it is within one part."""
    begin, end, _ = where.indices(len(self))
    first = int(np.searchsorted(self._edges, begin, 'right')) - 1
    pieces = []
    while begin < end:
      at = int(self.begins[first] + begin - self._edges[first])
      n = int(min(end, self._edges[first + 1]) - begin)
      pieces.append(self.base[at : at + n])
      begin, first = begin + n, first + 1
    if len(pieces) == 1:
      return pieces[0]
    return np.concatenate(pieces) if pieces else self.base[:0]

  def plain(self) -> 'np.ndarray | Joined':
    """Returns a view of `base` if there is one part, and otherwise this."""
    return self[:] if len(self.begins) < 2 else self
