"""Opens any vocabulary that encodes text: of a file, or the user's own."""

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from trax_hier.data.files import find_path
from trax_hier.data.vocabularies.byte_counts import (
  MARKS,
  bytes_between,
  encode_parts,
)
from trax_hier.data.vocabularies.byte_vocab import ByteVocab
from trax_hier.data.vocabularies.losses import loss_of, probe_texts
from trax_hier.data.vocabularies.sentencepiece_vocab import load_sentencepiece
from trax_hier.data.vocabularies.tiktoken_vocab import read_tiktoken
from trax_hier.data.vocabularies.tokenizers_vocab import (
  TOKENIZER_FILE,
  TokenizersVocab,
)
from trax_hier.data.vocabularies.vocab import Encoded, TextVocab, Vocab

_MOST_PIECES = 1 << 16  # ids whose text is part of the key of an own vocabulary


def open_vocab(
  vocab: str | Vocab | None, name: str, zero_is_free: bool = True
) -> TextVocab:
  """Opens the value of an argument that sets the vocabulary of a data set.

  Args:
    vocab: File: a tokenizer.json of Hugging Face's tokenizers, or a folder with
      one; a .tiktoken file with the name of an encoding of tiktoken; or a
      SentencePiece model. Or a vocabulary, such as `Tiktoken()` returns. None
      means bytes.
    name: The argument, such as 'TextFiles.vocab'.
    zero_is_free: Whether no text may have id 0.

  Raises:
    ValueError: naming the argument, if the file is missing or not such a file,
      if its package is not installed, or if text has id 0 but must not.
  """
  if vocab is None:
    return ByteVocab()
  if not isinstance(vocab, str):
    return as_text_vocab(vocab, name)
  binding = f'{name} = {vocab!r}'
  if vocab.endswith('.tiktoken'):
    return read_tiktoken(find_path(vocab, binding, 'file'), None, binding)
  found = find_path(vocab, binding)
  if (found / TOKENIZER_FILE).is_file():
    found /= TOKENIZER_FILE
  if not found.is_file() or not _is_json(found):
    return load_sentencepiece(vocab, name, zero_is_free)
  return read_tokenizer(found, binding)


def read_tokenizer(path: Path, binding: str) -> TokenizersVocab:
  """Reads a tokenizer.json.

  Raises:
    ValueError: naming the binding, if it cannot be read.
  """
  try:
    return TokenizersVocab(path.read_bytes())
  except OSError as error:
    raise ValueError(f'{binding}: cannot be read: {error.strerror}') from error
  except ValueError as error:
    raise ValueError(f'{binding}: {error}') from error


def describe_vocab(vocab: TextVocab, given: str | Vocab | None) -> str:
  """Returns what tokens are, such as 'tokens of my.model'; '' for bytes.

  Args:
    vocab: The vocabulary.
    given: What `open_vocab` opened.
  """
  if isinstance(vocab, ByteVocab):
    return ''
  name = given if isinstance(given, str) else type(given).__name__
  text = f'{vocab.size:,} tokens of {name}'
  if vocab.loss:
    text += (
      f', which loses {vocab.loss}: bits per byte count all bytes of the text, '
      'but do not tell what is lost'
    )
  return text


def _is_json(path):
  with path.open('rb') as file:
    return path.suffix == '.json' or file.read(64).lstrip()[:1] == b'{'


def as_text_vocab(vocab: Vocab, name: str = 'vocab') -> TextVocab:
  """Returns a vocabulary, with what it lacks of `TextVocab`.

  Args:
    vocab: A vocabulary.
    name: Argument that sets it, for messages.

  Raises:
    ValueError: if it is not a vocabulary.
  """
  missing = [x for x in ('size', 'encode', 'decode') if not hasattr(vocab, x)]
  if missing or isinstance(vocab, type):
    lacks = f': it has no {", ".join(missing)}' if missing else ''
    raise ValueError(
      f'{name} must be a file or a vocabulary such as @Tiktoken() (with '
      f'parentheses), got {vocab!r:.80}{lacks}'
    )
  if hasattr(vocab, 'encode_bytes'):
    return vocab
  return _OwnVocab(vocab)


class _OwnVocab:
  """A vocabulary that only encodes and decodes texts, as a `TextVocab`.

  The bytes of a token are those that it decodes to alone. If these are not the
  bytes of the text, the difference is divided over all tokens of the text.
  """

  unit = 'token'
  byte_lengths = None

  def __init__(self, vocab: Vocab):
    self._vocab = vocab
    self.size = vocab.size
    self._lengths = {}

  def __reduce__(self):
    return type(self), (self._vocab,)

  @functools.cached_property
  def key(self) -> str:
    digest = hashlib.sha256(f'{type(self._vocab).__qualname__}\n'.encode())
    for i in range(min(self.size, _MOST_PIECES)):
      digest.update(f'{self._piece(i)}\n'.encode('utf-8', 'replace'))
    for text in probe_texts():
      try:
        digest.update(self.encode(text).astype(np.int64).tobytes())
      except ValueError:
        digest.update(b'-')
    return f'own {digest.hexdigest()[:32]}'

  @functools.cached_property
  def loss(self) -> str:
    return loss_of(self)

  def encode(self, text: str) -> np.ndarray:
    """Returns the checked ids of a text, (l,) int32.

    Raises:
      ValueError: if the vocabulary fails, or returns what is no token of text.
    """
    name = f'{type(self._vocab).__name__}.encode({text[:20]!r})'
    try:
      ids = np.asarray(self._vocab.encode(text))
    except Exception as error:  # The code is the user's.
      raise ValueError(f'{name}: {type(error).__name__}: {error}') from error
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in 'iu'):
      raise ValueError(
        f'{name} must return integer ids (l,), got {ids.dtype} {ids.shape}'
      )
    if ids.size and not 1 <= ids.min() <= ids.max() < self.size:
      wrong = ids[(ids < 1) | (ids >= self.size)][0]
      raise ValueError(
        f'{name} returns the id {wrong}: ids of text must be in [1, '
        f'{self.size}), as 0 is padding and size is {self.size}'
      )
    return ids.astype(np.int32)

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of ids, (l,), without those that are 0.

    Raises:
      ValueError: if the vocabulary fails.
    """
    ids = np.asarray(ids, np.int64)
    try:
      return self._vocab.decode(ids[ids > 0])
    except Exception as error:  # The code is the user's.
      name = f'{type(self._vocab).__name__}.decode'
      raise ValueError(f'{name}: {type(error).__name__}: {error}') from error

  def encode_bytes(self, content: bytes) -> Encoded:
    return encode_parts(content, MARKS, self._encode, self._encode_run)

  def _encode(self, text):
    ids = self.encode(text)
    weights = np.array([self._length(i) for i in ids.tolist()], np.int64)
    n_bytes = len(text.encode())
    if weights.sum() == n_bytes:
      return Encoded(ids, weights)
    ends = np.full(len(ids), n_bytes)
    return Encoded(ids, bytes_between(ends, weights.clip(min=1), n_bytes))

  def _length(self, i):
    if i not in self._lengths:
      self._lengths[i] = len(self._piece(i).encode('utf-8', 'replace'))
    return self._lengths[i]

  def _piece(self, i):
    """Text of one id; '' if it has none."""
    try:
      return self.decode([i])
    except ValueError:
      return ''

  def _encode_run(self, run):
    """Ids of zero bytes, and of U+FFFD for each byte that is not UTF-8."""
    other = self.encode('\ufffd') if any(run) else None
    ids = [other if byte else np.zeros(1, np.int32) for byte in run]
    return np.concatenate(ids)
