"""SentencePieceVocab: the pieces of a SentencePiece model as token ids."""

import functools
import re
from collections.abc import Iterable
from types import ModuleType

import numpy as np

from trax_hier.data.files import find_path

SUBWORDS_COMMAND = (
  'python -m trax_hier.data.subwords --text=my.txt --output=my.model'
)

# SentencePiece represents a space by this character. It also decodes the
# character itself to a space, unless it was encoded as byte pieces.
SPACE_MARK = '\u2581'

# Bytes that are not UTF-8, as Python's surrogateescape decodes them.
_NOT_UTF8 = '\udc80-\udcff'


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
  """

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

  def encode(self, text: str) -> np.ndarray:
    """Returns the ids of the pieces of `text` as (l,) int32."""
    if SPACE_MARK in text and self._byte_ids is not None:
      return self._join(*self._encode_between(SPACE_MARK, text))
    return np.asarray(self._model.encode(text), np.int32)

  @property
  def content(self) -> bytes:
    """Content of the model file."""
    return self._model.serialized_model_proto()

  def encode_bytes(self, content: bytes) -> np.ndarray:
    """Encodes bytes without loss.

    A zero byte, which separates files, becomes id 0. Bytes that are not UTF-8,
    such as those of a character cut between two splits, become byte pieces.

    Args:
      content: Bytes of text.

    Returns:
      Ids, (l,) int32.

    Raises:
      ValueError: if decoding does not return the same text.
    """
    text = content.decode('utf-8', errors='surrogateescape')
    marks = f'\0{_NOT_UTF8}'
    if self._byte_ids is not None:
      marks += SPACE_MARK
    texts, ids, runs = self._encode_between(marks, text)
    for before, after in zip(texts, self._model.decode(ids), strict=True):
      if before != after:
        raise ValueError(_difference(before, after))
    return self._join(texts, ids, runs)

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

  def _encode_between(self, marks, text):
    """Encodes the text between runs of characters that the model cannot encode.

    Args:
      marks: The characters, as in the brackets of a regular expression.
      text: Text to encode.

    Returns:
      The texts between the runs, their ids, and the runs.
    """
    parts = re.split(f'([{marks}]+)', text)
    return parts[::2], self._model.encode(parts[::2]), parts[1::2]

  def _join(self, texts, ids, runs):
    """Interleaves the ids of texts with the ids of the runs between, (l,)."""
    joined = [np.asarray(ids[0], np.int32)]
    for run, rest in zip(runs, ids[1:], strict=True):
      joined += [self._ids_of_run(run), np.asarray(rest, np.int32)]
    return np.concatenate(joined)

  def _ids_of_run(self, run):
    content = run.encode('utf-8', errors='surrogateescape')
    values = np.frombuffer(content, np.uint8)
    if self._byte_ids is not None:
      return np.where(values, self._byte_ids[values], 0)
    if values.any():
      raise ValueError(f'has no piece for byte {content.strip(bytes(1))[:1]!r}')
    return values.astype(np.int32)


def _difference(before, after):
  """Describes where a text first differs from the decoded text."""
  pairs = enumerate(zip(before, after, strict=False))
  shorter = min(len(before), len(after))
  at = next((i for i, (a, b) in pairs if a != b), shorter)
  return f'{before[at:][:20]!r} in the text decodes to {after[at:][:20]!r}'


def load_vocab(path: str, name: str) -> SentencePieceVocab:
  """Loads a SentencePiece model whose id 0 is free for padding.

  Args:
    path: Model file; `~` is the home folder.
    name: Argument that sets the path, such as 'TextFiles.vocab'.

  Raises:
    ValueError: naming the argument, if the file does not exist, is not a model,
      or encodes text as id 0.
  """
  binding = f'{name} = {path!r}'
  found = find_path(path, binding, 'file')
  try:
    vocab = SentencePieceVocab(str(found))
  except ValueError as error:
    raise ValueError(f'{binding}: {error}') from error
  if not vocab.keeps_zero_free():
    raise ValueError(
      f'{binding}: its id 0 encodes text, but must be padding. To train a '
      f'suitable vocabulary: {SUBWORDS_COMMAND}'
    )
  return vocab
