"""Batches of nothing, where the shape of a batch is all that is asked for."""

import types
from collections.abc import Sequence

import numpy as np

from trax_hier.data.batching.windows import Batch, make_batch


class Blanks:
  """In the place of a data set: one batch of zeros, for any vocabulary."""

  unit = 'token'
  vocab = types.SimpleNamespace(size=1)

  def __init__(self, rows: int, length: int, source_length: int | None = None):
    """Takes the rows of a batch, tokens in a row, and tokens in its source."""
    shape = rows, length
    self._batch = make_batch(
      np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    )
    self._described = f'{rows} rows of {length}'
    if source_length is not None:
      self._batch['sources'] = np.zeros((rows, source_length), np.int32)
      self._described += f' with sources of {source_length}'

  def train_batch(self, step: int) -> Batch:
    """Returns the batch."""
    del step
    return self._batch

  def eval_batches(self, split: str) -> Sequence[Batch]:
    """Returns the batch, alone."""
    del split
    return [self._batch]

  def describe(self) -> str:
    """Returns its shape in words."""
    return f'none; batches of {self._described}'
