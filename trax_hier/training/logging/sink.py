"""The interface of a log destination, such as a file or a service."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np


class Sink(Protocol):
  """A destination of metrics, histograms and texts.

  To add one, write a subclass in a new module of this package and open it in
  `MetricsLog`. Override the methods for entries that the destination can show;
  the inherited ones ignore their entries.

  Methods raise OSError as soon as something cannot be written.
  """

  def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
    """Adds numbers of one step.

    Args:
      kind: Source of the numbers: 'train', 'valid' or 'probe'.
      step: Number of the step.
      values: Numbers by name.
    """

  def histogram(
    self, tag: str, step: int, counts: np.ndarray, edges: np.ndarray
  ) -> None:
    """Adds a histogram.

    Args:
      tag: Name, `kind/name`.
      step: Number of the step.
      counts: Number of values in each bin, (n,).
      edges: Ascending edges of the bins, (n + 1,).
    """

  def text(self, tag: str, step: int, text: str) -> None:
    """Adds a text that is shown verbatim.

    Args:
      tag: Name, `kind/name`.
      step: Number of the step.
      text: Text of any length.
    """

  def flush(self) -> None:
    """Writes everything to disk, where a crash cannot lose it."""

  def close(self) -> None:
    """Flushes and closes the sink."""
