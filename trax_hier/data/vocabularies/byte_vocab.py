"""ByteVocab: UTF-8 bytes as token ids."""

from collections.abc import Iterable

import numpy as np

from trax_hier.data.vocabularies.vocab import Encoded


class ByteVocab:
  """Vocabulary of UTF-8 bytes; id 0 is BOS and padding.

  Attributes:
    size: 256.
    unit, key, byte_lengths, loss: See `TextVocab`.

  Example:
    >>> vocab = ByteVocab()
    >>> print(vocab.encode('né'))
    [110 195 169]
    >>> vocab.decode([110, 195, 169])
    'né'
  """

  size = 256
  unit = 'byte'
  key = 'bytes'
  byte_lengths = np.ones(256, np.int64)
  loss = ''

  def encode(self, text: str) -> np.ndarray:
    """Returns the UTF-8 bytes of `text` as (l,) int32."""
    return np.frombuffer(text.encode('utf-8'), np.uint8).astype(np.int32)

  def encode_bytes(self, content: bytes) -> Encoded:
    """Returns bytes as ids; see `TextVocab`."""
    ids = np.frombuffer(content, np.uint8).astype(np.int32)
    return Encoded(ids, np.ones(len(ids), np.int64))

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids`; bytes that are not UTF-8 become U+FFFD.

    Args:
      ids: Integers in [0, 256), (l,).

    Raises:
      ValueError: if an id is not a byte.
    """
    return bytes(np.asarray(ids).tolist()).decode('utf-8', errors='replace')
