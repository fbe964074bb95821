"""The integer hash, with pinned values."""

import numpy as np

from trax_hier.data.hashing import hash64


def test_hash_is_pinned():
  assert hash64(1, 2).tolist() == [9550467469912592448]
  assert hash64(0, 1, np.arange(3)).tolist() == [
    4601426282380248549,
    7383581503616084783,
    15724360586833778554,
  ]


def test_hash_depends_on_the_order_of_its_arguments():
  assert hash64(1, 2) != hash64(2, 1)
