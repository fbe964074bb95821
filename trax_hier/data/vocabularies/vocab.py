"""Vocabularies: text to ids and back."""

import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import numpy as np

SUBWORDS_COMMAND = (
  'python -m trax_hier.data.subwords --text=my.txt --output=my.model'
)

# What SentencePiece writes for a space. In a text of its own it would come back
# as one, unless its bytes are encoded.
SPACE_MARK = '\u2581'

# Bytes that are not UTF-8, as Python's surrogateescape decodes them.
_NOT_UTF8 = '\udc80-\udcff'


class ByteVocab:
  """Ids are the raw byte values of UTF-8 text; id 0 is BOS and padding.

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
      ids: (l,) integers in [0, 256).

    Raises:
      ValueError: if an id is not a byte.
    """
    return bytes(np.asarray(ids).tolist()).decode('utf-8', errors='replace')


def import_sentencepiece() -> ModuleType:
  """Imports sentencepiece, which only subword data needs.

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
      sentencepiece = import_sentencepiece()
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from error
    try:
      self._model = sentencepiece.SentencePieceProcessor(model_file=path)
    except (OSError, RuntimeError) as error:
      raise ValueError(f'{path}: no SentencePiece model: {error}') from error
    self.size = self._model.get_piece_size()

  def encode(self, text: str) -> np.ndarray:
    """Returns the ids of the pieces of `text` as (l,) int32."""
    if SPACE_MARK in text and self._byte_ids is not None:
      return self._join(*self._encode_around(SPACE_MARK, text))
    return np.asarray(self._model.encode(text), np.int32)

  @property
  def content(self) -> bytes:
    """What its model file holds."""
    return self._model.serialized_model_proto()

  def encode_bytes(self, content: bytes) -> np.ndarray:
    """Returns the ids of bytes of text, of which none may get lost.

    A zero byte, which stands between files, becomes id 0. Bytes that are not
    UTF-8, such as those of a character that a split has cut, become the pieces
    of single bytes.

    Args:
      content: n bytes.

    Returns:
      (l,) int32.

    Raises:
      ValueError: if the text does not come back from its pieces.
    """
    text = content.decode('utf-8', errors='surrogateescape')
    marks = f'\0{_NOT_UTF8}'
    if self._byte_ids is not None:
      marks += SPACE_MARK
    texts, ids, between = self._encode_around(marks, text)
    for before, after in zip(texts, self._model.decode(ids), strict=True):
      if before != after:
        raise ValueError(_difference(before, after))
    return self._join(texts, ids, between)

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids`."""
    return self._model.decode(np.asarray(ids).tolist())

  def keeps_zero_free(self) -> bool:
    """Whether no text has id 0, so that it can be BOS and padding."""
    # Where each byte has a piece, nothing is unknown.
    return self._model.is_control(0) or (
      self._model.is_unknown(0) and self._byte_ids is not None
    )

  @functools.cached_property
  def _byte_ids(self):
    """The ids of the pieces of single bytes, (256,); None without them."""
    ids = [self._model.piece_to_id(f'<0x{byte:02X}>') for byte in range(256)]
    if not all(map(self._model.is_byte, ids)):
      return None
    return np.asarray(ids, np.int32)

  def _encode_around(self, marks, text):
    """Cuts a text at characters that the model cannot encode.

    Returns:
      The texts between runs of them, the ids of these texts, and the runs.
    """
    parts = re.split(f'([{marks}]+)', text)
    return parts[::2], self._model.encode(parts[::2]), parts[1::2]

  def _join(self, texts, ids, between):
    """Puts the ids of texts and of the runs between them in order, (l,)."""
    joined = [np.asarray(ids[0], np.int32)]
    for run, rest in zip(between, ids[1:], strict=True):
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
  """Says where a text first differs from what came back."""
  pairs = enumerate(zip(before, after, strict=False))
  shorter = min(len(before), len(after))
  at = next((i for i, (a, b) in pairs if a != b), shorter)
  return f'{before[at:][:20]!r} of the text comes back as {after[at:][:20]!r}'


class TextStream:
  """Decodes tokens that come in chunks; the parts join to the whole's text.

  A character may be cut by the edge of a chunk: it is given out with the chunk
  that completes it.

  Example:
    >>> stream = TextStream(ByteVocab().decode)
    >>> [stream.push([token]) for token in 'né'.encode()]
    ['n', '', 'é']
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


def load_vocab(path: str, name: str) -> SentencePieceVocab:
  """Loads a SentencePiece model whose id 0 is free for padding.

  Args:
    path: the file; `~` is the home folder.
    name: what the user set the path with, such as 'TextFiles.vocab'.

  Raises:
    ValueError: naming it, if there is no such file, it is no model, or
      its id 0 stands for text.
  """
  binding = f'{name} = {path!r}'
  found = Path(path).expanduser()
  if not path or not found.is_file():
    raise ValueError(f'{binding}: no such file (looked for {found.absolute()})')
  try:
    vocab = SentencePieceVocab(str(found))
  except ValueError as error:
    raise ValueError(f'{binding}: {error}') from error
  if not vocab.keeps_zero_free():
    raise ValueError(
      f'{binding}: its id 0 stands for text, but must be padding. To make a '
      f'vocabulary that fits: {SUBWORDS_COMMAND}'
    )
  return vocab
