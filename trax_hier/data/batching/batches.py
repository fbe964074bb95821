"""Random-access batches: batch i is a pure function of i.

There is no iterator state to save: a run that resumes at step s requests batch
s and gets the same batch as an uninterrupted run.
"""

import operator
from collections.abc import Callable, Sequence

import numpy as np

from trax_hier.data.batching.windows import Context

Batch = dict[str, np.ndarray]

# Function from row numbers, (b,), to the arguments of `make_batch`.
Rows = Callable[[np.ndarray], tuple[np.ndarray | None, ...]]


def example_indices(
  name: str, step: int, batch_size: int, shard: int, n_shards: int
) -> np.ndarray:
  """Returns the numbers of the examples in one shard of a batch.

  Examples are numbered from 0 without end. Shard i of n is the i-th of n equal
  slices of the rows of the global batch, so the concatenated shards of a step
  are the global batch.

  Args:
    name: Name of the configurable that has this batch_size, for messages.
    step: Number of the batch, from 0.
    batch_size: Rows of the global batch.
    shard: Number of the shard, in [0, n_shards).
    n_shards: Number of shards of a batch.

  Returns:
    (batch_size / n_shards,) int64.

  Raises:
    ValueError: if the step is negative, the shard does not exist, or n_shards
      does not divide the batch size.

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
  weights: np.ndarray | None = None,
  start_of_sequence: np.ndarray | None = None,
  sources: np.ndarray | None = None,
  documents: np.ndarray | None = None,
) -> Batch:
  """Returns a batch for models that shift their inputs themselves.

  Args:
    tokens: Both 'inputs' and 'targets', (b, l) int32; not copied.
    weights: 1 where a token is scored, (b, l) float32; None means all 1.
    start_of_sequence: Whether a row begins a sequence, (b,) bool; False if it
      continues the same row of the previous batch. None means all True.
    sources: Input of the encoder, (b, s) int32; None for a language model.
    documents: Number of the document of each token, (b, l) int32, in rows of
      several documents, each of which must be one run of equal numbers; None if
      a row is one sequence.
  """
  if weights is None:
    weights = np.ones(tokens.shape, np.float32)
  if start_of_sequence is None:
    start_of_sequence = np.ones(len(tokens), np.bool_)
  batch = {} if sources is None else {'sources': sources}
  batch |= {} if documents is None else {'documents': documents}
  return batch | {
    'inputs': tokens,
    'targets': tokens,
    'weights': weights,
    'start_of_sequence': start_of_sequence,
  }


class EvalBatches(Sequence[Batch]):
  """The batches of a split, of one shape; the last is padded with weight 0.

  Attributes:
    batch_size: Rows in a batch.
    context: How the split was cut; None if its rows are not windows of a text.
  """

  def __init__(
    self,
    rows: Rows,
    n_rows: int,
    batch_size: int,
    context: Context | None = None,
  ):
    """Groups rows 0 .. n_rows - 1 into batches, in order.

    Args:
      rows: Function from row numbers to rows; rows from n_rows on are padding.
      n_rows: Number of rows.
      batch_size: Rows in a batch.
      context: How the split was cut.
    """
    self.context = context
    self._rows = rows
    self._n_rows = n_rows
    self.batch_size = batch_size

  def __len__(self) -> int:
    """Number of batches."""
    return -(-self._n_rows // self.batch_size)

  def rows(self, i: int, begin: int, end: int) -> Batch:
    """Returns rows [begin, end) of batch i, counted from the end if negative.

    Each of several hosts makes its own rows; one row shows the shapes of all.
    """
    position = operator.index(i)
    position += len(self) if position < 0 else 0
    if not 0 <= position < len(self):
      raise IndexError(f'batch {i} of {len(self)}')
    start = position * self.batch_size
    return make_batch(*self._rows(np.arange(start + begin, start + end)))

  def __getitem__(self, i: int) -> Batch:
    """Returns batch i, counted from the end if negative."""
    return self.rows(i, 0, self.batch_size)
