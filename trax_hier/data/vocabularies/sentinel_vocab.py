"""SentinelVocab: a vocabulary with sentinels for span corruption."""

import re
from collections.abc import Iterable

import numpy as np

from trax_hier.data.vocabularies.vocab import Vocab


class SentinelVocab:
  """A base vocabulary with sentinel ids above its own ids.

  Attributes:
    base: Vocabulary of the ids below the sentinels.
    size: Number of ids, including the sentinels.

  Example:
    >>> from trax_hier.data import ByteVocab
    >>> vocab = SentinelVocab(ByteVocab(), size=300)
    >>> print(vocab.encode('a<0>b<1>'))
    [ 97 299  98 298]
    >>> vocab.decode([97, 299, 98, 298])
    'a<0>b<1>'
  """

  def __init__(self, vocab: Vocab, size: int):
    """Adds sentinels to a vocabulary.

    Args:
      vocab: Vocabulary of the ids below the sentinels.
      size: Number of ids, including the sentinels, which count down from
        size - 1. All ids of at least vocab.size are sentinels.
    """
    self.base = vocab
    self.size = size

  def encode(self, text: str) -> np.ndarray:
    """Returns (l,) int32 ids; reads '<0>', '<1>', … as sentinels."""
    ids = []
    for i, part in enumerate(re.split(r'<(\d+)>', text)):
      if i % 2 == 0:
        ids.append(self.base.encode(part))
      elif int(part) < self.size - self.base.size:
        ids.append(np.array([self.size - 1 - int(part)]))
      else:
        ids.append(self.base.encode(f'<{part}>'))
    return np.concatenate(ids).astype(np.int32)

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids`, with sentinels as '<0>', '<1>', ….

    Each run of ids between sentinels is decoded separately.

    Args:
      ids: Integers in [0, size), (l,).

    Raises:
      ValueError: if an id is out of range.
    """
    ids = np.asarray(ids)
    outside = ids[(ids < 0) | (ids >= self.size)]
    if len(outside):
      raise ValueError(f'id {outside[0]}: must be in [0, {self.size})')
    text, begin = [], 0
    for at in [*np.flatnonzero(ids >= self.base.size), len(ids)]:
      if at > begin:
        text.append(self.base.decode(ids[begin:at]))
      if at < len(ids):
        text.append(f'<{self.size - 1 - int(ids[at])}>')
      begin = at + 1
    return ''.join(text)
