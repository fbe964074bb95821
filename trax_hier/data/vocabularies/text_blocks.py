"""Cuts long texts into blocks."""

from collections.abc import Iterator

import numpy as np

BLOCK = 1 << 20  # bytes encoded at a time
_TAIL = 1 << 12  # bytes in which a line ends, as a rule


def blocks(content: np.ndarray, size: int = BLOCK) -> Iterator[bytes]:
  """Yields blocks of bytes that end, where possible, between two tokens.

  A block ends after a line; without a line end, before a space; without a
  space, after a character.

  Args:
    content: Bytes of text, (n,) uint8, in memory or memory-mapped.
    size: Largest number of bytes in a block, at least a character's 4.
  """
  begin = 0
  for end in block_ends(content, size):
    yield content[begin:end].tobytes()
    begin = end


def block_ends(content: np.ndarray, size: int = BLOCK) -> Iterator[int]:
  """Yields where the blocks of `blocks` end; reads little of each.

  Args:
    content: Bytes of text, (n,) uint8.
    size: Largest number of bytes in a block.
  """
  begin = 0
  while len(content) - begin > size:
    end = begin + size
    line = content[max(begin, end - _TAIL) : end].tobytes().rfind(b'\n') + 1
    if line:
      begin = max(begin, end - _TAIL) + line
    else:
      begin += _end(content[begin:end].tobytes())
    yield begin
  if begin < len(content):
    yield len(content)


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
