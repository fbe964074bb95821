"""Rows that hold several documents, which models keep apart."""

import numpy as np

from trax_hier.data.batching.documents import Documents


class PackedRows:
  """Documents packed into rows, so that little of them is padding.

  A document that is longer than a row is cut into pieces, so no token is lost.
  The pieces, longest first, each go to the row with the least room that they
  fit into (best fit). Padding of weight 0 fills up rows, and pieces to a
  multiple of tokens, which models that group neighboring tokens need.

  Example:
    >>> documents = Documents.adjacent(np.arange(1, 9), np.array([2, 7, 8]))
    >>> rows = PackedRows(documents, length=4, multiple=1)
    >>> tokens, weights, ids = rows.rows(np.arange(2))
    >>> print(tokens)
    [[3 4 5 6]
     [1 2 7 8]]
    >>> print(ids)
    [[1 1 1 1]
     [1 1 2 3]]
  """

  def __init__(self, documents: Documents, length: int, multiple: int):
    """Chooses the row of each piece.

    Args:
      documents: Documents to pack.
      length: Tokens in a row.
      multiple: A number that divides `length`.
    """
    self._tokens = documents.tokens
    self._length = length
    begins, ends = _pieces(documents, length)
    slots = -(-(ends - begins) // multiple)
    row, self.n_rows = _best_fit(slots, length // multiple)
    order = np.argsort(row, kind='stable')
    self._begins, self._ends = begins[order], ends[order]
    self._sizes = slots[order] * multiple
    self._first = np.searchsorted(row[order], np.arange(self.n_rows + 1))

  @property
  def n_pieces(self) -> int:
    """Number of documents, or of pieces of those that are cut."""
    return len(self._begins)

  def rows(
    self, index: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns rows by number; past the last one, they are all padding.

    Args:
      index: Row numbers from 0, (b,).

    Returns:
      Tokens, (b, l) int32, padded with 0; weights, (b, l) float32; and the
      number of the document of each token, (b, l) int32, from 1 in each row and
      0 at the end of the row.
    """
    tokens = np.zeros((len(index), self._length), np.int32)
    weights = np.zeros((len(index), self._length), np.float32)
    ids = np.zeros((len(index), self._length), np.int32)
    for row, i in enumerate(index):
      at, pieces = 0, range(0)
      if i < self.n_rows:
        pieces = range(*self._first[i : i + 2])
      for number, piece in enumerate(pieces, 1):
        text = self._tokens[self._begins[piece] : self._ends[piece]]
        tokens[row, at : at + len(text)] = text
        weights[row, at : at + len(text)] = 1
        ids[row, at : at + self._sizes[piece]] = number
        at += self._sizes[piece]
    return tokens, weights, ids


def _pieces(documents, length):
  """Begins and ends of the documents, cut into pieces of at most `length`."""
  _, begins, ends = documents
  n = -(-(ends - begins) // length)  # 0 of an empty document.
  first = np.repeat(np.cumsum(n) - n, n)
  begins = np.repeat(begins, n) + (np.arange(n.sum()) - first) * length
  return begins, np.minimum(begins + length, np.repeat(ends, n))


def _best_fit(sizes, capacity):
  """Puts pieces into rows, the largest first, each where it fits best.

  Pieces of one size are placed together, so time grows with the number of
  different sizes and of different amounts of room.

  Args:
    sizes: Integers in [1, capacity], (n,).
    capacity: Size of a row.

  Returns:
    The row of each piece, (n,) int64, and the number of rows.
  """
  pieces = np.argsort(-sizes, kind='stable')
  row_of = np.empty(len(sizes), np.int64)
  rows = [[] for _ in range(capacity + 1)]  # Arrays of rows, by their room.
  has_rows = np.zeros(capacity + 1, bool)
  n_rows = 0
  ends = np.flatnonzero(np.diff(sizes[pieces], append=0)) + 1
  for group in np.split(pieces, ends[:-1]) if len(pieces) else ():
    size = int(sizes[group[0]])
    while len(group):
      room = size + int(np.argmax(has_rows[size:]))
      if has_rows[room]:
        free = rows[room].pop()
        has_rows[room] = bool(rows[room])
      else:
        room = capacity
        n_new = -(-len(group) // (capacity // size))
        free = np.arange(n_rows, n_rows + n_new)
        n_rows += n_new
      n = min(len(free), len(group))
      row_of[group[:n]] = free[:n]
      for left, some in ((room - size, free[:n]), (room, free[n:])):
        if left and len(some):
          rows[left].append(some)
          has_rows[left] = True
      group = group[n:]
  return row_of, n_rows
