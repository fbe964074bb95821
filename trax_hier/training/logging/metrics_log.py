"""The log of a run, which passes each entry to all sinks."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from trax_hier.training.logging.jsonl import JsonLines
from trax_hier.training.logging.not_finite import not_finite
from trax_hier.training.logging.sink import Sink
from trax_hier.training.logging.tensorboard import TensorBoard
from trax_hier.training.logging.weights_and_biases import WeightsAndBiases


class MetricsLog:
  """Logs to `metrics.jsonl`, TensorBoard and, optionally, W&B.

  An entry has a kind ('train', 'valid' or 'probe'), a step and a name;
  TensorBoard and W&B show it as `kind/name`.

  Methods raise OSError as soon as something cannot be written.
  """

  def __init__(
    self,
    directory: str | Path,
    last_step: int,
    enabled: bool = True,
    wandb: str | None = None,
    say: Callable[[str], None] = print,
  ):
    """Opens the log and drops the entries after `last_step` of a killed run.

    Args:
      directory: Folder of the run.
      last_step: Last step whose entries are kept.
      enabled: Whether anything is written at all.
      wandb: Project at W&B; None sends nothing.
      say: Prints a line for numbers that are infinite or not a number.
    """
    self._say = say if enabled else lambda line: None
    self._stack = contextlib.ExitStack()
    self._sinks: list[Sink] = []
    self._directory = directory
    if not enabled:
      return
    directory = Path(directory)
    with contextlib.ExitStack() as stack:
      for make, *arguments in (
        (JsonLines, directory, last_step),
        (TensorBoard, directory, last_step),
        *([(WeightsAndBiases, directory, wandb)] if wandb else []),
      ):
        sink = stack.enter_context(contextlib.closing(make(*arguments)))
        self._sinks.append(sink)
      self._stack = stack.pop_all()

  def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
    """Logs numbers of one step, given by name.

    Says which are not finite; `metrics.jsonl` has null for them.
    """
    values = {name: float(value) for name, value in values.items()}
    if text := not_finite(values):
      self._say(f'not finite in the {kind} metrics of step {step}: {text}')
    with self._writing():
      for sink in self._sinks:
        sink.scalars(kind, step, values)

  def histogram(
    self,
    kind: str,
    step: int,
    name: str,
    counts: np.ndarray,
    edges: np.ndarray,
  ) -> None:
    """Logs a histogram of counts (n,) between ascending edges (n + 1,)."""
    with self._writing():
      for sink in self._sinks:
        sink.histogram(f'{kind}/{name}', step, counts, edges)

  def text(self, kind: str, step: int, name: str, text: str) -> None:
    """Logs a text, shown verbatim."""
    with self._writing():
      for sink in self._sinks:
        sink.text(f'{kind}/{name}', step, text)

  def flush(self) -> None:
    """Writes everything to disk, where a crash cannot lose it."""
    with self._writing():
      for sink in self._sinks:
        sink.flush()

  def close(self) -> None:
    """Flushes and closes all sinks."""
    with self._writing():
      self._stack.close()

  @contextlib.contextmanager
  def _writing(self):
    """Adds the folder to the message of an OSError."""
    try:
      yield
    except OSError as error:
      message = f'cannot write to {self._directory}: {error.strerror or error}'
      raise OSError(error.errno, message) from error
