"""Documents packed into rows."""

import numpy as np
import pytest

from trax_hier.data.batching.documents import Documents
from trax_hier.data.batching.packed_rows import PackedRows

CASES = {
  'none': [],
  'empty ones': [0, 3, 0, 0, 5],
  'one of each size': range(1, 13),
  'all of one size': [5] * 11,
  'long ones': [12, 13, 25, 36, 1, 11, 12],
  'random': np.random.default_rng(0).integers(0, 40, 200),
}


@pytest.mark.parametrize('multiple', [1, 4])
@pytest.mark.parametrize('case', CASES)
def test_each_token_is_in_one_row_once_and_in_order(case, multiple):
  ends = np.cumsum(CASES[case], dtype=np.int64)
  n = int(ends[-1]) if len(ends) else 0
  # Tokens are numbers from 1, so each shows its document and its place.
  documents = Documents.adjacent(np.arange(1, n + 1), ends)
  packed = PackedRows(documents, length=12, multiple=multiple)
  tokens, weights, ids = packed.rows(np.arange(packed.n_rows + 1))
  assert not tokens[-1].any() and not weights[-1].any() and not ids[-1].any()
  scored = weights > 0
  np.testing.assert_array_equal(np.sort(tokens[scored]), np.arange(1, n + 1))
  assert not tokens[~scored].any()
  n_pieces = 0
  for row, numbers in zip(tokens, ids, strict=True):
    last = numbers.max()
    for number in range(1, last + 1):
      (at,) = np.nonzero(numbers == number)
      assert at[0] % multiple == 0 and len(at) % multiple == 0
      assert (np.diff(at) == 1).all()
      piece = np.trim_zeros(row[at], 'b')
      assert (np.diff(piece) == 1).all()
      assert len(at) - len(piece) < multiple
      # All of one document, of which only the last piece is not a whole row.
      document = np.searchsorted(ends, piece - 1, side='right')
      assert (document == document[0]).all()
      assert len(piece) == 12 or piece[-1] == ends[document[0]]
    assert (np.diff(numbers[numbers > 0]) >= 0).all()
    assert not numbers[np.count_nonzero(numbers) :].any()
    n_pieces += last
  assert n_pieces == packed.n_pieces


def test_rows_are_full():
  sizes = np.random.default_rng(1).lognormal(4, 1, 3000).astype(int) + 1
  ends = np.cumsum(sizes)
  packed = PackedRows(
    Documents.adjacent(np.zeros(ends[-1]), ends), length=512, multiple=1
  )
  assert packed.n_rows <= 1.01 * ends[-1] / 512 + 1
