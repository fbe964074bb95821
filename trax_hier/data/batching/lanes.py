"""Lanes: batch rows that each read long documents across batches.

The schedule of the lanes is computed on demand: a run that resumes at step s
requests batch s and gets the same batch as an uninterrupted run.
"""

import bisect
import heapq
import itertools
import math
import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from trax_hier.data.batching.documents import Documents
from trax_hier.data.batching.permutation import shuffled


def epochs(n: int, seed: int) -> Iterator[int]:
  """Yields 0 .. n-1 in endless epochs, each in a different order."""
  for start in itertools.count(step=n):
    yield from shuffled(np.arange(start, start + n), n, seed)[1].tolist()


class LaneSchedule:
  """Schedule of the document and segment that each lane reads at each step.

  A lane reads a document to its end, one segment per step, and then takes the
  next document of the order. If several lanes are free at the same step, they
  take documents in the order of the lanes.

  The schedule is computed up to the requested step and kept, in 16 bytes per
  document taken so far. A lookup is a binary search.

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
      n_segments: Number of segments of each document, 1 or more.
      n_lanes: Number of documents that are read in parallel.
      order: Document numbers in the order of reading; may be endless.
    """
    self._n_segments = n_segments
    self._order = iter(order)
    # A heap of (step at which the lane is free, lane).
    self._free = [(0, lane) for lane in range(n_lanes)]
    self._begins = [array('q') for _ in range(n_lanes)]
    self._documents = [array('q') for _ in range(n_lanes)]
    # Several threads may request batches at the same time.
    self._lock = threading.Lock()

  def locate(self, step: int, lane: int) -> tuple[int, int] | None:
    """Returns `(document, segment)`; None after a lane's last document."""
    with self._lock:
      self._schedule_until(step)
      i = bisect.bisect_right(self._begins[lane], step) - 1
      if i < 0:
        return None
      document = self._documents[lane][i]
      segment = step - self._begins[lane][i]
    return (document, segment) if segment < self._n_segments[document] else None

  def n_steps(self) -> int:
    """Returns the steps until all lanes are done; the order must be finite."""
    with self._lock:
      self._schedule_until(math.inf)
      return max(step for step, _ in self._free)

  def _schedule_until(self, step):
    """Assigns documents until all lanes are busy at `step`."""
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
  """Segments of documents: row r of batch s is the segment of lane r at step s.

  A segment has tokens of one document only. The last segment of a document is
  padded with 0.

  Attributes:
    n_segments: Number of segments of all documents.
  """

  def __init__(
    self,
    documents: Documents,
    length: int,
    n_lanes: int,
    order: Iterable[int],
    predict_first: bool = False,
  ):
    """Schedules the lanes.

    Args:
      documents: Documents to read, none of them empty.
      length: Tokens in a segment.
      n_lanes: Rows of a batch.
      order: Document numbers in the order of reading; may be endless.
      predict_first: Whether the first token of a segment is scored.
    """
    self._documents = documents
    self._length = length
    self._n_lanes = n_lanes
    self._predict_first = predict_first
    n_segments = -(-(documents.ends - documents.begins) // length)
    self.n_segments = int(n_segments.sum())
    self._schedule = LaneSchedule(n_segments.tolist(), n_lanes, order)

  def n_rows(self) -> int:
    """Returns the rows until all lanes are done; the order must be finite."""
    return self._schedule.n_steps() * self._n_lanes

  def rows(
    self, index: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns rows by number, with the batches concatenated.

    Args:
      index: step * n_lanes + lane, from 0, (b,).

    Returns:
      Tokens, (b, l) int32, padded with 0; weights, (b, l) float32, 1 where a
      token is scored, which excludes id 0; and whether the row begins a
      document, (b,) bool. After its last document, a lane is all padding.
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
