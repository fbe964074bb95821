"""Vocab: the interface of a vocabulary, and the dtype that stores its ids."""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np


class Encoded(NamedTuple):
  """Token ids, and the bytes of text that each of them stands for.

  Attributes:
    ids: Token ids, (l,) int32.
    n_bytes: Bytes of the encoded text that each token stands for, (l,) int64.
      They add up to the bytes of the text. A character that several tokens
      share is divided between them. Text without a token, such as spaces that
      a vocabulary drops, counts for the token after it, or else for the last.
  """

  ids: np.ndarray
  n_bytes: np.ndarray


@runtime_checkable
class Vocab(Protocol):
  """The least that a vocabulary has. It needs no base class.

  Attributes:
    size: Number of ids. Id 0 is padding and the beginning of a text.
  """

  size: int

  def encode(self, text: str) -> np.ndarray:
    """Returns the ids of the text as (l,) int32."""

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of the ids; of incomplete characters, U+FFFD."""


class TextVocab(Vocab, Protocol):
  """A vocabulary that encodes the bytes of texts, and counts them.

  `ByteVocab`, `SentencePieceVocab`, `TokenizersVocab` and `TiktokenVocab` are
  such; `text_vocabs.as_text_vocab` makes one of any `Vocab`. They pickle as
  their content, so processes may encode parts of a text, and equal content
  gives equal ids.

  Attributes:
    unit: What a token is: 'byte' or 'token'.
    key: Hash of all that determines the ids, the same in every process.
    byte_lengths: Bytes of text of each id, (size,) int64, where they are the
      same in every text: `encode_bytes(x).n_bytes` is
      `byte_lengths[encode_bytes(x).ids]`. Then nobody needs to store `n_bytes`.
      Otherwise None.
    loss: What of a text decoding does not restore, such as 'upper case'; '' if
      it restores every text.
  """

  unit: str
  key: str
  byte_lengths: np.ndarray | None
  loss: str

  def encode_bytes(self, content: bytes) -> Encoded:
    """Encodes the bytes of a text, or of a part of one.

    A zero byte, which separates files, becomes id 0, which no other text does.
    Bytes that are not UTF-8, such as those of a character that is cut between
    two parts, become ids of single bytes, or of U+FFFD if there are none.

    Raises:
      ValueError: if there is no token for a byte that is not UTF-8.
    """


def token_dtype(vocab: Vocab) -> np.dtype:
  """Returns the smallest unsigned little-endian dtype that holds every id."""
  return np.dtype(np.min_scalar_type(vocab.size - 1)).newbyteorder('<')


def content_key(kind: str, content: bytes) -> str:
  """Returns `TextVocab.key` of a vocabulary that a file determines.

  Args:
    kind: Kind of the vocabulary, such as 'sentencepiece'.
    content: Content of the file.

  Example:
    >>> content_key('tiktoken', b'')
    'tiktoken e3b0c44298fc1c149afbf4c8996fb924'
  """
  return f'{kind} {hashlib.sha256(content).hexdigest()[:32]}'
