"""Keyed permutations: one to one, well mixed, with pinned values."""

import numpy as np
import pytest

from trax_hier.data.batching.permutation import permute, shuffled
from trax_hier.data.hashing import hash64


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


def test_permutation_is_well_mixed():
  """Neighbors are separated, and the orders of two keys are unrelated."""
  n = 10_000
  index = np.arange(n)
  a, b = permute(index, n, hash64(0)), permute(index, n, hash64(1))
  assert abs(np.corrcoef(index, a)[0, 1]) < 0.05
  assert abs(np.corrcoef(a, b)[0, 1]) < 0.05
  assert np.mean(np.abs(np.diff(a)) == 1) < 0.005


def test_stream_contains_each_item_once_an_epoch():
  epoch, item = shuffled(np.arange(21), 7, seed=3)
  assert epoch.tolist() == [0] * 7 + [1] * 7 + [2] * 7
  orders = item.reshape(3, 7)
  assert (np.sort(orders) == np.arange(7)).all()
  assert len({tuple(order) for order in orders}) == 3
