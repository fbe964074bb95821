"""Encodes long texts block by block."""

from collections.abc import Iterator

import numpy as np

from trax_hier.data.vocabularies.sentencepiece_vocab import SentencePieceVocab
from trax_hier.data.vocabularies.vocab import token_dtype

_BLOCK = 1 << 20  # bytes encoded at a time


def encode_split(content: np.ndarray, vocab: SentencePieceVocab) -> np.ndarray:
  """Encodes the bytes of a split, block by block.

  Args:
    content: Bytes of text, (n,) uint8, in memory or memory-mapped.
    vocab: Vocabulary that encodes any byte of the text.

  Returns:
    (l,) ids, of the dtype `token_dtype`.

  Raises:
    ValueError: if decoding does not return the same text.
  """
  ids = [np.zeros(0, token_dtype(vocab))]
  for block in blocks(content):
    ids.append(vocab.encode_bytes(block).astype(token_dtype(vocab)))
  return np.concatenate(ids)


def blocks(content: np.ndarray, size: int = _BLOCK) -> Iterator[bytes]:
  """Yields blocks of bytes that end, where possible, between two tokens.

  A block ends after a line; without a line end, before a space; without a
  space, after a character.

  Args:
    content: Bytes of text, (n,) uint8, in memory or memory-mapped.
    size: Largest number of bytes in a block, at least a character's 4.
  """
  begin = 0
  while begin < len(content):
    block = content[begin : begin + size].tobytes()
    if begin + size < len(content):
      block = block[: _end(block)]
    yield block
    begin += len(block)


def _end(block):
  """Returns where to cut a block that does not end the text."""
  line = block.rfind(b'\n') + 1
  space = block.rfind(b' ')
  if line or space > 0:
    return line or space
  # A character is one byte and up to three bytes of the form 0b10xxxxxx.
  for end in range(len(block) - 1, max(0, len(block) - 4), -1):
    if block[end] & 0xC0 != 0x80:
      return end
  return len(block)
