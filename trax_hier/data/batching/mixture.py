"""Mixture: rows of several data sets, by weight."""

import functools
import operator
from collections.abc import Sequence

import numpy as np

from trax_hier.config import configurable
from trax_hier.data import checks
from trax_hier.data.batching.batches import Batch, example_indices
from trax_hier.data.batching.dataset import DataSet
from trax_hier.data.batching.shares import (
  block_shares,
  locate_rows,
  split_rows,
)
from trax_hier.data.fingerprints import whole_hash
from trax_hier.data.splits import EVAL_SPLITS


@configurable(module='trax_hier.data')
class Mixture:
  """Rows of several data sets, mixed by weight.

      train.data = @Mixture()
      Mixture.sources = (@wiki/TextFiles(), @code/TextFiles())
      Mixture.weights = (3, 1)

  Every block of rows holds the rows of the sources in the ratio of the weights,
  in a pseudo-random order: of the weights (3, 1), every four rows. Each source
  is read in its own order, epoch by epoch. A batch is a pure function of the
  seed, the step and the shard.

  If rows continue over batches, as those of `DocumentLanes`, each source has
  fixed rows of the batch instead, as many as its weight allows.

  Evaluation scores all sources, each token once, whatever the weights: batches
  of the sources take turns, in the ratio of their numbers, or follow each other
  if rows continue over batches. Metrics of each source are named by its number.

  Attributes:
    vocab: Vocabulary of all sources.
    unit: Unit of a scored token, of all sources.
    batch_size: Rows of the global training batch.
    rows_per_epoch: Rows that hold each part of each source at least once; None
      if rows of a source are generated.

  Example:
    >>> from trax_hier.data import Synthetic
    >>> sources = [Synthetic(task, 4, 16) for task in ('copy', 'recall')]
    >>> data = Mixture(sources, weights=(3, 1))
    >>> data.train_batch(0)['inputs'].shape
    (4, 16)
  """

  def __init__(
    self,
    sources: Sequence[DataSet],
    weights: Sequence[float] | None = None,
    seed: int = 0,
  ):
    """Checks that the sources fit together.

    Args:
      sources: Data sets with batches of one shape and one vocabulary.
      weights: Weight of each source, more than 0; None means equal ones.
      seed: Seed of the order of the rows.

    Raises:
      ValueError: naming the binding, if there are no sources, if they do not
        fit together, or if an argument is invalid.
    """
    sources = _checked_sources(sources)
    if weights is None:
      weights = (1,) * len(sources)
    _check_weights(weights, len(sources))
    checks.check_seed('Mixture.seed', seed)
    self._sources = sources
    self._seed = seed
    first = sources[0]
    self.vocab, self.unit = first.vocab, first.unit
    batches = [source.train_batch(0) for source in sources]
    self.batch_size = len(batches[0]['inputs'])
    _check_equal(sources, [_shape(batch) for batch in batches], 'batches')
    self._continues = any(getattr(s, 'continues', False) for s in sources)
    if self._continues:
      if self.batch_size < len(sources):
        raise ValueError(
          f'Mixture.sources: {len(sources)} sources whose rows continue over '
          f'batches need a batch_size of at least {len(sources)}, not '
          f'{self.batch_size}'
        )
      self._shares = split_rows(self.batch_size, weights)
    else:
      self._shares = block_shares(weights)
    # Functions from numbers of rows, (b,), to these rows of a source.
    self._rows = [
      self._rows_of(source, int(share))
      for source, share in zip(sources, self._shares, strict=True)
    ]
    epochs = [getattr(source, 'rows_per_epoch', None) for source in sources]
    self.rows_per_epoch = None
    if None not in epochs:
      rows = np.ceil(np.array(epochs) / self._shares).max()
      self.rows_per_epoch = int(rows * self._shares.sum())

  def _rows_of(self, source, share):
    if getattr(source, 'continues', False):
      return source.with_lanes(share)
    if isinstance(source, DataSet):
      return source.train_rows
    if not _with_starts(source.train_batch(1))['start_of_sequence'].all():
      raise ValueError(
        'Mixture.sources: rows continue over batches only in a DataSet with '
        f'train_lanes, not in {source.describe()}'
      )
    return functools.partial(_pick_rows, _last_batches(source))

  def train_batch(self, step: int, shard: int = 0, n_shards: int = 1) -> Batch:
    """Returns one shard of batch `step`; see `DataSet`."""
    index = example_indices(
      'Mixture.sources', step, self.batch_size, shard, n_shards
    )
    if self._continues:
      step, lane = np.divmod(index, self.batch_size)
      ends = np.cumsum(self._shares)
      source = np.searchsorted(ends, lane, 'right')
      share = self._shares[source]
      row = step * share + lane - (ends[source] - share)
    else:
      source, row = locate_rows(index, self._shares, self._seed)
    batch = {}
    for i, rows in enumerate(self._rows):
      mine = np.flatnonzero(source == i)
      if len(mine):
        for name, array in rows(row[mine]).items():
          whole = batch.get(name)
          if whole is None:
            shape = len(index), *array.shape[1:]
            whole = batch[name] = np.empty(shape, array.dtype)
          whole[mine] = array
    return batch

  def eval_batches(
    self, split: str, window: int | None = None, stride: int | None = None
  ) -> 'MixedBatches':
    """Returns the batches of a split of all sources; see `DataSet`.

    Raises:
      ValueError: as the sources; if their batches differ in shape.
    """
    context = (window, stride) if (window, stride) != (None, None) else ()
    parts = [source.eval_batches(split, *context) for source in self._sources]
    _check_equal(
      self._sources, [_shape(part[0]) for part in parts], 'evaluation batches'
    )
    return MixedBatches(parts, not self._continues)

  def count_bytes(
    self,
    split: str,
    n_batches: int | None = None,
    window: int | None = None,
    stride: int | None = None,
  ) -> int | None:
    """Returns the bytes of text that scored tokens encode; see `DataSet`."""
    batches = self.eval_batches(split, window, stride)
    total = 0
    for source, n in zip(self._sources, batches.counts(n_batches), strict=True):
      if n:
        n_bytes = None
        if hasattr(source, 'count_bytes'):
          n_bytes = source.count_bytes(split, n, window, stride)
        if n_bytes is None:
          return None
        total += n_bytes
    return total

  def fingerprint(self) -> dict[str, str]:
    """Returns the fingerprints of the sources, by their numbers."""
    return {
      f'{i} {name}': text
      for i, source in enumerate(self._sources, 1)
      for name, text in _fingerprint(source).items()
    }

  def describe(self) -> str:
    """Returns one line: the shares of the sources, and the sources."""
    total = self._shares.sum()
    parts = '; '.join(
      f'({i}) {share / total:.1%} {source.describe()}'
      for i, (share, source) in enumerate(
        zip(self._shares.tolist(), self._sources, strict=True), 1
      )
    )
    how = 'fixed rows' if self._continues else 'rows'
    text = f'Mixture of {len(self._sources)} sources by {how}: {parts}'
    for split in EVAL_SPLITS:
      try:
        counts = self.eval_batches(split).counts(None)
      except ValueError:  # It is empty.
        continue
      text += f'; {split} scores {" + ".join(f"{n:,}" for n in counts)} batches'
    return text


