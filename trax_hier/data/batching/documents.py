"""Documents in one token array, and the rows that they are cut into."""

from typing import NamedTuple

import numpy as np

from trax_hier.data.vocabularies.vocab import Vocab


class Documents(NamedTuple):
  """Documents in one token array.

  Attributes:
    tokens: Integers, (n,), in memory or memory-mapped.
    begins: Where each document begins, (documents,) int64.
    ends: Where each document ends, exclusive, (documents,) int64.

  Example:
    >>> documents = Documents.adjacent(np.arange(10), np.array([3, 10]))
    >>> print(documents.begins, documents.n_tokens())
    [0 3] 10
  """

  tokens: np.ndarray
  begins: np.ndarray
  ends: np.ndarray

  @classmethod
  def adjacent(cls, tokens: np.ndarray, ends: np.ndarray) -> 'Documents':
    """Returns documents that each begin where the previous one ends."""
    return cls(tokens, np.insert(ends, 0, 0)[:-1], ends)

  def content(self, unit: str) -> tuple[str, tuple[np.ndarray, ...]]:
    """Returns the arrays and their size, for a fingerprint."""
    size = f'{len(self.ends):,} documents of {self.n_tokens():,} {unit}s'
    return size, (self.tokens, self.begins, self.ends)

  def n_tokens(self) -> int:
    """Returns the number of tokens in all documents."""
    return int((self.ends - self.begins).sum())

  def n_bytes(self, vocab: Vocab, skip_zeros: bool = False) -> int:
    """Returns the number of UTF-8 bytes that the documents decode to.

    For documents of which only the tokens are known. Decodes whole documents:
    at the start of a row, which may be in the middle of a sentence, subword
    vocabularies would drop a space. Bytes that normalization removed when the
    set was prepared do not count; an unknown piece counts as the text that it
    decodes to.

    Args:
      vocab: Vocabulary of the tokens.
      skip_zeros: Whether to skip tokens of id 0.
    """
    total = 0
    for begin, end in zip(self.begins, self.ends, strict=True):
      ids = self.tokens[begin:end]
      text = vocab.decode(ids[ids != 0] if skip_zeros else ids)
      total += len(text.encode('utf-8'))
    return total


class DocumentRows:
  """Documents cut into rows, each with tokens of one document only.

  A document longer than a row continues in the next one, so no token is lost.
  Padding of weight 0 fills the last row of a document.

  Example:
    >>> documents = Documents.adjacent(np.arange(1, 8), np.array([2, 7]))
    >>> tokens, weights = DocumentRows(documents, length=3).rows(np.arange(3))
    >>> print(tokens)
    [[1 2 0]
     [3 4 5]
     [6 7 0]]
  """

  def __init__(self, documents: Documents, length: int):
    """Counts the rows.

    Args:
      documents: Documents to cut into rows.
      length: Tokens in a row.
    """
    self._tokens, self._begins, self._ends = documents
    self._length = length
    n_rows = -(-(self._ends - self._begins) // length)
    self._row_ends = np.cumsum(n_rows)
    self._first_rows = self._row_ends - n_rows
    self.n_rows = int(n_rows.sum())

  def rows(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows by number; past the last one, they are all padding.

    Args:
      index: Row numbers from 0, (b,).

    Returns:
      Tokens, (b, l) int32, padded with 0, and weights, (b, l) float32.
    """
    tokens = np.zeros((len(index), self._length), np.int32)
    weights = np.zeros((len(index), self._length), np.float32)
    documents = np.searchsorted(self._row_ends, index, side='right')
    for row, (i, document) in enumerate(zip(index, documents, strict=True)):
      if i < self.n_rows:
        skipped = (i - self._first_rows[document]) * self._length
        begin = self._begins[document] + skipped
        end = min(begin + self._length, self._ends[document])
        text = self._tokens[begin:end]
        tokens[row, : len(text)] = text
        weights[row, : len(text)] = 1
    return tokens, weights
