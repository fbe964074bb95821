"""Documents cut into rows."""

import numpy as np

from trax_hier.data.batching.documents import DocumentRows, Documents


def test_rows_hold_one_document_each():
  tokens = np.arange(1, 18)
  ends = np.array([9, 9, 12, 16, 17])
  rows = DocumentRows(Documents.adjacent(tokens, ends), 4)
  assert rows.n_rows == 6
  out, weights = rows.rows(np.arange(7))
  assert out.tolist() == [
    [1, 2, 3, 4],
    [5, 6, 7, 8],
    [9, 0, 0, 0],
    [10, 11, 12, 0],
    [13, 14, 15, 16],
    [17, 0, 0, 0],
    [0, 0, 0, 0],
  ]
  np.testing.assert_array_equal(weights, out > 0)
