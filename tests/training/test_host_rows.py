"""Rows of each host: the hosts' rows are the batch, and none makes another's.

Hosts are simulated: a table says which rows the devices of each host hold.
tests/training/test_training_loop.py runs two real ones.
"""

import itertools
import types

import jax
import numpy as np
import pytest
import toy_training

from trax_hier.data import (
  DocumentLanes,
  Mixture,
  SpanCorruption,
  Synthetic,
  TextFiles,
)
from trax_hier.training import host_rows
from trax_hier.training.host_rows import HeldOutRows, TrainRows
from trax_hier.training.state import shapes_of

N = 12
# For each host, the places of its devices along the rows of a batch.
LAYOUTS = {
  'one host': [[0, 1, 2, 3]],
  'two hosts': [[0, 1], [2, 3]],
  'one device each': [[0], [1], [2], [3]],
  'out of order': [[3, 2], [1, 0]],
  'interleaved': [[0, 2], [1, 3]],
  'unequal': [[0], [1, 2, 3]],
  'not aligned': [[0], [1, 2], [3]],
  # As along an axis of the mesh over which a batch is not split.
  'two hosts with the same rows': [[0, 1], [0, 1], [2, 3], [2, 3]],
}

each_layout = pytest.mark.parametrize(
  'layout', LAYOUTS.values(), ids=LAYOUTS.keys()
)


class Mesh:
  """The mesh as one host sees it."""

  def __init__(self, layout, host):
    self._places = layout[host]
    self.size = len(set(itertools.chain(*layout)))

  def addressable_devices_indices_map(self, shape):
    n = shape[0] // self.size
    return {i: (slice(i * n, i * n + n),) for i in self._places}

  def rows(self, n_rows):
    """The numbers of the rows that the host holds."""
    n = n_rows // self.size
    return [i * n + j for i in sorted(self._places) for j in range(n)]


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
  monkeypatch.setattr(host_rows, 'row_sharding', lambda mesh: mesh)


def hosts(layout):
  return [Mesh(layout, host) for host in range(len(layout))]


class Recorder:
  """A data set that records which rows of its batches are made."""

  def __init__(self, data):
    self._data, self.asked = data, []

  def __getattr__(self, name):
    return getattr(self._data, name)

  def train_batch(self, step, shard=0, n_shards=1):
    n = N // n_shards
    self.asked += [(step, row) for row in range(shard * n, shard * n + n)]
    return self._data.train_batch(step, shard, n_shards)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('texts')
  for i in range(20):
    (folder / f'{i}.txt').write_text(
      f'document {i} of some letters. ' * (1 + i)
    )
  return str(folder)


def data_sets(folder):
  return {
    'generated': Synthetic('copy', N, 8, n_eval_rows=29),
    'sources': Synthetic('copy_source', N, 8, n_eval_rows=29),
    'windows': TextFiles(folder, N, 16),
    'lanes': DocumentLanes(folder, N, 16, eval_batch_size=N - 1),
    'spans': SpanCorruption(TextFiles(folder, N, 16), 20, 10, 300),
    'mixture': Mixture([TextFiles(folder, N, 16), TextFiles(folder, N, 16)]),
  }


NAMES = ['generated', 'sources', 'windows', 'lanes', 'spans', 'mixture']


def select(batch, rows):
  return {name: x[rows] for name, x in batch.items()}


def assert_same(batch, expected):
  assert batch.keys() == expected.keys()
  for name, x in expected.items():
    np.testing.assert_array_equal(batch[name], x, err_msg=name)


@each_layout
def test_a_host_makes_only_its_rows(layout):
  for mesh in hosts(layout):
    data = Recorder(Synthetic('copy', N, 8))
    rows = TrainRows(data, mesh, N)
    assert rows.note is None
    for step in (0, 5):
      data.asked.clear()
      batch = rows(step)
      assert data.asked == [(step, row) for row in mesh.rows(N)]
      assert_same(batch, select(data.train_batch(step), mesh.rows(N)))


@pytest.mark.parametrize('name', NAMES)
@each_layout
def test_rows_are_those_of_the_whole_batch(layout, name, folder):
  data = data_sets(folder)[name]
  for mesh, step in itertools.product(hosts(layout), (0, 3)):
    expected = select(data.train_batch(step), mesh.rows(N))
    assert_same(TrainRows(data, mesh, N)(step), expected)
  batches = data.eval_batches('valid')
  shapes = shapes_of(batches[0])
  n_rows = batches.batch_size
  for mesh, i in itertools.product(hosts(layout), (0, len(batches) - 1)):
    local = HeldOutRows(batches, mesh, shapes)
    padded = local.shapes['inputs'].shape[0]
    assert padded % mesh.size == 0 and 0 <= padded - n_rows < mesh.size
    whole = {
      name: np.pad(x, [(0, padded - n_rows)] + [(0, 0)] * (x.ndim - 1))
      for name, x in batches[i].items()
    }
    assert_same(local(i), select(whole, mesh.rows(padded)))


@each_layout
def test_held_out_rows_of_other_hosts_are_not_made(layout):
  data = Synthetic('copy', 6, 8, n_eval_rows=11)  # 6 rows, padded to 8.
  batches = data.eval_batches('valid')
  shapes, made, rows = shapes_of(batches[0]), [], batches._rows

  def record(index):
    made.extend(index.tolist())
    return rows(index)

  batches._rows = record
  for mesh in hosts(layout):
    made.clear()
    HeldOutRows(batches, mesh, shapes)(1)
    assert made == [6 + row for row in mesh.rows(8) if row < 6]


class Whole(toy_training.Data):
  """A data set of whole batches."""

  def train_batch(self, step):
    return super().train_batch(step)


class Deaf(toy_training.Data):
  """A data set that takes shards and returns whole batches all the same."""


@pytest.mark.parametrize('kind', [Whole, Deaf])
def test_whole_batches_are_cut_and_the_cost_is_said(kind, monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  data = kind(rows=N)
  for mesh in hosts(LAYOUTS['two hosts']):
    rows = TrainRows(data, mesh, N)
    assert '2 hosts makes all 12 rows' in rows.note and '\n' not in rows.note
    assert_same(rows(3), select(data.train_batch(3), mesh.rows(N)))
    batches = data.eval_batches('valid')
    local = HeldOutRows(batches, mesh, shapes_of(batches[0]))
    assert_same(local(2), select(batches[2], mesh.rows(N)))
  (mesh,) = hosts(LAYOUTS['one host'])
  assert TrainRows(data, mesh, N).note is None


def by_seed(step, shard=0, n_shards=1):
  """A shard of random rows, whose seed is the number of the shard."""
  x = np.random.default_rng([step, shard]).integers(9, size=(N // n_shards, 3))
  return {'inputs': x}


@pytest.mark.parametrize(
  ('train_batch', 'message'),
  [
    (lambda *_: {'inputs': np.zeros((5, 3))}, 'returns 5 rows instead of 6'),
    (by_seed, r'train_batch\(0, 1, 2\) .* is not train_batch\(0, 6, 12\)'),
  ],
)
def test_shards_that_are_not_parts_of_a_batch(train_batch, message):
  data = types.SimpleNamespace(train_batch=train_batch, batch_size=N)
  with pytest.raises(ValueError, match=message):
    TrainRows(data, Mesh(LAYOUTS['two hosts'], 1), N)