class MixedBatches(Sequence[Batch]):
  """The evaluation batches of several sources.

  Attributes:
    batch_size: Rows in a batch.
    context: How the splits were cut, if all are cut in the same way, or None.
    sources: Source of each batch, numbered from 1.
  """

  def __init__(self, parts: Sequence[Sequence[Batch]], take_turns: bool):
    """Orders the batches.

    Args:
      parts: Batches of each source, of one shape.
      take_turns: Whether batches of the sources take turns, so that the first
        ones are of all; else they follow each other.
    """
    self._parts = parts
    sizes = [len(part) for part in parts]
    source = np.repeat(np.arange(len(parts)), sizes)
    number = np.concatenate([np.arange(size) for size in sizes])
    if take_turns:
      when = (number + 0.5) / np.asarray(sizes)[source]
      order = np.argsort(when, kind='stable')
      source, number = source[order], number[order]
    self._source, self._number = source.tolist(), number.tolist()
    self.sources = [i + 1 for i in self._source]
    self.batch_size = len(parts[0][0]['inputs'])
    contexts = {getattr(part, 'context', None) for part in parts}
    self.context = contexts.pop() if len(contexts) == 1 else None

  def __len__(self) -> int:
    """Number of batches."""
    return len(self._source)

  def counts(self, n_batches: int | None) -> list[int]:
    """Returns how many of the first batches, or of all, are of each source."""
    first = self._source[:n_batches]
    return [first.count(i) for i in range(len(self._parts))]

  def rows(self, i: int, begin: int, end: int) -> Batch:
    """Returns rows [begin, end) of batch i; see `EvalBatches`."""
    position = range(len(self))[operator.index(i)]
    part = self._parts[self._source[position]]
    number = self._number[position]
    if hasattr(part, 'rows'):
      return part.rows(number, begin, end)
    batch = _with_starts(part[number])
    return {name: array[begin:end] for name, array in batch.items()}

  def __getitem__(self, i: int) -> Batch:
    """Returns batch i, counted from the end if negative."""
    return self.rows(i, 0, self.batch_size)


