"""ByteVocab: UTF-8 bytes as token ids."""

from collections.abc import Iterable

import numpy as np


class ByteVocab:
  """Vocabulary of UTF-8 bytes; id 0 is BOS and padding.

  Attributes:
    size: 256.

  Example:
    >>> vocab = ByteVocab()
    >>> print(vocab.encode('né'))
    [110 195 169]
    >>> vocab.decode([110, 195, 169])
    'né'
  """

  size = 256

  def encode(self, text: str) -> np.ndarray:
    """Returns the UTF-8 bytes of `text` as (l,) int32."""
    return np.frombuffer(text.encode('utf-8'), np.uint8).astype(np.int32)

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids`; bytes that are not UTF-8 become U+FFFD.

    Args:
      ids: Integers in [0, 256), (l,).

    Raises:
      ValueError: if an id is not a byte.
    """
    return bytes(np.asarray(ids).tolist()).decode('utf-8', errors='replace')
