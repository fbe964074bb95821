"""Lanes: rows that read long documents on from batch to batch.

The plan of who reads what is computed, never iterated to from outside: a run
that resumes at step s asks for batch s and gets what an uninterrupted run got.
"""

import bisect
import heapq
import itertools
import math
import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from trax_hier.data.batching.permutation import shuffled
from trax_hier.data.sources.documents import Documents


def epochs(n: int, seed: int) -> Iterator[int]:
  """Yields 0 .. n-1 without end, each epoch in an order of its own."""
  for start in itertools.count(step=n):
    yield from shuffled(np.arange(start, start + n), n, seed)[1].tolist()


class LaneSchedule:
  """Which document each lane reads at each step, and how far it is.

  A lane reads one document to its end, a segment a step, and then takes the
  next one of the order. Of lanes that are free at the same step, the first
  takes first.

  The plan is made up to the step that is asked for and kept: 16 bytes for each
  document that was ever taken. A look-up is a binary search.

  Example:
    >>> plan = LaneSchedule([3, 1, 2], n_lanes=2, order=range(3))
    >>> for lane in range(2):
    ...   print([plan.locate(step, lane) for step in range(4)])
    [(0, 0), (0, 1), (0, 2), None]
    [(1, 0), (2, 0), (2, 1), None]

  Source: the reader of Block-Recurrent Transformers (arXiv 2203.07852).
  """

  def __init__(
    self, n_segments: Sequence[int], n_lanes: int, order: Iterable[int]
  ):
    """Begins with all lanes free.

    Args:
      n_segments: of each document, 1 or more.
      n_lanes: how many documents are read side by side.
      order: document numbers, in the order of being taken; may be endless.
    """
    self._n_segments = n_segments
    self._order = iter(order)
    self._free = [(0, lane) for lane in range(n_lanes)]  # A heap.
    self._begins = [array('q') for _ in range(n_lanes)]
    self._documents = [array('q') for _ in range(n_lanes)]
    # Batches are pure functions of their number, so threads may fetch them.
    self._lock = threading.Lock()

  def locate(self, step: int, lane: int) -> tuple[int, int] | None:
    """Returns `(document, segment)`; None where a lane has run out."""
    with self._lock:
      self._plan(step)
      i = bisect.bisect_right(self._begins[lane], step) - 1
      if i < 0:
        return None
      document = self._documents[lane][i]
      segment = step - self._begins[lane][i]
    return (document, segment) if segment < self._n_segments[document] else None

  def n_steps(self) -> int:
    """Steps until the last lane has run out; the order must have an end."""
    with self._lock:
      self._plan(math.inf)
      return max(step for step, _ in self._free)

  def _plan(self, step):
    """Gives out documents until all lanes are taken at `step`."""
    while self._free[0][0] <= step:
      document = next(self._order, None)
      if document is None:
        return
      begin, lane = self._free[0]
      self._begins[lane].append(begin)
      self._documents[lane].append(document)
      end = begin + self._n_segments[document]
      heapq.heapreplace(self._free, (end, lane))


class LaneRows:
  """Segments of documents; row r of batch s is what lane r reads at step s.

  The last segment of a document is padded with 0. Nothing else is: each
  document begins a segment of its own.
  """

  def __init__(
    self,
    documents: Documents,
    length: int,
    n_lanes: int,
    order: Iterable[int],
    predict_first: bool = False,
  ):
    """Plans the lanes.

    Args:
      documents: none of them empty.
      length: tokens in a segment.
      n_lanes: rows of a batch.
      order: document numbers, in the order of being read; may be endless.
      predict_first: whether the first token of a segment is scored.
    """
    self._documents = documents
    self._length = length
    self._n_lanes = n_lanes
    self._predict_first = predict_first
    n_segments = -(-(documents.ends - documents.begins) // length)
    self._schedule = LaneSchedule(n_segments.tolist(), n_lanes, order)

  def n_rows(self) -> int:
    """Rows until the last lane has run out; the order must have an end."""
    return self._schedule.n_steps() * self._n_lanes

  def rows(
    self, index: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns rows by number, batches end to end.

    Args:
      index: (b,) step * n_lanes + lane, 0 or more.

    Returns:
      (b, l) int32 tokens, padded with 0; (b, l) float32 weights, 1 where a
      token is scored, never where it is 0; (b,) bool, whether the row begins a
      document. A lane that has run out is all padding, and begins nothing.
    """
    tokens = np.zeros((len(index), self._length), np.int32)
    starts = np.zeros(len(index), np.bool_)
    for row, i in enumerate(index.tolist()):
      place = self._schedule.locate(*divmod(i, self._n_lanes))
      if place is not None:
        document, segment = place
        begin = self._documents.begins[document] + segment * self._length
        end = min(begin + self._length, self._documents.ends[document])
        tokens[row, : end - begin] = self._documents.tokens[begin:end]
        starts[row] = segment == 0
    weights = (tokens != 0).astype(np.float32)
    if not self._predict_first:
      weights[:, 0] = 0
    return tokens, weights, starts
