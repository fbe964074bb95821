"""Windows of token arrays: coverage, offsets and pinned values."""

import numpy as np
import pytest

from trax_hier.data.batching.windows import EvalWindows, TrainWindows


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


def test_window_edges_do_not_move_on_request():
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


def test_a_stride_leaves_context():
  tokens, weights = EvalWindows(np.arange(30), 8, 2).rows(np.arange(12))
  assert weights[0].tolist() == [1] * 8
  assert (weights[1:, :6] == 0).all()
  assert (weights[1:, 6:] == 1).all()
  assert (tokens == 2 * np.arange(12)[:, None] + np.arange(8)).all()
