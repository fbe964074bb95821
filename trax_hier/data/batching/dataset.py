"""DataSet: the object that serves batches to the trainer."""

from collections.abc import Callable, Mapping

import numpy as np

from trax_hier.data import checks
from trax_hier.data.batching.batches import (
  Batch,
  EvalBatches,
  Rows,
  example_indices,
  make_batch,
)
from trax_hier.data.batching.windows import Context, EvalWindows, TrainWindows
from trax_hier.data.files import mapped_file
from trax_hier.data.fingerprints import Content, fingerprint
from trax_hier.data.splits import EVAL_SPLITS, SPLITS
from trax_hier.data.vocabularies.vocab import Vocab

# Function from 'valid' or 'test', and the way to cut it, to its rows and their
# number. Rows past that number are padding.
EvalRows = Callable[[str, Context | None], tuple[Rows, int]]


class DataSet:
  """Random-access rows, served as batches.

  Attributes:
    vocab: Vocabulary of the ids.
    unit: Unit of a scored token: 'byte', 'dim' or 'token'.
    rows_per_epoch: Rows that hold each part of the training split once; None if
      rows are generated.

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
    count_bytes: Callable[[str], int] | None = None,
    eval_batch_size: int | None = None,
    content: Content | None = None,
    empty_hint: str = '',
    rows_per_epoch: int | None = None,
  ):
    """Checks the batch sizes.

    Args:
      name: Name of the configurable, for messages.
      description: Source and sizes, for `describe`.
      train_rows: Function from positions in an endless stream to rows.
      eval_rows: Function from a held-out split, and the way to cut it, to its
        rows and their number.
      vocab: Vocabulary of the ids.
      unit: Unit of a scored token.
      batch_size: Rows of the global batch.
      context: How evaluation cuts a split by default; None if rows are not
        windows of a text.
      count_bytes: Function from 'valid' or 'test' to its bytes of text; None if
        tokens are bytes or encode no text.
      eval_batch_size: Rows of an evaluation batch; None means `batch_size`.
      content: Arrays that determine the batches of each split, for
        `fingerprint`; None if rows are generated.
      empty_hint: End of the message that the valid split is empty.
      rows_per_epoch: Rows that hold each part of the training split once; None
        if rows are generated.

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
    self._count_bytes = count_bytes
    self._content = content or {}
    self._empty_hint = empty_hint
    mapped = (
      mapped_file(array)
      for _, arrays in self._content.values()
      for array in arrays
    )
    self._mapped_files = set(mapped) - {None}
    self.vocab = vocab
    self.unit = unit
    self.rows_per_epoch = rows_per_epoch

  @property
  def batch_size(self) -> int:
    """Rows of the global training batch."""
    return self._batch_size

  def train_batch(self, step: int, shard: int = 0, n_shards: int = 1) -> Batch:
    """Returns one shard of batch `step`: a pure function of its arguments.

    Args:
      step: Number of the batch, from 0 without end.
      shard: Number of the shard, in [0, n_shards).
      n_shards: Number of shards of the global batch; must divide its size.

    Returns:
      'inputs' and 'targets', (b, l) int32; 'weights', (b, l) float32;
      'start_of_sequence', (b,) bool; for encoder-decoder models also 'sources',
      (b, s) int32.

    Raises:
      ValueError: if an argument is out of range.
      OSError: if a memory-mapped file has been truncated.
    """
    index = example_indices(self._name, step, self._batch_size, shard, n_shards)
    self._check_files()
    return make_batch(*self._train_rows(index))

  def eval_batches(
    self, split: str, window: int | None = None, stride: int | None = None
  ) -> EvalBatches:
    """Returns the batches of a split, in which each token is scored once.

    Args:
      split: 'valid' or 'test'.
      window: Tokens in a window; None means the default of the data set.
      stride: Tokens that a window scores. Except in the first window, each has
        window - stride preceding tokens or more. None means `window` if that
        is given, and otherwise the default of the data set.

    Raises:
      ValueError: if the split does not exist or is empty, if the stride is
        larger than the window, or if rows are not windows of a text.
    """
    checks.check_choice('eval_batches: split', split, EVAL_SPLITS)
    context = self._context
    if window is not None or stride is not None:
      context = self._choose_context(window, stride)
    rows, n_rows = self._eval_rows(split, context)
    if not n_rows:
      hint = self._empty_hint if split == 'valid' else ''
      raise ValueError(f'{self._name}: the {split} split is empty{hint}')

    def checked_rows(index):
      self._check_files()
      return rows(index)

    return EvalBatches(checked_rows, n_rows, self._eval_batch_size, context)

  def fingerprint(self) -> dict[str, str]:
    """Returns a size and a hash of each split and of the vocabulary.

    They change with the data, up to what a sample of large files shows. Empty
    if rows are generated.
    """
    found = {name: fingerprint(*part) for name, part in self._content.items()}
    # Bytes have no model file.
    if found and (model := getattr(self.vocab, 'content', None)):
      ids = np.frombuffer(model, np.uint8)
      found['vocab'] = fingerprint(f'{self.vocab.size:,} ids', (ids,))
    return found

  def _check_files(self):
    """Raises OSError if a memory-mapped file has been truncated."""
    for file in self._mapped_files:
      file.check_not_truncated()

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
    """Returns the bytes of text that the scored tokens of a split encode.

    Args:
      split: 'valid' or 'test'.

    Returns:
      Their number; None if tokens are bytes or encode no text.
    """
    return self._count_bytes and self._count_bytes(split)

  def describe(self) -> str:
    """Returns one line: the source, split sizes and batch size."""
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
  count_bytes: Callable[[str], int] | None = None,
  empty_hint: str = '',
) -> DataSet:
  """Returns a data set that cuts three token arrays into windows.

  Args:
    name: Name of the configurable that has these arguments, for messages.
    origin: Source of the data, for `describe`.
    splits: 'train', 'valid' and 'test', each (n,) integers.
    vocab: Vocabulary of the ids.
    batch_size: Rows of the global batch.
    length: Tokens in a training window.
    seed: Seed of the shuffle.
    unit: Unit of a token.
    eval_length: Tokens in an evaluation window; None means `length`.
    eval_stride: Tokens that an evaluation window scores; None means all.
    move_edges: Whether training windows shift from epoch to epoch. False keeps
      natural rows, such as images, whole in training and evaluation.
    count_bytes: See `DataSet`.
    empty_hint: See `DataSet`.

  Raises:
    ValueError: naming the binding, if a number is invalid or a window is
      longer than the training split.
  """
  eval_length = length if eval_length is None else eval_length
  eval_stride = eval_length if eval_stride is None else eval_stride
  checks.check_positive(f'{name}.length', length)
  default_context = _checked_context(
    f'{name}.eval_length', eval_length, f'{name}.eval_stride', eval_stride
  )
  checks.check_seed(f'{name}.seed', seed)
  if len(splits['train']) < length:
    raise ValueError(
      f'{name}.length = {length}: the training split of {origin} has only '
      f'{len(splits["train"]):,} {unit}s, less than one window'
    )
  train = TrainWindows(splits['train'], length, seed, move_edges)

  def eval_rows(split, context):
    windows = EvalWindows(splits[split], *(context or default_context))
    return windows.rows, windows.n_windows

  sizes = ', '.join(f'{split} {len(splits[split]):,}' for split in SPLITS)
  return DataSet(
    name,
    f'{origin}: {sizes} {unit}s in windows of {length}',
    train.rows,
    eval_rows,
    vocab,
    unit,
    batch_size,
    default_context if move_edges else None,
    count_bytes,
    content={
      split: (f'{len(splits[split]):,} {unit}s', (splits[split],))
      for split in SPLITS
    },
    empty_hint=empty_hint,
    rows_per_epoch=train.n_windows,
  )


def _checked_context(window_name, window, stride_name, stride):
  checks.check_positive(window_name, window)
  checks.check_positive(stride_name, stride)
  if stride > window:
    raise ValueError(
      f'{stride_name} = {stride}: must be at most {window_name} = {window}'
    )
  return Context(window, stride)
