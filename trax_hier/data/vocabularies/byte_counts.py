"""Counts the bytes of text that each token stands for."""

import re
from collections.abc import Callable

import numpy as np

from trax_hier.data.vocabularies.vocab import Encoded

# SentencePiece represents a space by this character. It also decodes the
# character itself to a space, unless it was encoded as byte pieces.
SPACE_MARK = '\u2581'
# A zero byte, and bytes that are not UTF-8, as surrogateescape decodes them.
MARKS = '\0\udc80-\udcff'


def bytes_between(
  ends: np.ndarray, weights: np.ndarray, n_bytes: int
) -> np.ndarray:
  """Divides the bytes of a text between its tokens, by where they end.

  Text between two tokens counts for the second one, and text after the last
  one for the last. Tokens that end at the same place share the bytes since the
  token before, such as those of a character, by their weights.

  Args:
    ends: Bytes from the start of the text to the end of each token, (l,).
    weights: Weights of the tokens, such as their usual bytes, (l,), positive.
    n_bytes: Bytes of the text.

  Returns:
    Bytes of each token, (l,) int64, with the sum `n_bytes` unless l = 0.

  Example:
    >>> print(bytes_between(np.array([3, 8, 8, 9]), np.array([1, 2, 1, 1]), 10))
    [3 3 2 2]
  """
  if not len(ends):
    return np.zeros(0, np.int64)
  ends = np.maximum.accumulate(ends.astype(np.int64))
  ends[ends == ends[-1]] = n_bytes
  first = np.flatnonzero(np.diff(ends, prepend=-1))
  sizes = np.diff(first, append=len(ends))
  start = np.repeat(np.append(0, ends[first[1:] - 1]), sizes)
  weight_ends = np.cumsum(weights)
  within = weight_ends - np.repeat(weight_ends[first] - weights[first], sizes)
  total = np.repeat(within[first + sizes - 1], sizes)
  return np.diff(start + (ends - start) * within // total, prepend=0)


def encode_parts(
  content: bytes,
  marks: str,
  encode_text: Callable[[str], Encoded],
  encode_run: Callable[[bytes], np.ndarray],
) -> Encoded:
  """Encodes the text between runs of characters that a vocabulary lacks.

  Args:
    content: Bytes of text.
    marks: The characters, as in the brackets of a regular expression: `MARKS`
      and others.
    encode_text: Encodes the text between two runs.
    encode_run: Function from the bytes of a run to their ids, (l,): one for
      each byte, or fewer.
  """
  text = content.decode('utf-8', errors='surrogateescape')
  ids, counts, without_token = [], [], 0
  for i, part in enumerate(re.split(f'([{marks}]+)', text)):
    if i % 2:
      run = part.encode('utf-8', errors='surrogateescape')
      found = encode_run(run)
      ends = np.arange(1, len(found) + 1)
      count = bytes_between(ends, np.ones_like(ends), len(run))
    else:
      found, count = encode_text(part)
      run = part.encode()
    if not len(found):
      without_token += len(run)
      continue
    ids.append(found)
    counts.append(count)
    count[0] += without_token
    without_token = 0
  if not ids:
    return Encoded(np.zeros(0, np.int32), np.zeros(0, np.int64))
  counts[-1][-1] += without_token
  joined = np.concatenate(ids).astype(np.int32, copy=False)
  return Encoded(joined, np.concatenate(counts).astype(np.int64, copy=False))


def count_by_table(
  ids: np.ndarray, byte_lengths: np.ndarray, n_bytes: int
) -> np.ndarray | None:
  """Returns the usual bytes of ids, (l,); None unless their sum is `n_bytes`.

  Args:
    ids: Token ids of a text, (l,).
    byte_lengths: Usual bytes of each id, (size,).
    n_bytes: Bytes of the text.
  """
  counts = byte_lengths[ids]
  return counts if counts.sum() == n_bytes else None
