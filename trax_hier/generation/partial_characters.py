"""Cuts token ids between characters, of which a token may be a part."""

from collections.abc import Callable

import numpy as np

# A part of a character decodes to this.
_INCOMPLETE = '\ufffd'
_MOST = 3  # tokens of a part of a character


def whole_characters(
  ids: np.ndarray, decode: Callable[[np.ndarray], str]
) -> np.ndarray:
  """Drops the tokens at the end that only begin a character.

  Args:
    ids: Token ids, (l,), such as the first ones of a text.
    decode: Function from ids to text.

  Returns:
    The first ids, (m,) with l - 3 <= m <= l.

  Example:
    >>> from trax_hier.data import ByteVocab
    >>> ids = ByteVocab().encode('né')
    >>> print(whole_characters(ids[:2], ByteVocab().decode))
    [110]
  """
  for end in range(len(ids), max(0, len(ids) - _MOST) - 1, -1):
    if not decode(ids[:end]).endswith(_INCOMPLETE):
      return ids[:end]
  return ids
