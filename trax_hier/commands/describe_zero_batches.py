"""A data set of zeros, to describe a model whose data are not available."""

import types
from collections.abc import Sequence

import numpy as np

from trax_hier.data.batching.batches import Batch, make_batch


class ZeroBatches:
  """A data set of one batch of zeros; it fits any vocabulary size."""

  unit = 'token'
  vocab = types.SimpleNamespace(size=1)

  def __init__(self, rows: int, length: int, source_length: int | None = None):
    """Takes the shape of the batch: rows, tokens per row and per source."""
    shape = rows, length
    self._batch = make_batch(
      np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    )
    self._description = f'{rows} rows of {length}'
    if source_length is not None:
      self._batch['sources'] = np.zeros((rows, source_length), np.int32)
      self._description += f' with sources of {source_length}'

  def train_batch(self, step: int) -> Batch:
    """Returns the batch."""
    del step
    return self._batch

  def eval_batches(self, split: str) -> Sequence[Batch]:
    """Returns a list of the one batch."""
    del split
    return [self._batch]

  def describe(self) -> str:
    """Describes the shape of the batch."""
    return f'none; batches of {self._description}'