def _fingerprint(source):
  """The fingerprint of a source; without one, hashes of some batches.

  Else a change of it would go unnoticed beside the fingerprints of others.
  """
  if found := getattr(source, 'fingerprint', dict)():
    return found
  valid = source.eval_batches('valid')
  batches = {
    'train': [source.train_batch(step) for step in (0, 1)],
    'valid': [valid[0], valid[len(valid) - 1]],
  }
  return {
    split: f'hash {_hash(few)} of {len(few)} batches'
    for split, few in batches.items()
  }


def _hash(batches):
  return whole_hash(
    tuple(
      np.asarray(array)
      for batch in batches
      for _, array in sorted(batch.items())
    )
  )


def _checked_sources(sources):
  if not isinstance(sources, Sequence) or len(sources) == 0:
    raise ValueError(
      'Mixture.sources must be data sets, such as (@a/TextFiles(), '
      f'@b/TextFiles()), got {sources!r:.80}'
    )
  for source in sources:
    if not hasattr(source, 'train_batch'):
      raise ValueError(
        'Mixture.sources must be data sets such as @a/TextFiles() (with '
        f'parentheses), got {source!r:.80}'
      )
  _check_equal(sources, [source.unit for source in sources], 'units')
  _check_equal(
    sources, [_vocab_name(source.vocab) for source in sources], 'vocabularies'
  )
  return tuple(sources)


def _vocab_name(vocab):
  """Returns a text that is equal for equal vocabularies."""
  base = getattr(vocab, 'base', None)
  key = getattr(vocab, 'key', None) or type(vocab).__name__
  of_base = f' on {_vocab_name(base)}' if base is not None else ''
  return f'{vocab.size:,} ids of {key}{of_base}'


def _check_weights(weights, n):
  binding = f'Mixture.weights = {weights!r:.80}'
  if not isinstance(weights, Sequence) or len(weights) != n:
    raise ValueError(f'{binding}: must be {n} numbers, one for each source')
  for weight in weights:
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not is_number or not 0 < weight < float('inf'):
      raise ValueError(f'{binding}: must be numbers above 0, not {weight!r}')


def _shape(batch):
  """Returns the names and shapes of the arrays of a batch, as a text."""
  return ', '.join(
    f'{name} {"x".join(map(str, np.shape(array)))}'
    for name, array in sorted(_with_starts(batch).items())
  )


def _with_starts(batch):
  """Returns a batch with 'start_of_sequence', which data sets may leave out."""
  starts = np.ones(len(batch['inputs']), np.bool_)
  return {'start_of_sequence': starts} | batch


def _check_equal(sources, values, what):
  """Raises ValueError if something of two sources differs."""
  for i, value in enumerate(values[1:], 2):
    if value != values[0]:
      raise ValueError(
        f'Mixture.sources: their {what} must be equal, but source 1 has '
        f'{values[0]}, and source {i} {value}'
      )


def _last_batches(source):
  """Returns `train_batch` of a source; it keeps its last two batches."""
  return functools.lru_cache(2)(source.train_batch)


def _pick_rows(train_batch, index) -> Batch:
  """Returns rows by number of a data set that returns whole batches."""
  batch_size = len(train_batch(0)['inputs'])
  steps, rows = np.divmod(index, batch_size)
  parts = []
  for step in np.unique(steps).tolist():
    batch = _with_starts(train_batch(step))
    parts.append({name: x[rows[steps == step]] for name, x in batch.items()})
  # Numbers of rows grow, so that parts are in their order.
  return {
    name: np.concatenate([part[name] for part in parts]) for name in parts[0]
  }
