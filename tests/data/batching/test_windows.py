"""The shuffle and the windows: pinned, index-addressed, whole."""

import numpy as np
import pytest

from trax_hier.data.batching.permutation import permute, shuffled
from trax_hier.data.batching.windows import (
  EvalBatches,
  EvalWindows,
  TrainWindows,
  example_indices,
)
from trax_hier.data.hashing import hash64


def test_hash_is_pinned():
  assert hash64(1, 2).tolist() == [9550467469912592448]
  assert hash64(0, 1, np.arange(3)).tolist() == [
    4601426282380248549,
    7383581503616084783,
    15724360586833778554,
  ]


def test_hash_depends_on_the_order_of_words():
  assert hash64(1, 2) != hash64(2, 1)


@pytest.mark.parametrize('n', [1, 2, 3, 4, 5, 31, 32, 33, 1000])
def test_permutation_is_one_to_one(n):
  for key in range(5):
    out = permute(np.arange(n), n, hash64(key))
    assert sorted(out) == list(range(n))


def test_permutation_is_pinned():
  order = permute(np.arange(10), 10, hash64(7))
  assert order.tolist() == [6, 7, 9, 2, 8, 1, 5, 4, 3, 0]


def test_permutation_takes_a_key_per_index():
  index = np.arange(100)
  keys = hash64(index)
  alone = [permute(index[i : i + 1], 100, keys[i : i + 1]) for i in index]
  np.testing.assert_array_equal(
    permute(index, 100, keys), np.concatenate(alone)
  )


def test_permutation_spreads():
  """Neighbours are torn apart, and keys give unrelated orders."""
  n = 10_000
  index = np.arange(n)
  a, b = permute(index, n, hash64(0)), permute(index, n, hash64(1))
  assert abs(np.corrcoef(index, a)[0, 1]) < 0.05
  assert abs(np.corrcoef(a, b)[0, 1]) < 0.05
  assert np.mean(np.abs(np.diff(a)) == 1) < 0.005


def test_stream_holds_each_item_once_an_epoch():
  epoch, item = shuffled(np.arange(21), 7, seed=3)
  assert epoch.tolist() == [0] * 7 + [1] * 7 + [2] * 7
  orders = item.reshape(3, 7)
  assert (np.sort(orders) == np.arange(7)).all()
  assert len({tuple(order) for order in orders}) == 3


def test_an_epoch_tiles_the_array():
  tokens = np.arange(1000)
  windows = TrainWindows(tokens, 16, seed=0)
  n = windows.n_windows
  rows = windows.rows(np.arange(n))[0]
  covered = np.sort(rows.ravel())
  assert (np.diff(covered) == 1).all()
  assert len(covered) > 1000 - 2 * 16
  assert (np.diff(rows) == 1).all()
  assert rows.dtype == np.int32


def test_window_edges_move_over_all_alignments():
  windows = TrainWindows(np.arange(100), 8, seed=0)
  index = np.arange(windows.n_windows * 200)
  assert set(windows.rows(index)[0][:, 0] % 8) == set(range(8))


def test_window_edges_stay_when_asked():
  windows = TrainWindows(np.arange(40), 8, seed=0, move_edges=False)
  assert windows.n_windows == 5
  assert sorted(windows.rows(np.arange(5))[0][:, 0]) == [0, 8, 16, 24, 32]
  assert set(windows.rows(np.arange(100))[0][:, 0]) == {0, 8, 16, 24, 32}


@pytest.mark.parametrize('n', [8, 9, 15, 16])
def test_shortest_arrays(n):
  rows, weights = TrainWindows(np.arange(n), 8, seed=0).rows(np.arange(200))
  assert (weights == 1).all()
  assert (np.diff(rows) == 1).all()
  assert rows.min() == 0
  assert rows.max() == n - 1


def test_windows_are_pinned():
  windows = TrainWindows(np.arange(100), 4, seed=5)
  rows, _ = windows.rows(np.array([0, 1, 30, 99]))
  assert rows[:, 0].tolist() == [58, 22, 8, 91]


def test_seeds_differ():
  index = np.arange(20)
  a, b = (
    TrainWindows(np.arange(999), 4, seed).rows(index)[0] for seed in (0, 1)
  )
  assert (a != b).any()


def test_shards_make_the_global_batch():
  whole = example_indices('T', 5, 12, 0, 1)
  for n in (1, 2, 3, 4, 6, 12):
    parts = [example_indices('T', 5, 12, shard, n) for shard in range(n)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
  assert whole.tolist() == list(range(60, 72))


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((0, 8, 0, 3), r'T\.batch_size = 8: must be divisible by the 3 shards'),
    ((0, 8, 2, 2), r'shard = 2 of n_shards = 2'),
    ((0, 8, -1, 2), r'shard = -1'),
    ((0, 8, 0, 0), r'n_shards = 0'),
    ((-1, 8, 0, 1), r'step = -1'),
  ],
)
def test_bad_shards_and_steps(arguments, message):
  with pytest.raises(ValueError, match=message):
    example_indices('T', *arguments)


def _scored(tokens, length, stride, batch_size):
  """All scored tokens, in order, and the number of batches."""
  windows = EvalWindows(tokens, length, stride)
  batches = EvalBatches(windows.rows, windows.n_windows, batch_size)
  scored = []
  for batch in batches:
    assert batch['inputs'].shape == (batch_size, length)
    assert batch['inputs'].dtype == np.int32
    assert batch['weights'].dtype == np.float32
    scored.append(batch['targets'][batch['weights'] == 1])
  return np.concatenate(scored), len(batches)


@pytest.mark.parametrize('n', [1, 7, 8, 9, 16, 24, 25, 63, 64, 65])
@pytest.mark.parametrize('stride', [1, 3, 8])
@pytest.mark.parametrize('batch_size', [1, 3])
def test_evaluation_scores_each_token_once(n, stride, batch_size):
  tokens = np.arange(1, n + 1)
  scored, _ = _scored(tokens, 8, stride, batch_size)
  np.testing.assert_array_equal(scored, tokens)


def test_a_stride_leaves_context():
  tokens, weights = EvalWindows(np.arange(30), 8, 2).rows(np.arange(12))
  assert weights[0].tolist() == [1] * 8
  assert (weights[1:, :6] == 0).all()
  assert (weights[1:, 6:] == 1).all()
  assert (tokens == 2 * np.arange(12)[:, None] + np.arange(8)).all()


def test_evaluation_batches_are_a_sequence():
  windows = EvalWindows(np.arange(64), 8, 8)
  batches = EvalBatches(windows.rows, windows.n_windows, 3)
  assert len(batches) == 3
  np.testing.assert_array_equal(batches[-1]['inputs'], batches[2]['inputs'])
  assert batches[2]['weights'][2].sum() == 0
  assert len(list(batches)) == 3
  for i in (3, -4):
    with pytest.raises(IndexError):
      batches[i]
