"""Vocabularies: text to ids and back."""

from collections.abc import Callable, Iterable

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


class TextStream:
  """Decodes tokens that come in chunks; the parts join to the whole's text.

  A character may be cut by the edge of a chunk: it is given out with the chunk
  that completes it.
  """

  # Tokens of bytes that do not yet make a character decode to this, and such a
  # character lacks at most its fourth byte.
  _INCOMPLETE = '\ufffd'
  _MAX_INCOMPLETE = 3

  def __init__(
    self, decode: Callable[[list[int]], str], context: Iterable[int] = ()
  ):
    """Begins after the tokens `context`, whose text is not given out.

    Args:
      decode: gives the text of ids, such as a vocabulary's `decode`.
      context: (l,) ids before the stream; subwords may decode to a leading
        space only after others.
    """
    self._decode = decode
    self._ids = list(context)
    self._n_given = len(decode(self._ids))

  def push(self, ids: Iterable[int]) -> str:
    """Returns what is certain of the text after (l,) further ids."""
    self._ids.extend(ids)
    text = self._decode(self._ids)
    complete = text.rstrip(self._INCOMPLETE)
    certain = max(
      len(complete), len(text) - self._MAX_INCOMPLETE, self._n_given
    )
    new = text[self._n_given : certain]
    self._n_given = certain
    if certain == len(text):
      self._forget_all_but(list(ids))
    return new

  def flush(self) -> str:
    """Returns the rest of the text, characters that stayed incomplete too."""
    return self._decode(self._ids)[self._n_given :]

  def _forget_all_but(self, ids):
    """Spares decoding a long text from its beginning each time."""
    text = self._decode(ids)
    # Without a word before it, a subword would lose its leading space.
    if text.strip():
      self._ids, self._n_given = ids, len(text)
