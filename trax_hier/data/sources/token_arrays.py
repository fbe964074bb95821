"""Token ids in arrays of the user's: a stream, rows or documents."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trax_hier.data.files import find_path, map_array

_BLOCK = 1 << 22  # ids checked at a time


class TokenArray(NamedTuple):
  """The tokens of a split.

  Attributes:
    tokens: Ids, (n,) integers, in memory or memory-mapped.
    row: Tokens of each row, of which there are n / row; None for a stream and
      for documents.
    ends: Where each document ends, exclusive, (documents,) int64; None for a
      stream and for rows.
  """

  tokens: np.ndarray
  row: int | None = None
  ends: np.ndarray | None = None

  @property
  def form(self) -> str:
    """A stream (n,), rows (n, l) or documents."""
    if self.ends is not None:
      return 'documents'
    return 'a stream (n,)' if self.row is None else f'rows (n, {self.row})'

  def cut(self, *shares: float) -> list['TokenArray']:
    """Cuts off shares of the end, in whole rows or documents.

    Args:
      *shares: Share of each part but the first, which keeps the rest.

    Example:
      >>> parts = TokenArray(np.arange(10), row=2).cut(0.2, 0.4)
      >>> [part.tokens.tolist() for part in parts]
      [[0, 1, 2, 3], [4, 5], [6, 7, 8, 9]]
    """
    row = self.row or 1
    n = len(self.tokens) // row if self.ends is None else len(self.ends)
    sizes = [int(n * share) for share in shares]
    cuts = np.cumsum([0, n - sum(sizes), *sizes]).tolist()
    return [self._part(*edges) for edges in itertools.pairwise(cuts)]

  def _part(self, first, last):
    """The units, which are tokens, rows or documents, [first, last)."""
    if self.ends is None:
      row = self.row or 1
      return self._replace(tokens=self.tokens[first * row : last * row])
    edges = np.append(0, self.ends)
    begin, end = edges[first], edges[last]
    return TokenArray(
      self.tokens[begin:end], ends=edges[first + 1 : last + 1] - begin
    )

  def shifted(self, shift: int) -> 'TokenArray':
    """Returns the tokens with `shift` added to each id."""
    return self._replace(tokens=Shifted(self.tokens, shift)) if shift else self


class Shifted:
  """An array of ids with a number added to each, without a copy.

  Attributes:
    base: The ids, (n,).
    dtype, ndim, shape: Those of the array.

  Example:
    >>> Shifted(np.arange(9), 1)[2:5]
    array([3, 4, 5], dtype=int32)
  """

  dtype, ndim = np.dtype(np.int32), 1

  def __init__(self, base: np.ndarray, shift: int):
    """Takes the ids, below 2^31 - shift, and the number to add."""
    self.base, self._shift = base, np.int32(shift)
    self.shape = base.shape

  def __len__(self) -> int:
    """Number of ids."""
    return len(self.base)

  def __getitem__(self, where: slice) -> np.ndarray:
    """Returns a part, (m,) int32."""
    return self.base[where].astype(np.int32) + self._shift


def read_tokens(value: Any, name: str, dtype: str | None) -> TokenArray:
  """Reads the tokens of a split.

  Args:
    value: Path of a .npy file or of a raw file, an array, or a sequence.
    name: Argument that sets it, for messages.
    dtype: Type of the ids in a raw file.

  Raises:
    ValueError: naming the argument.
  """
  if isinstance(value, str):
    array, name = _map_file(value, f'{name} = {value!r}', dtype), repr(value)
  elif isinstance(value, Sequence) and not all(map(np.isscalar, value)):
    parts = [np.asarray(part) for part in value]
    for i, part in enumerate(parts):
      if part.ndim != 1 or (part.dtype.kind not in 'iu' and part.size):
        raise ValueError(
          f'{name}[{i}] must be integer ids (n,), got {part.dtype} {part.shape}'
        )
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    joined = [part for part in parts if part.size] or [np.zeros(0, np.int32)]
    return TokenArray(np.concatenate(joined), ends=ends)
  else:
    array = np.asarray(value)
  if array.ndim not in (1, 2) or array.dtype.kind not in 'iu' or not array.size:
    raise ValueError(
      f'{name} must be integer ids (n,) or (n, l), got {array.dtype} '
      f'{array.shape}'
    )
  if array.ndim == 1:
    return TokenArray(array)
  return TokenArray(array.reshape(-1), row=array.shape[1])


def _map_file(path, binding, dtype):
  found = find_path(path, binding, 'file')
  try:
    if found.suffix == '.npy':
      return map_array(found)
    if dtype is None:
      raise ValueError(
        'not a .npy file: for a raw file of ids, give their type, such as '
        "FromArrays.dtype = 'uint16'"
      )
    kind = np.dtype(dtype)
    if found.stat().st_size % kind.itemsize:
      raise ValueError(
        f'{found.stat().st_size:,} bytes are not a whole number of ids of '
        f'FromArrays.dtype = {dtype!r}'
      )
    return np.memmap(found, kind, mode='r')
  except TypeError as error:
    raise ValueError(
      f'FromArrays.dtype = {dtype!r}: must be a type of integers, such as '
      "'uint16'"
    ) from error
  except (OSError, ValueError) as error:
    raise ValueError(f'{binding}: {error}') from error


def count_ids(
  splits: Mapping[str, TokenArray], size: int | None, of: str
) -> int:
  """Returns the number of ids: `size`, or 1 + the largest id.

  Args:
    splits: Tokens of each split, which are all read.
    size: Number of ids; None if it is not known.
    of: What sets the size, for messages.

  Raises:
    ValueError: if an id is negative, or not below the size.
  """
  most = 0
  for split, (tokens, *_) in splits.items():
    for begin in range(0, len(tokens), _BLOCK):
      block = tokens[begin : begin + _BLOCK]
      low, high = int(block.min()), int(block.max())
      if low < 0 or high >= (2**31 - 1 if size is None else size):
        wrong = low if low < 0 else high
        at = begin + int((block == wrong).argmax())
        below = 'below 2^31 - 1' if size is None else f'below {size:,}, {of}'
        raise ValueError(
          f'FromArrays.{split}: token {at:,} is {wrong}: ids must be 0 or more '
          f'and {below}'
        )
      most = max(most, high)
  return most + 1 if size is None else size
