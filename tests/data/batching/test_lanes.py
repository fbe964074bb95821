"""Lanes: the schedule of documents, and the rows they read."""

import numpy as np

from trax_hier.data.batching.documents import Documents
from trax_hier.data.batching.lanes import LaneRows, LaneSchedule, epochs


def _documents(lengths):
  """Documents of the given lengths, with tokens 101, 102, … and 201, 202, …"""
  tokens = [
    100 * i + j for i, n in enumerate(lengths, start=1) for j in range(1, n + 1)
  ]
  return Documents.adjacent(np.array(tokens), np.cumsum(lengths))


def test_the_published_example():
  """Lengths 10, 3, 9 and 4, in that order, in segments of 4 on two lanes."""
  rows = LaneRows(_documents((10, 3, 9, 4)), 4, 2, range(4))
  assert rows.n_rows() == 8
  tokens, weights, starts = rows.rows(np.arange(10))
  assert tokens.tolist() == [
    [101, 102, 103, 104],
    [201, 202, 203, 0],
    [105, 106, 107, 108],
    [301, 302, 303, 304],
    [109, 110, 0, 0],
    [305, 306, 307, 308],
    [401, 402, 403, 404],
    [309, 0, 0, 0],
    [0, 0, 0, 0],
    [0, 0, 0, 0],
  ]
  assert np.flatnonzero(starts).tolist() == [0, 1, 3, 6]
  # The paper masks positions that predict the next token.
  assert not weights[:, 0].any()
  assert weights[:8, 1:].tolist() == [
    [1, 1, 1],
    [1, 1, 0],
    [1, 1, 1],
    [1, 1, 1],
    [1, 0, 0],
    [1, 1, 1],
    [1, 1, 1],
    [0, 0, 0],
  ]
  assert not weights[8:].any()


def test_first_tokens_are_scored_on_request():
  documents = _documents((10, 3, 9, 4))
  rows = LaneRows(documents, 4, 2, range(4), predict_first=True)
  tokens, weights, _ = rows.rows(np.arange(10))
  np.testing.assert_array_equal(weights, tokens > 0)
  assert weights.dtype == np.float32


def test_first_free_lane_takes_the_next_document():
  schedule = LaneSchedule((2, 1, 1, 3), 3, (3, 0, 1, 2, 1))
  places = [
    [schedule.locate(step, lane) for step in range(5)] for lane in range(3)
  ]
  assert places == [
    [(3, 0), (3, 1), (3, 2), None, None],
    [(0, 0), (0, 1), (1, 0), None, None],
    [(1, 0), (2, 0), None, None, None],
  ]
  assert schedule.n_steps() == 3


def test_lookups_in_any_order_agree():
  n_segments = np.random.default_rng(0).integers(1, 9, 20).tolist()
  in_order = LaneSchedule(n_segments, 5, epochs(20, seed=3))
  jumped = LaneSchedule(n_segments, 5, epochs(20, seed=3))
  jumped.locate(1000, 0)
  places = [(step, lane) for step in range(200) for lane in range(5)]
  expected = [in_order.locate(*place) for place in places]
  assert [jumped.locate(*place) for place in places] == expected
  # Lanes are never idle.
  assert None not in expected


def test_schedule_is_computed_only_as_far_as_requested():
  taken = []

  def order():
    for document in epochs(4, seed=0):
      taken.append(document)
      yield document

  schedule = LaneSchedule((10, 10, 10, 10), 2, order())
  schedule.locate(9, 0)
  assert len(taken) == 2
  schedule.locate(10, 0)
  assert len(taken) == 4


def test_epochs_are_pinned():
  order = epochs(5, seed=7)
  assert [next(order) for _ in range(5)] == [4, 2, 1, 3, 0]
  assert [next(order) for _ in range(5)] == [2, 3, 4, 1, 0]
