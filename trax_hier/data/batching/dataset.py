"""The data set object that the trainer uses."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np

from trax_hier.data import checks
from trax_hier.data.batching.windows import (
  Batch,
  Context,
  EvalBatches,
  EvalWindows,
  Rows,
  TrainWindows,
  example_indices,
  make_batch,
)

_EVAL_SPLITS = ('valid', 'test')

# Of 'valid' or 'test', cut as the context says: what gives the rows, and how
# many there are. Past them it gives padding.
EvalRows = Callable[[str, Context | None], tuple[Rows, int]]


class Vocab(Protocol):
  """What a vocabulary must have."""

  size: int

  def encode(self, text: str) -> np.ndarray:
    """Returns (l,) int32 ids."""

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of the ids."""


class DataSet:
  """Rows addressed by number, served as batches.

  Attributes:
    vocab: the vocabulary of the ids.
    unit: what one scored token is: 'byte', 'dim' or 'token'.

  Example:
    >>> from trax_hier.data import Synthetic
    >>> data = Synthetic('copy', batch_size=4, length=16)
    >>> for name, x in data.train_batch(step=0).items():
    ...   print(name, x.shape, x.dtype)
    inputs (4, 16) int32
    targets (4, 16) int32
    weights (4, 16) float32
    start_of_sequence (4,) bool
    >>> data.eval_batches('valid')[0]['inputs'].shape
    (4, 16)
  """

  def __init__(
    self,
    name: str,
    description: str,
    train_rows: Rows,
    eval_rows: EvalRows,
    vocab: Vocab,
    unit: str,
    batch_size: int,
    context: Context | None = None,
    n_bytes: Callable[[str], int] | None = None,
    eval_batch_size: int | None = None,
  ):
    """Checks the batch size and stores the rest.

    Args:
      name: the configurable that makes this data set, for messages.
      description: source and sizes, for `describe`.
      train_rows: gives the rows at positions in an endless stream.
      eval_rows: gives the held-out rows.
      vocab: the vocabulary of the ids.
      unit: what one scored token is.
      batch_size: rows of the global batch.
      context: how evaluation cuts a split unless asked otherwise; None if rows
        are not windows of a text.
      n_bytes: gives the bytes of text in 'valid' or 'test'; None where tokens
        are bytes already, or no text.
      eval_batch_size: rows of an evaluation batch; None: `batch_size`.

    Raises:
      ValueError: if a batch size is not positive.
    """
    if eval_batch_size is None:
      eval_batch_size = batch_size
    checks.check_positive(f'{name}.batch_size', batch_size)
    checks.check_positive(f'{name}.eval_batch_size', eval_batch_size)
    self._name = name
    self._description = description
    self._train_rows = train_rows
    self._eval_rows = eval_rows
    self._batch_size = batch_size
    self._eval_batch_size = eval_batch_size
    self._context = context
    self._n_bytes = n_bytes
    self.vocab = vocab
    self.unit = unit

  def train_batch(self, step: int, shard: int = 0, n_shards: int = 1) -> Batch:
    """Returns one shard of batch `step`: a pure function of its arguments.

    Args:
      step: which batch, from 0 without end.
      shard: which part of the global batch, in [0, n_shards).
      n_shards: in how many parts; must divide the batch size.

    Returns:
      'inputs' and 'targets', (b, l) int32, 'weights', (b, l) float32, and
      'start_of_sequence', (b,) bool.

    Raises:
      ValueError: if an argument is out of range.
    """
    index = example_indices(self._name, step, self._batch_size, shard, n_shards)
    return make_batch(*self._train_rows(index))

  def eval_batches(
    self, split: str, window: int | None = None, stride: int | None = None
  ) -> EvalBatches:
    """Returns all of 'valid' or 'test', each token scored exactly once.

    Args:
      split: 'valid' or 'test'.
      window: tokens in a window; None: as the data set was made.
      stride: tokens that a window scores, so that each has window - stride
        tokens before it or more, but for the first window's; None: all of
        `window` if that is given, else as the data set was made.

    Raises:
      ValueError: if there is no such split or it is empty, if stride and window
        do not fit together, or if rows are not windows of a text.
    """
    checks.check_choice('eval_batches: split', split, _EVAL_SPLITS)
    context = self._context
    if window is not None or stride is not None:
      context = self._choose_context(window, stride)
    rows, n_rows = self._eval_rows(split, context)
    if not n_rows:
      raise ValueError(f'{self._name}: the {split} split is empty')
    return EvalBatches(rows, n_rows, self._eval_batch_size, context)

  def _choose_context(self, window, stride):
    if self._context is None:
      raise ValueError(
        f'window and stride do not apply to {self._name}, whose rows are not '
        'windows of a text'
      )
    if stride is None:
      stride = self._context.stride if window is None else window
    window = self._context.window if window is None else window
    return _checked_context('window', window, 'stride', stride)

  def count_bytes(self, split: str) -> int | None:
    """Returns the bytes of text that the tokens of 'valid' or 'test' stand for.

    None where the unit says it already, or tokens stand for no text.
    """
    return self._n_bytes and self._n_bytes(split)

  def describe(self) -> str:
    """Returns one line: the source, the sizes of the splits, the batch."""
    return (
      f'{self._name}: {self._description}; batches of {self._batch_size} rows'
    )


