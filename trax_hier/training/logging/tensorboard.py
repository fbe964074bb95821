"""TensorBoard event files, written by whoever calls, at once.

No thread stands between, so what fails, such as a full disk, is raised here.
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

_FLUSH_SECONDS = 10.0


class TensorBoard:
  """A sink of `MetricsLog`: one event file."""

  def __init__(self, directory: Path, last_step: int):
    """Makes the file.

    Args:
      directory: the folder of the run.
      last_step: what earlier files hold of later steps is no longer shown.

    Raises:
      OSError: as by all methods, if it cannot be written.
    """
    # The name has whole seconds, within which a run may be resumed.
    self._file = EventsWriter(
      str(directory / 'events'), f'.{time.time_ns() % 10**9:09}'
    )
    start = SessionLog(status=SessionLog.START)
    self._write(last_step + 1, session_log=start)
    self.flush()

  def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
    """Adds `kind/name` for each value."""
    # As one event, which costs least.
    together = Summary()
    for name, value in values.items():
      together.MergeFrom(summary.scalar(f'{kind}/{name}', value))
    self._write(step, summary=together)
    if time.monotonic() - self._flushed > _FLUSH_SECONDS:
      self.flush()

  def histogram(
    self,
    kind: str,
    step: int,
    name: str,
    counts: np.ndarray,
    edges: np.ndarray,
  ) -> None:
    """Adds counts (n,) of what lies between edges (n + 1,)."""
    middles = (edges[:-1] + edges[1:]) / 2
    self._write(
      step,
      summary=summary.histogram_raw(
        f'{kind}/{name}',
        min=edges[0],
        max=edges[-1],
        num=counts.sum(),
        sum=counts @ middles,
        sum_squares=counts @ middles**2,
        bucket_limits=edges[1:],
        bucket_counts=counts,
      ),
    )

  def text(self, kind: str, step: int, name: str, text: str) -> None:
    """Adds a text, shown as it is."""
    # What is indented, Markdown leaves alone.
    shown = textwrap.indent(text, '    ', lambda line: True)
    self._write(step, summary=summary.text(f'{kind}/{name}', shown))

  def flush(self) -> None:
    """Puts on the disk what was added."""
    self._file.flush()
    self._flushed = time.monotonic()

  def close(self) -> None:
    """Flushes and closes the file."""
    self._file.close()

  def _write(self, step, **what):
    self._file.write_event(Event(wall_time=time.time(), step=step, **what))
