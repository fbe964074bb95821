"""IdVocab: numbers as token ids, for ids whose text is not known."""

from collections.abc import Iterable

import numpy as np


class IdVocab:
  """Vocabulary of numbers; text is ids between spaces, such as '3 17 0'.

  Attributes:
    size: Number of ids.

  Example:
    >>> vocab = IdVocab(32)
    >>> print(vocab.encode('3 17 0'))
    [ 3 17  0]
    >>> vocab.decode([3, 17, 0])
    '3 17 0'
  """

  def __init__(self, size: int):
    """Takes the number of ids."""
    self.size = size

  def encode(self, text: str) -> np.ndarray:
    """Returns the ids in `text` as (l,) int32.

    Raises:
      ValueError: a word is not a number below `size`.
    """
    words = text.split()
    for word in words:
      if not (word.isdecimal() and int(word[:10]) < self.size):
        raise ValueError(
          f'{word[:40]!r} is not a token id: text of this vocabulary is '
          f"numbers from 0 to {self.size - 1} between spaces, such as '3 17'"
        )
    return np.array([int(word) for word in words], np.int32)

  def decode(self, ids: Iterable[int]) -> str:
    """Returns `ids`, (l,), as text."""
    return ' '.join(map(str, np.asarray(ids).tolist()))