def windowed(
  name: str,
  origin: str,
  splits: Mapping[str, np.ndarray],
  vocab: Vocab,
  batch_size: int,
  length: int,
  seed: int,
  unit: str = 'byte',
  eval_length: int | None = None,
  eval_stride: int | None = None,
  move_edges: bool = True,
  n_bytes: Callable[[str], int] | None = None,
) -> DataSet:
  """A data set of windows of three token arrays.

  Args:
    name: the configurable that has these arguments, for messages.
    origin: where the data comes from, for `describe`.
    splits: 'train', 'valid' and 'test', each (n,) integers.
    vocab: the vocabulary of the ids.
    batch_size: rows of the global batch.
    length: tokens in a training window.
    seed: which shuffle.
    unit: what one token is.
    eval_length: tokens in an evaluation window; None: `length`.
    eval_stride: tokens that an evaluation window scores; None: all of them.
    move_edges: whether training windows move from epoch to epoch; False for
      rows with edges of their own, which evaluation cannot cut anew either.
    n_bytes: as `DataSet` takes it.

  Raises:
    ValueError: naming the binding at fault.
  """
  eval_length = length if eval_length is None else eval_length
  eval_stride = eval_length if eval_stride is None else eval_stride
  checks.check_positive(f'{name}.length', length)
  made_with = _checked_context(
    f'{name}.eval_length', eval_length, f'{name}.eval_stride', eval_stride
  )
  checks.check_not_negative(f'{name}.seed', seed)
  if len(splits['train']) < length:
    raise ValueError(
      f'{name}.length = {length}: the training split of {origin} has only '
      f'{len(splits["train"]):,} {unit}s, less than one window'
    )
  train = TrainWindows(splits['train'], length, seed, move_edges)

  def eval_rows(split, context):
    windows = EvalWindows(splits[split], *(context or made_with))
    return windows.rows, windows.n_windows

  sizes = ', '.join(
    f'{split} {len(splits[split]):,}' for split in ('train', *_EVAL_SPLITS)
  )
  return DataSet(
    name,
    f'{origin}: {sizes} {unit}s in windows of {length}',
    train.rows,
    eval_rows,
    vocab,
    unit,
    batch_size,
    made_with if move_edges else None,
    n_bytes,
  )


def _checked_context(window_name, window, stride_name, stride):
  checks.check_positive(window_name, window)
  checks.check_positive(stride_name, stride)
  if stride > window:
    raise ValueError(
      f'{stride_name} = {stride}: must be at most {window_name} = {window}'
    )
  return Context(window, stride)
