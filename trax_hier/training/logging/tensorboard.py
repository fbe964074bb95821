"""TensorBoard event files, written in the thread of the caller.

An error such as a full disk is thus raised by the call that causes it.
"""

import textwrap
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from trax_hier.training.logging.sink import Sink

_FLUSH_SECONDS = 10.0


class TensorBoard(Sink):
  """Writes an event file; a resumed run adds another one."""

  def __init__(self, directory: Path, last_step: int):
    """Creates the file.

    Args:
      directory: Folder of the run.
      last_step: TensorBoard hides later steps of earlier files.

    Raises:
      OSError: if the file cannot be written.
    """
    # tensorboardX names files by the second; a run may resume sooner.
    self._file = EventsWriter(
      str(directory / 'events'), f'.{time.time_ns() % 10**9:09}'
    )
    start = SessionLog(status=SessionLog.START)
    self._write(last_step + 1, session_log=start)
    self.flush()

  def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
    """Adds `kind/name` for each value."""
    # One event for all values takes the least time.
    merged = Summary()
    for name, value in values.items():
      merged.MergeFrom(summary.scalar(f'{kind}/{name}', value))
    self._write(step, summary=merged)
    if time.monotonic() - self._flushed > _FLUSH_SECONDS:
      self.flush()

  def histogram(
    self, tag: str, step: int, counts: np.ndarray, edges: np.ndarray
  ) -> None:
    """Adds counts (n,) between ascending edges (n + 1,)."""
    middles = (edges[:-1] + edges[1:]) / 2
    self._write(
      step,
      summary=summary.histogram_raw(
        tag,
        min=edges[0],
        max=edges[-1],
        num=counts.sum(),
        sum=counts @ middles,
        sum_squares=counts @ middles**2,
        bucket_limits=edges[1:],
        bucket_counts=counts,
      ),
    )

  def text(self, tag: str, step: int, text: str) -> None:
    """Adds a text, shown verbatim."""
    # TensorBoard renders Markdown, where an indented block is verbatim.
    verbatim = textwrap.indent(text, '    ', lambda line: True)
    self._write(step, summary=summary.text(tag, verbatim))

  def flush(self) -> None:
    """Writes everything to disk."""
    self._file.flush()
    self._flushed = time.monotonic()

  def close(self) -> None:
    """Flushes and closes the file."""
    self._file.close()

  def _write(self, step, **content):
    event = Event(wall_time=time.time(), step=step, **content)
    self._file.write_event(event)
