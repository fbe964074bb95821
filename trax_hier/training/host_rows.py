"""The rows of a batch that one host makes: those that its devices hold.

With one host, these are all rows. A row does not depend on the host that makes
it: a run may resume with another number of hosts.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from trax_hier.training.data_checks import takes_shards
from trax_hier.training.mesh import row_sharding
from trax_hier.training.packing import check_documents
from trax_hier.training.state import Batch, with_rows

LocalBatch = dict[str, np.ndarray]


def local_ranges(mesh: Mesh, n_rows: int) -> list[tuple[int, int]]:
  """The rows [begin, end) that the devices of this host hold, in order.

  Adjacent ranges are joined, so most hosts have one. Rows that several devices
  hold count once.

  Args:
    mesh: Device mesh.
    n_rows: Rows of a batch, a multiple of the number of devices.
  """
  shards = row_sharding(mesh).addressable_devices_indices_map((n_rows,))
  ranges = []
  for begin, end in sorted({x.indices(n_rows)[:2] for (x,) in shards.values()}):
    if ranges and ranges[-1][1] == begin:
      begin, _ = ranges.pop()
    ranges.append((begin, end))
  return ranges


class TrainRows:
  """This host's rows of the training batches.

  Attributes:
    note: What a data set costs that cannot make a part of a batch; else None.
  """

  def __init__(self, data: object, mesh: Mesh, n_rows: int, multiple: int = 1):
    """Asks the data for its shard of batch 0, if there are several hosts.

    Args:
      data: Data set.
      mesh: Device mesh.
      n_rows: Rows of a global batch, a multiple of the number of devices.
      multiple: Number of which each document must fill a multiple of tokens.

    Raises:
      ValueError: if the data set makes shards that are not parts of a batch, or
        if documents do not fill multiples of tokens.
    """
    self._data, self._n_rows, self._multiple = data, n_rows, multiple
    self._ranges = local_ranges(mesh, n_rows)
    self._shard_rows = math.gcd(n_rows, *itertools.chain(*self._ranges))
    self._in_shards = self._shard_rows < n_rows and self._makes_shards()
    self.note = None
    if self._shard_rows < n_rows and not self._in_shards:
      self.note = (
        'train.data has no train_batch(step, shard, n_shards) that returns one '
        f'of n_shards equal parts of a batch: each of {jax.process_count()} '
        f'hosts makes all {n_rows} rows of a batch and uses its own'
      )
    if multiple > 1:
      self(0)  # A fault is found before anything compiles.

  def __call__(self, step: int) -> LocalBatch:
    """Returns the rows of batch `step`, from 0, in the order of the batch.

    Raises:
      ValueError: if documents do not fill multiples of tokens.
    """
    batch = self._make(step)
    check_documents(batch, self._multiple, f'train_batch({step})')
    return batch

  def _make(self, step):
    if not self._in_shards:
      batch = self._data.train_batch(step)
      if self._ranges == [(0, self._n_rows)]:
        return batch
      return _join([_slice(batch, *rows) for rows in self._ranges])
    size = self._shard_rows
    shards = (range(a // size, b // size) for a, b in self._ranges)
    return _join([self._shard(step, i) for i in itertools.chain(*shards)])

  def _shard(self, step, i):
    batch = self._data.train_batch(step, i, self._n_rows // self._shard_rows)
    self._check_size(batch, step, i)
    return batch

  def _check_size(self, batch, step, i):
    n, size = len(batch['inputs']), self._shard_rows
    if n != size:
      raise ValueError(
        f'train_batch({step}, {i}, {self._n_rows // size}) of train.data '
        f'returns {n} rows instead of {size}, as a batch has {self._n_rows}'
      )

  def _makes_shards(self):
    """Whether the data set takes shards and does not return a whole batch.

    Raises:
      ValueError: if a shard is not a part of the batch.
    """
    if not takes_shards(self._data):
      return False
    n, begin = self._n_rows, self._ranges[0][0]
    shard, n_shards = begin // self._shard_rows, n // self._shard_rows
    batch = self._data.train_batch(0, shard, n_shards)
    if len(batch['inputs']) == n:
      return False
    self._check_size(batch, 0, shard)
    if hasattr(self._data, 'batch_size'):  # It makes single rows.
      row = self._data.train_batch(0, begin, n)
      if not all(np.array_equal(x[:1], row[name]) for name, x in batch.items()):
        raise ValueError(
          f'train_batch(0, {shard}, {n_shards}) of train.data is not a part of '
          f'its batch 0, as its first row is not train_batch(0, {begin}, {n}): '
          'a batch must not depend on the number of hosts'
        )
    return True


class HeldOutRows:
  """This host's rows of the held-out batches.

  Batches whose rows do not split evenly over the devices are padded with rows
  of zeros, whose weights are 0.

  Attributes:
    shapes: Shapes of a global batch, padding included.
  """

  def __init__(
    self,
    batches: Sequence[Mapping[str, np.ndarray]],
    mesh: Mesh,
    shapes: Batch,
    multiple: int = 1,
  ):
    """Makes no batch.

    Args:
      batches: Held-out batches of one shape.
      mesh: Device mesh.
      shapes: Shapes of a batch.
      multiple: See `TrainRows`.
    """
    self._batches, self._multiple = batches, multiple
    self._n_rows = n = shapes['inputs'].shape[0]
    padded = n + -n % mesh.size
    self._ranges = local_ranges(mesh, padded)
    self.shapes = with_rows(shapes, padded)

  def __call__(self, i: int) -> Mapping[str, np.ndarray]:
    """Returns the rows of batch `i`; see `TrainRows`."""
    batch = self._make(i)
    check_documents(batch, self._multiple, f'held-out batch {i + 1}')
    return batch

  def _make(self, i):
    if self._ranges == [(0, self._n_rows)]:
      return self._batches[i]
    n_local = sum(end - begin for begin, end in self._ranges)
    local = {
      name: np.zeros((n_local, *x.shape[1:]), x.dtype)
      for name, x in self.shapes.items()
    }
    first = 0
    for begin, end in self._ranges:
      if begin < self._n_rows:
        rows = held_out_rows(self._batches, i, begin, min(end, self._n_rows))
        for name, x in rows.items():
          local[name][first : first + len(x)] = x
      first += end - begin
    return local


def held_out_rows(
  batches: Sequence[Batch], i: int, begin: int, end: int
) -> LocalBatch:
  """Returns rows [begin, end) of a held-out batch.

  Args:
    batches: Held-out batches. Rows are made alone if there is a method `rows`
      of (i, begin, end).
    i: Number of the batch.
    begin: First row.
    end: Row after the last.
  """
  if hasattr(batches, 'rows'):
    return batches.rows(i, begin, end)
  return _slice(batches[i], begin, end)


def _slice(batch, begin, end):
  return {name: x[begin:end] for name, x in batch.items()}


def _join(parts):
  """Joins batches along their rows."""
  if len(parts) == 1:
    return parts[0]
  return {
    name: np.concatenate([part[name] for part in parts]) for name in parts[0]
  }
