"""SentencePieceVocab: the pieces of a SentencePiece model as token ids."""

import functools
from collections.abc import Iterable
from types import ModuleType

import numpy as np

from trax_hier.data.files import find_path
from trax_hier.data.vocabularies.byte_counts import (
  MARKS,
  SPACE_MARK,
  bytes_between,
  count_by_table,
  encode_parts,
)
from trax_hier.data.vocabularies.losses import loss_of, probe_texts
from trax_hier.data.vocabularies.vocab import Encoded, content_key

SUBWORDS_COMMAND = (
  'python -m trax_hier.data.subwords --text=my.txt --output=my.model'
)


def import_sentencepiece() -> ModuleType:
  """Imports sentencepiece, which only subword data requires.

  Raises:
    ValueError: if it is not installed.
  """
  try:
    import sentencepiece
  except ImportError as error:
    raise ValueError(
      'needs the sentencepiece package: pip install sentencepiece'
    ) from error
  return sentencepiece


class SentencePieceVocab:
  """Vocabulary of the pieces of a SentencePiece model, with its ids.

  This package uses id 0 as BOS and padding. A model whose id 0 is padding, such
  as T5's, fits.

  Attributes:
    size: Number of pieces.
    unit, key, byte_lengths, loss: See `TextVocab`.
  """

  unit = 'token'

  def __init__(self, path: str):
    """Loads the model file `path`.

    Raises:
      ValueError: if the file is not a model or sentencepiece is missing.
    """
    try:
      sentencepiece = import_sentencepiece()
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from error
    try:
      self._model = sentencepiece.SentencePieceProcessor(model_file=path)
    except (OSError, RuntimeError) as error:
      raise ValueError(f'{path}: not a SentencePiece model: {error}') from error
    self.size = self._model.get_piece_size()

  @property
  def content(self) -> bytes:
    """Content of the model file."""
    return self._model.serialized_model_proto()

  @functools.cached_property
  def key(self) -> str:
    """Hash of the model; see `TextVocab`."""
    return content_key('sentencepiece', self.content)

  @functools.cached_property
  def loss(self) -> str:
    """What of a text decoding does not restore; see `TextVocab`."""
    return loss_of(self)

  @functools.cached_property
  def byte_lengths(self) -> np.ndarray | None:
    """Bytes of text of each id, (v,); see `TextVocab`."""
    if self._byte_ids is None or self.loss:
      return None
    # A model that begins each text with a space has tokens of more bytes.
    is_exact = all(
      self._weights[self.encode(text)].sum() == len(text.encode())
      for text in probe_texts()
    )
    return self._weights if is_exact else None

  @property
  def unknown_id(self) -> int | None:
    """Id of text without a piece; None if every text has pieces."""
    return self._model.unk_id() if self._byte_ids is None else None

  def encode(self, text: str) -> np.ndarray:
    """Returns the ids of the pieces of `text` as (l,) int32."""
    if SPACE_MARK in text and self._byte_ids is not None:
      return encode_parts(
        text.encode(), SPACE_MARK, self._encode, self._encode_run
      ).ids
    return self._ids(text)

  def encode_bytes(self, content: bytes) -> Encoded:
    """Encodes bytes; see `TextVocab`."""
    marks = MARKS if self._byte_ids is None else MARKS + SPACE_MARK
    return encode_parts(content, marks, self._encode, self._encode_run)

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids`."""
    return self._model.decode(np.asarray(ids).tolist())

  def keeps_zero_free(self) -> bool:
    """Returns whether no text encodes to id 0, which is BOS and padding."""
    # If each byte has a piece, no text encodes to the unknown piece.
    return self._model.is_control(0) or (
      self._model.is_unknown(0) and self._byte_ids is not None
    )

  @functools.cached_property
  def _byte_ids(self):
    """Ids of the byte pieces, (256,); None if the model has none."""
    ids = [self._model.piece_to_id(f'<0x{byte:02X}>') for byte in range(256)]
    if not all(map(self._model.is_byte, ids)):
      return None
    return np.asarray(ids, np.int32)

  @functools.cached_property
  def _weights(self):
    """Usual bytes of each piece, (size,) int64; 1 where they are not known."""
    sizes = np.ones(self.size, np.int64)
    for i in range(self.size):
      if not (self._model.is_byte(i) or self._model.is_control(i)):
        piece = self._model.id_to_piece(i).replace(SPACE_MARK, ' ')
        sizes[i] = len(piece.encode())
    return sizes

  def _ids(self, text):
    try:
      return np.asarray(self._model.encode(text), np.int32)
    except RuntimeError:
      text.encode()  # Names a lone surrogate, which no UTF-8 text has.
      raise

  def _encode(self, text):
    """Encodes text without the characters that are encoded separately."""
    ids = self._ids(text)
    n_bytes = len(text.encode())
    counts = count_by_table(ids, self._weights, n_bytes)
    if self._byte_ids is None or counts is None:
      counts = self._count_by_offsets(text, n_bytes)
    return Encoded(ids, counts)

  def _count_by_offsets(self, text, n_bytes):
    try:
      found = self._model.encode(
        text, return_type='offset_mapping', return_bytes=True
      )
    except (TypeError, ValueError) as error:
      raise ValueError(
        'needs a newer sentencepiece package: pip install -U sentencepiece'
      ) from error
    begins, ends = np.array(found['offsets'], np.int64).reshape(-1, 2).T
    # Of the byte pieces of a character, only the last one has its bytes.
    following = np.where(begins == ends, len(ends), np.arange(len(ends)))
    following = np.minimum.accumulate(following[::-1])[::-1]
    if self._byte_ids is not None and len(ends):
      is_byte = np.isin(found['ids'], self._byte_ids)
      following = following.clip(max=len(ends) - 1)
      ends = np.where(is_byte, ends[following], ends)
    return bytes_between(ends, self._weights[found['ids']], n_bytes)

  def _encode_run(self, run):
    """Ids of bytes that are not text of the model, one for each."""
    values = np.frombuffer(run, np.uint8)
    if self._byte_ids is not None:
      return np.where(values, self._byte_ids[values], 0)
    return np.where(values, self._model.unk_id(), 0).astype(np.int32)


def load_sentencepiece(
  path: str, name: str, zero_is_free: bool = True
) -> SentencePieceVocab:
  """Loads a SentencePiece model.

  Args:
    path: Model file; `~` is the home folder.
    name: Argument that sets the path, such as 'TextFiles.vocab'.
    zero_is_free: Whether no text may have id 0, which is padding.

  Raises:
    ValueError: naming the argument, if the file does not exist, is not a model,
      or encodes text as id 0 but must not.
  """
  binding = f'{name} = {path!r}'
  found = find_path(path, binding, 'file')
  try:
    vocab = SentencePieceVocab(str(found))
  except ValueError as error:
    raise ValueError(f'{binding}: {error}') from error
  if zero_is_free and not vocab.keeps_zero_free():
    raise ValueError(
      f'{binding}: its id 0 encodes text, but must be padding. To train a '
      f'suitable vocabulary: {SUBWORDS_COMMAND}'
    )
  return vocab
