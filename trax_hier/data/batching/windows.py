"""Index-addressed windows: batch number i is computed, never iterated to.

Nothing here has a state to save: a run that resumes at step s asks for batch s
and gets what an uninterrupted run got.
"""

import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from trax_hier.data.batching.permutation import shuffled
from trax_hier.data.hashing import hash64

Batch = dict[str, np.ndarray]

# The tokens and weights, both (b, l), of (b,) row numbers; where rows carry on
# from batch to batch, also which of them begin a sequence, (b,) bool.
Rows = Callable[[np.ndarray], tuple[np.ndarray, ...]]

_OFFSET = 2  # names this use of the seed's hash; see permutation._SHUFFLE


class Context(NamedTuple):
  """How evaluation cuts a text: windows of `window` tokens, `stride` apart.

  Each token is predicted from the window - stride tokens before it or more, up
  to window - 1; in the first window from all before it.
  """

  window: int
  stride: int


def example_indices(
  name: str, step: int, batch_size: int, shard: int, n_shards: int
) -> np.ndarray:
  """Which examples of the endless stream make up one shard of a batch.

  Shard i of n holds the i-th of n equal runs of rows of the one global batch,
  so the shards of a step, one after another, are the unsharded batch.

  Args:
    name: the configurable whose batch_size this is, for messages.
    step: which batch, from 0.
    batch_size: rows of the global batch.
    shard: in [0, n_shards).
    n_shards: how many parts the batch is cut in.

  Returns:
    (batch_size / n_shards,) int64.

  Raises:
    ValueError: for a negative step, a shard that does not exist, or a batch
      size that n_shards does not divide.

  Example:
    >>> print(example_indices('TextFiles', 5, 8, shard=1, n_shards=2))
    [44 45 46 47]
  """
  if step < 0:
    raise ValueError(f'train_batch: step = {step}: must be 0 or more')
  if n_shards < 1 or not 0 <= shard < n_shards:
    raise ValueError(
      f'train_batch: shard = {shard} of n_shards = {n_shards}: shard must be '
      'in [0, n_shards)'
    )
  if batch_size % n_shards:
    raise ValueError(
      f'{name}.batch_size = {batch_size}: must be divisible by the '
      f'{n_shards} shards that the batch is split over'
    )
  rows = batch_size // n_shards
  start = step * batch_size + shard * rows
  return np.arange(start, start + rows, dtype=np.int64)


def make_batch(
  tokens: np.ndarray,
  weights: np.ndarray,
  start_of_sequence: np.ndarray | None = None,
) -> Batch:
  """The batch dict of a language model, which shifts its inputs itself.

  Args:
    tokens: (b, l) int32; serves as both inputs and targets, not copied.
    weights: (b, l) float32, 1 where a token is scored.
    start_of_sequence: (b,) bool, which rows begin a sequence and do not carry
      on that of the batch before; None: all do.
  """
  if start_of_sequence is None:
    start_of_sequence = np.ones(len(tokens), np.bool_)
  return {
    'inputs': tokens,
    'targets': tokens,
    'weights': weights,
    'start_of_sequence': start_of_sequence,
  }


class TrainWindows:
  """Windows cut from one token array, reshuffled and moved every epoch.

  An epoch tiles the array with windows side by side, each used once, in the
  order of that epoch's permutation. The tiling starts at an offset that is
  drawn anew for each epoch, so window edges move and no token is always first.
  """

  def __init__(
    self, tokens: np.ndarray, length: int, seed: int, move_edges: bool = True
  ):
    """Plans the tiling.

    Args:
      tokens: (n,) integers, in memory or mapped; n >= length.
      length: tokens in a window.
      seed: which shuffle and which offsets.
      move_edges: False tiles from token 0 in every epoch, for data whose rows
        have edges of their own, such as images.
    """
    self._tokens = tokens
    self._length = length
    self._seed = seed
    self.n_windows = len(tokens) // length
    self._slack = 0
    if move_edges:
      # A slack of length - 1 or more has room for every alignment of the edges;
      # it may cost one window.
      self.n_windows = max(1, (len(tokens) + 1) // length - 1)
      self._slack = len(tokens) - self.n_windows * length

  def rows(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the windows at positions of the endless stream.

    Args:
      index: (b,) positions, 0 or more.

    Returns:
      (b, l) int32 tokens, and (b, l) float32 weights, all 1.
    """
    epoch, window = shuffled(index, self.n_windows, self._seed)
    offset = hash64(self._seed, _OFFSET, epoch) % np.uint64(self._slack + 1)
    start = offset.astype(np.int64) + window * self._length
    tokens = np.empty((len(index), self._length), np.int32)
    for row, begin in zip(tokens, start, strict=True):
      row[:] = self._tokens[begin : begin + self._length]
    return tokens, np.ones(tokens.shape, np.float32)


class EvalWindows:
  """Windows that score each token of an array exactly once.

  With stride = length they lie side by side. A smaller stride overlaps them:
  all but the first window score only their last `stride` tokens, so each has
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
      tokens: (n,) integers, in memory or mapped.
      length: tokens in a window.
      stride: tokens that a window scores, in [1, length].
    """
    self._tokens = tokens
    self._length = length
    self._stride = stride
    self.n_windows = 0
    if len(tokens):
      self.n_windows = 1 + max(0, -(-(len(tokens) - length) // stride))

  def rows(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns windows by number; those past the last are all padding.

    Args:
      index: (b,) window numbers, 0 or more.

    Returns:
      (b, l) int32 tokens, padded with 0, and (b, l) float32 weights, 1 for
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


class EvalBatches(Sequence[Batch]):
  """A split as batches of constant shape; the last is filled with weight 0.

  Attributes:
    context: how the split was cut; None if its rows are not windows of a text.
  """

  def __init__(
    self,
    rows: Rows,
    n_rows: int,
    batch_size: int,
    context: Context | None = None,
  ):
    """Groups rows 0 .. n_rows-1, in order.

    Args:
      rows: gives the rows; all padding for numbers from n_rows on.
      n_rows: how many there are.
      batch_size: rows in a batch.
      context: how the split was cut.
    """
    self.context = context
    self._rows = rows
    self._n_rows = n_rows
    self._batch_size = batch_size

  def __len__(self) -> int:
    """Number of batches."""
    return -(-self._n_rows // self._batch_size)

  def __getitem__(self, i: int) -> Batch:
    """Returns batch i, counted from the end when negative."""
    position = operator.index(i)
    position += len(self) if position < 0 else 0
    if not 0 <= position < len(self):
      raise IndexError(f'batch {i} of {len(self)}')
    start = position * self._batch_size
    index = np.arange(start, start + self._batch_size)
    return make_batch(*self._rows(index))
