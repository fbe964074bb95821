"""OwnData: the base class of data sets of the user's own."""

import abc
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trax_hier.data import checks
from trax_hier.data.batching.batches import Batch
from trax_hier.data.batching.dataset import DataSet, table_bytes
from trax_hier.data.batching.permutation import shuffled
from trax_hier.data.splits import SPLITS
from trax_hier.data.vocabularies.id_vocab import IdVocab
from trax_hier.data.vocabularies.text_vocabs import open_vocab
from trax_hier.data.vocabularies.vocab import Vocab

_PACKAGE = Path(__file__).parents[2]


class TrainData(Protocol):
  """What `train` and the programs call of a data set; no base class is needed.

  They also use, if a data set has them: `train_batch(step, shard, n_shards)`,
  with which each of several hosts makes only its rows; `batch_size`;
  `rows_per_epoch`; `fingerprint()`, without which some batches are hashed to
  find out whether the data have changed; `count_bytes(split, n_batches)`; and
  `eval_batches(split, window, stride)`. `DataSet` describes them.

  Attributes:
    vocab: Vocabulary of the ids, such as `IdVocab(size)`.
    unit: What a token is: 'byte', 'dim' (of an image) or 'token'.
  """

  vocab: Vocab
  unit: str

  def train_batch(self, step: int) -> Batch:
    """Returns batch `step`, from 0 without end; `make_batch` makes one.

    It must be a pure function of the step: then a run that resumes gets the
    batches of a run without interruption.
    """

  def eval_batches(self, split: str) -> Sequence[Batch]:
    """Returns the batches of 'valid' or 'test', all of one shape."""

  def describe(self) -> str:
    """Returns one line for the log."""


