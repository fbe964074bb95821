"""Vocabularies: text to ids and back."""

from collections.abc import Iterable

import numpy as np


class ByteVocab:
  """Ids are the raw byte values of UTF-8 text; id 0 is BOS and padding.

  Attributes:
    size: 256.
  """

  size = 256

  def encode(self, text: str) -> np.ndarray:
    """Returns the UTF-8 bytes of `text` as (l,) int32."""
    return np.frombuffer(text.encode('utf-8'), np.uint8).astype(np.int32)

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids`; bytes that are not UTF-8 become U+FFFD.

    Args:
      ids: (l,) integers in [0, 256).

    Raises:
      ValueError: if an id is not a byte.
    """
    return bytes(np.asarray(ids).tolist()).decode('utf-8', errors='replace')


class SentencePieceVocab:
  """The pieces of a SentencePiece model.

  Ids are the model's own; models whose id 0 is the padding, such as T5's, fit
  this package's use of id 0 as BOS and padding.

  Attributes:
    size: the number of pieces.
  """

  def __init__(self, path: str):
    """Loads the model file `path`.

    Raises:
      ValueError: if the file is no model or sentencepiece is not installed.
    """
    try:
      # Optional: only subword data needs it.
      import sentencepiece
    except ImportError as error:
      raise ValueError(
        f'{path}: needs the sentencepiece package: pip install sentencepiece'
      ) from error
    try:
      self._model = sentencepiece.SentencePieceProcessor(model_file=path)
    except (OSError, RuntimeError) as error:
      raise ValueError(f'{path}: no SentencePiece model: {error}') from error
    self.size = self._model.get_piece_size()

  def encode(self, text: str) -> np.ndarray:
    """Returns the ids of the pieces of `text` as (l,) int32."""
    return np.asarray(self._model.encode(text), np.int32)

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids`."""
    return self._model.decode(np.asarray(ids).tolist())
