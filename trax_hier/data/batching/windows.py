"""Windows: fixed-length slices of a token array."""

from typing import NamedTuple

import numpy as np

from trax_hier.data import checks
from trax_hier.data.batching.permutation import shuffled
from trax_hier.data.hashing import OFFSET, hash64


class Context(NamedTuple):
  """The way evaluation cuts a text: windows of `window` tokens, `stride` apart.

  A token is predicted from window - stride to window - 1 preceding tokens, and
  in the first window from all preceding tokens.
  """

  window: int
  stride: int


def checked_context(
  window_name: str, window: int, stride_name: str, stride: int
) -> Context:
  """Returns a way to cut a text.

  Args:
    window_name: Argument that sets the window, for messages.
    window: Tokens in a window.
    stride_name: Argument that sets the stride, for messages.
    stride: Tokens that a window scores.

  Raises:
    ValueError: naming the argument, if a number is not positive, or the stride
      is larger than the window.
  """
  checks.check_positive(window_name, window)
  checks.check_positive(stride_name, stride)
  if stride > window:
    raise ValueError(
      f'{stride_name} = {stride}: must be at most {window_name} = {window}'
    )
  return Context(window, stride)


class TrainWindows:
  """Training windows of a token array, reshuffled and shifted each epoch.

  An epoch tiles the array with adjacent windows and returns each once. It
  samples their order and the offset of the tiling, so window edges move and no
  token is the first of a window in every epoch.
  """

  def __init__(
    self, tokens: np.ndarray, length: int, seed: int, move_edges: bool = True
  ):
    """Counts the windows and the possible offsets.

    Args:
      tokens: Integers, (n,) with n >= length, in memory or memory-mapped.
      length: Tokens in a window.
      seed: Seed of the permutations and offsets.
      move_edges: Whether to sample offsets. False tiles from token 0 in every
        epoch, for data with natural rows, such as images.
    """
    self._tokens = tokens
    self._length = length
    self._seed = seed
    self.n_windows = len(tokens) // length
    self._slack = 0
    if move_edges:
      # At least length - 1 tokens remain, which allows every alignment of the
      # edges. This may cost one window.
      self.n_windows = max(1, (len(tokens) + 1) // length - 1)
      self._slack = len(tokens) - self.n_windows * length

  def rows(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns windows by their position in the endless stream of epochs.

    Args:
      index: Positions from 0, (b,).

    Returns:
      Tokens, (b, l) int32, and weights, (b, l) float32, all 1.
    """
    epoch, window = shuffled(index, self.n_windows, self._seed)
    offset = hash64(self._seed, OFFSET, epoch) % np.uint64(self._slack + 1)
    start = offset.astype(np.int64) + window * self._length
    tokens = np.empty((len(index), self._length), np.int32)
    for row, begin in zip(tokens, start, strict=True):
      row[:] = self._tokens[begin : begin + self._length]
    return tokens, np.ones(tokens.shape, np.float32)


class EvalWindows:
  """Evaluation windows, which score each token of an array exactly once.

  With stride = length, windows are adjacent. With a smaller stride they
  overlap: all but the first score only their last `stride` tokens, which have
  at least length - stride tokens of context. The last window is padded.

  Example:
    >>> windows = EvalWindows(np.arange(7), length=4, stride=2)
    >>> tokens, weights = windows.rows(np.arange(3))
    >>> print(tokens)
    [[0 1 2 3]
     [2 3 4 5]
     [4 5 6 0]]
    >>> print(weights)
    [[1. 1. 1. 1.]
     [0. 0. 1. 1.]
     [0. 0. 1. 0.]]
  """

  def __init__(self, tokens: np.ndarray, length: int, stride: int):
    """Counts the windows.

    Args:
      tokens: Integers, (n,), in memory or memory-mapped.
      length: Tokens in a window.
      stride: Tokens that a window scores, in [1, length].
    """
    self._tokens = tokens
    self._length = length
    self._stride = stride
    self.n_windows = 0
    if len(tokens):
      self.n_windows = 1 + max(0, -(-(len(tokens) - length) // stride))

  def rows(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns windows by number; past the last one, they are all padding.

    Args:
      index: Window numbers from 0, (b,).

    Returns:
      Tokens, (b, l) int32, padded with 0, and weights, (b, l) float32, 1 for
      the tokens that the window scores.
    """
    tokens = np.zeros((len(index), self._length), np.int32)
    weights = np.zeros((len(index), self._length), np.float32)
    for row, i in enumerate(index):
      begin = i * self._stride
      window = self._tokens[begin : begin + self._length]
      if i < self.n_windows:
        tokens[row, : len(window)] = window
        first = self._length - self._stride if i else 0
        weights[row, first : len(window)] = 1
    return tokens, weights
