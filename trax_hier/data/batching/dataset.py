"""DataSet: the object that serves batches to the trainer."""

from collections.abc import Callable

import numpy as np

from trax_hier.data import checks
from trax_hier.data.batching.batches import (
  Batch,
  EvalBatches,
  Rows,
  example_indices,
  make_batch,
)
from trax_hier.data.batching.windows import Context, checked_context
from trax_hier.data.files import mapped_file
from trax_hier.data.fingerprints import Content, fingerprint
from trax_hier.data.splits import EVAL_SPLITS
from trax_hier.data.vocabularies.vocab import Vocab

# Function from 'valid' or 'test', and the way to cut it, to its rows and their
# number. Rows past that number are padding.
EvalRows = Callable[[str, Context | None], tuple[Rows, int]]

# Function from 'valid' or 'test', and the way to cut it, to a function from row
# numbers, (b,), to the bytes of text of each token, (b, l).
ByteRows = Callable[[str, Context | None], Callable[[np.ndarray], np.ndarray]]

_COUNTED = 256  # rows whose bytes are counted at a time


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
    byte_rows: ByteRows | None = None,
    count_bytes: Callable[[str], int] | None = None,
    eval_batch_size: int | None = None,
    content: Content | None = None,
    empty_hint: str = '',
    rows_per_epoch: int | None = None,
    train_lanes: Callable[[int], Rows] | None = None,
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
      byte_rows: Bytes of text of each token of a split; None if tokens are
        bytes or encode no text, or if their bytes are not known.
      count_bytes: Function from 'valid' or 'test' to its bytes of text, where
        only those of the whole split are known.
      eval_batch_size: Rows of an evaluation batch; None means `batch_size`.
      content: Arrays that determine the batches of each split, for
        `fingerprint`; None if rows are generated.
      empty_hint: End of the message that the valid split is empty.
      rows_per_epoch: Rows that hold each part of the training split once; None
        if rows are generated.
      train_lanes: Function from a number of lanes to `train_rows` of them;
        None if rows do not continue over batches.

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
    self._train_lanes = train_lanes
    self._eval_rows = eval_rows
    self._batch_size = batch_size
    self._eval_batch_size = eval_batch_size
    self._context = context
    self._byte_rows = byte_rows
    self._count_bytes = count_bytes
    self._content = content or {}
    self._empty_hint = empty_hint
    mapped = (
      mapped_file(array) for part in self._content.values() for array in part[1]
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
    return self.train_rows(index)

  @property
  def continues(self) -> bool:
    """Whether rows continue the same row of the previous batch."""
    return self._train_lanes is not None

  def train_rows(self, index: np.ndarray) -> Batch:
    """Returns rows of the endless stream of training rows.

    Args:
      index: Numbers of the rows: step * batch_size + row, (b,).

    Raises:
      OSError: if a memory-mapped file has been truncated.
    """
    self._check_files()
    return make_batch(*self._train_rows(index))

  def with_lanes(self, n: int) -> Callable[[np.ndarray], Batch]:
    """Returns `train_rows` of batches of n rows, for rows that continue.

    Args:
      n: Rows of a batch.

    Returns:
      Function from numbers of rows, (b,), to the rows.
    """
    train_rows = self._train_lanes(n)

    def rows(index):
      self._check_files()
      return make_batch(*train_rows(index))

    return rows

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
    return checked_context('window', window, 'stride', stride)

  def count_bytes(
    self,
    split: str,
    n_batches: int | None = None,
    window: int | None = None,
    stride: int | None = None,
  ) -> int | None:
    """Returns the bytes of text that the scored tokens of a split encode.

    Args:
      split: 'valid' or 'test'.
      n_batches: Number of batches to count, from the first one on; None, or a
        larger number than there are, counts all.
      window: See `eval_batches`; of interest only with `n_batches`.
      stride: See `eval_batches`.

    Returns:
      Their number; None if tokens are bytes or encode no text, or if only the
      bytes of the whole split are known.
    """
    checks.check_choice('count_bytes: split', split, EVAL_SPLITS)
    if self._byte_rows is None and self._count_bytes is None:
      return None
    batches = self.eval_batches(split, window, stride)
    is_whole = n_batches is None or n_batches >= len(batches)
    if self._byte_rows is None:
      return self._count_bytes(split) if is_whole else None
    rows, n_rows = self._eval_rows(split, batches.context)
    if not is_whole:
      n_rows = min(n_rows, n_batches * batches.batch_size)
    byte_rows, total = self._byte_rows(split, batches.context), 0
    for begin in range(0, n_rows, _COUNTED):
      index = np.arange(begin, min(begin + _COUNTED, n_rows))
      total += int(byte_rows(index)[rows(index)[1] > 0].sum())
    return total

  def describe(self) -> str:
    """Returns one line: the source, split sizes and batch size."""
    return (
      f'{self._name}: {self._description}; batches of {self._batch_size} rows'
    )


def table_bytes(eval_rows: EvalRows, byte_lengths: np.ndarray) -> ByteRows:
  """Returns the bytes of tokens that have the same bytes in every text, (b, l).

  Args:
    eval_rows: See `DataSet`.
    byte_lengths: Bytes of each id, (size,).
  """

  def byte_rows(split, context):
    rows, _ = eval_rows(split, context)
    return lambda index: byte_lengths[rows(index)[0]]

  return byte_rows