class OwnData(DataSet, abc.ABC):
  """A data set that makes its rows one by one.

  A subclass defines `n_rows` and `row`. Training reads all rows of 'train' in
  another order in each epoch. If a subclass has an `__init__`, it sets its own
  attributes before it calls this one.

  Example:
    >>> class Sums(OwnData):
    ...   def n_rows(self, split):
    ...     return 100
    ...
    ...   def row(self, split, i):
    ...     return f'{i}+{i}={2 * i}'
    >>> data = Sums(batch_size=2, length=10)
    >>> data.train_batch(0)['inputs'].shape
    (2, 10)
    >>> data.vocab.decode(data.eval_batches('valid')[6]['inputs'][0, :8])
    '12+12=24'
  """

  def __init__(
    self,
    batch_size: int,
    length: int,
    vocab: str | Vocab | None = None,
    vocab_size: int | None = None,
    source_length: int | None = None,
    seed: int = 0,
  ):
    """Counts the rows, and makes the first ones.

    Args:
      batch_size: Rows of the global batch.
      length: Tokens in a row of a batch.
      vocab: Vocabulary of the ids; see `TextFiles`. None means bytes.
      vocab_size: Number of ids, instead of a vocabulary: they are shown as
        numbers.
      source_length: Tokens in a row of sources, for encoder-decoder models.
      seed: Seed of the shuffle.

    Raises:
      ValueError: if a number is invalid, or a first row is not a row.
    """
    name = type(self).__name__
    checks.check_positive(f'{name}.length', length)
    checks.check_seed(f'{name}.seed', seed)
    if source_length is not None:
      checks.check_positive(f'{name}.source_length', source_length)
    if vocab_size is None:
      vocabulary = open_vocab(vocab, f'{name}.vocab')
    elif vocab is None:
      checks.check_positive(f'{name}.vocab_size', vocab_size)
      vocabulary = IdVocab(vocab_size)
    else:
      raise ValueError(f'{name}: give vocab or vocab_size, not both')
    self.vocab = vocabulary
    self._length, self._n_sources = length, source_length
    n_rows = {split: self._count(split) for split in SPLITS}
    for split, n in n_rows.items():
      self._rows(split, range(min(n, 1)))
    if not n_rows['train']:
      raise ValueError(f"{name}.n_rows('train') = 0: must be 1 or more")

    def train_rows(index):
      return self._rows('train', shuffled(index, n_rows['train'], seed)[1])

    def eval_rows(split, _):
      n = n_rows[split]

      def rows(index):
        return self._rows(split, index[index < n], len(index))

      return rows, n

    lengths = getattr(vocabulary, 'byte_lengths', None)
    unit = getattr(vocabulary, 'unit', 'token')
    is_known = unit == 'token' and lengths is not None
    sizes = ', '.join(f'{split} {n:,}' for split, n in n_rows.items())
    super().__init__(
      name,
      f'{sizes} rows of {length}',
      train_rows,
      eval_rows,
      vocabulary,
      unit,
      batch_size,
      byte_rows=table_bytes(eval_rows, lengths) if is_known else None,
      rows_per_epoch=n_rows['train'],
    )

  @abc.abstractmethod
  def n_rows(self, split: str) -> int:
    """Returns the number of rows of 'train', 'valid' or 'test'; 0 is none."""

  @abc.abstractmethod
  def row(self, split: str, i: int) -> Any:
    """Returns row i of a split, a pure function of its arguments.

    Args:
      split: 'train', 'valid' or 'test'.
      i: Number of the row, from 0.

    Returns:
      A text, or its ids, (m,) with m <= length; or a dict of such 'targets',
      and of 'weights', (m,) numbers, 1 where a token is scored, which is the
      default, and 'sources', a text or its ids, (s,) with s <= source_length.
    """

  def _count(self, split):
    """Returns the checked `n_rows`."""
    what = f'{type(self).__name__}.n_rows({split!r})'
    n = _called(what, self.n_rows, split)
    n = int(n) if isinstance(n, np.integer) else n
    checks.check_not_negative(what, n)
    return n

  def _rows(self, split, numbers, n=None):
    """Returns rows; those after `numbers`, up to n, are padding."""
    n = len(numbers) if n is None else n
    tokens = np.zeros((n, self._length), np.int32)
    weights = np.zeros((n, self._length), np.float32)
    sources = None
    if self._n_sources is not None:
      sources = np.zeros((n, self._n_sources), np.int32)
    for at, i in enumerate(map(int, numbers)):
      what = f'{type(self).__name__}.row({split!r}, {i})'
      row = _called(what, self.row, split, i)
      row = row if isinstance(row, Mapping) else {'targets': row}
      self._check_names(row, what)
      ids = self._ids(row, 'targets', self._length, what)
      tokens[at, : len(ids)] = ids
      if 'weights' in row:
        weights[at, : len(ids)] = _checked_weights(row['weights'], ids, what)
      else:
        weights[at, : len(ids)] = 1
      if sources is not None:
        ids = self._ids(row, 'sources', self._n_sources, what)
        sources[at, : len(ids)] = ids
    return tokens, weights, None, sources

  def _check_names(self, row, what):
    """Raises ValueError if the row holds what no batch would have."""
    known = ['targets', 'weights', 'sources']
    if wrong := [name for name in row if name not in known]:
      raise ValueError(
        f'{what} has {", ".join(map(repr, wrong))}: a row may have '
        f'{", ".join(map(repr, known))}'
      )
    if 'sources' in row and self._n_sources is None:
      raise ValueError(
        f"{what} has 'sources': set {type(self).__name__}.source_length to the "
        'tokens in a row of them'
      )

  def _ids(self, row, name, length, what):
    """Returns the checked ids, (m,), of a text or of ids."""
    if name not in row:
      raise ValueError(f'{what} has no {name!r}, only {", ".join(row)}')
    ids = row[name]
    if isinstance(ids, str):
      ids = _called(f'{what}: {name!r}', self.vocab.encode, ids)
    ids = _as_array(ids)
    if ids.ndim != 1 or (ids.dtype.kind not in 'iu' and ids.size):
      raise ValueError(
        f'{what}: {name!r} must be a text or integer ids (m,), got '
        f'{ids.dtype} {ids.shape}'
      )
    if len(ids) > length:
      raise ValueError(
        f'{what}: {name!r} has {len(ids)} tokens, more than the {length} of a '
        'row'
      )
    if ids.size and not 0 <= ids.min() <= ids.max() < self.vocab.size:
      raise ValueError(
        f'{what}: {name!r} has an id out of range: ids must be in '
        f'[0, {self.vocab.size})'
      )
    return ids


def _called(what, function, *args):
  """Calls code of the user's; a ValueError says what has failed, and where."""
  try:
    return function(*args)
  except Exception as error:
    places = [
      f' (line {frame.lineno} of {frame.filename})'
      for frame in traceback.extract_tb(error.__traceback__)
      if not Path(frame.filename).is_relative_to(_PACKAGE)
    ]
    raise ValueError(
      f'{what} failed: {type(error).__name__}: {error}{"".join(places[-1:])}'
    ) from error


def _as_array(values):
  """An array, (m,), or one that is no such array for values of other shapes."""
  try:
    return np.asarray(values)
  except ValueError:  # Their lengths differ.
    return np.asarray(values, object)


def _checked_weights(values, ids, what):
  """Returns the weights of ids, (m,)."""
  weights = _as_array(values)
  if weights.shape != ids.shape or weights.dtype.kind not in 'fiub':
    raise ValueError(
      f"{what}: 'weights' must be numbers {ids.shape}, one for each token, "
      f'got {weights.dtype} {weights.shape}'
    )
  if not (np.isfinite(weights) & (weights >= 0)).all():
    wrong = weights[~(np.isfinite(weights) & (weights >= 0))][0]
    raise ValueError(f"{what}: 'weights' must be 0 or more, got {wrong}")
  return weights
