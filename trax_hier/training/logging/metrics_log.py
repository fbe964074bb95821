"""A run's numbers: metrics.jsonl, TensorBoard, and W&B if wanted."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trax_hier.training.logging.tensorboard import TensorBoard
from trax_hier.training.logging.weights_and_biases import WeightsAndBiases


class MetricsLog:
  """Hands metrics to `metrics.jsonl`, to an event file, and to W&B.

  A line of `metrics.jsonl` is `{"kind": "train" | "valid" | "look", "step": n,
  name: value, ...}`, which elsewhere are values called `kind/name`. Each line
  is handed to the operating system as it is written, so that a killed process
  loses none of it.

  Methods raise OSError as soon as something cannot be written.
  """

  def __init__(
    self,
    directory: str | Path,
    last_step: int,
    speaks: bool = True,
    wandb: str | None = None,
  ):
    """Opens the log, dropping what a killed run wrote past `last_step`.

    Args:
      directory: the folder of the run.
      last_step: the last step whose metrics are kept.
      speaks: whether anything is written at all.
      wandb: the project at W&B; None: nothing goes there.
    """
    self._stack = contextlib.ExitStack()
    self._sinks = []
    self._directory = directory
    if not speaks:
      return
    directory = Path(directory)
    with contextlib.ExitStack() as stack:
      for make, *arguments in (
        (_JsonLines, directory / 'metrics.jsonl', last_step),
        (TensorBoard, directory, last_step),
        *([(WeightsAndBiases, directory, wandb)] if wandb else []),
      ):
        sink = stack.enter_context(contextlib.closing(make(*arguments)))
        self._sinks.append(sink)
      self._stack = stack.pop_all()

  def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
    """Adds values of one step."""
    values = {name: float(value) for name, value in values.items()}
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
    """Adds counts (n,) of what lies between edges (n + 1,); not in the lines.

    Args:
      kind: as in `write`.
      step: the number of the step.
      name: of what is counted.
      counts: how many, (n,).
      edges: ascending, (n + 1,).
    """
    with self._writing():
      for sink in self._sinks:
        sink.histogram(kind, step, name, counts, edges)

  def text(self, kind: str, step: int, name: str, text: str) -> None:
    """Adds a text; not in the lines."""
    with self._writing():
      for sink in self._sinks:
        sink.text(kind, step, name, text)

  def flush(self) -> None:
    """Puts on the disk what was written: no crash can take it back."""
    with self._writing():
      for sink in self._sinks:
        sink.flush()

  def close(self) -> None:
    """Flushes and closes everything."""
    with self._writing():
      self._stack.close()

  @contextlib.contextmanager
  def _writing(self):
    """Says where something cannot be written."""
    try:
      yield
    except OSError as error:
      what = f'cannot write to {self._directory}: {error.strerror or error}'
      raise OSError(error.errno, what) from error


class _JsonLines:
  """The sink `metrics.jsonl`, of numbers alone."""

  def __init__(self, path, last_step):
    _truncate(path, last_step)
    self._file = path.open('a', buffering=1)

  def scalars(self, kind, step, values):
    line = json.dumps({'kind': kind, 'step': step, **values})
    self._file.write(line + '\n')

  def histogram(self, kind, step, name, counts, edges):
    pass

  def text(self, kind, step, name, text):
    pass

  def flush(self):
    os.fsync(self._file.fileno())

  def close(self):
    self._file.close()


def read_metrics(directory: str | Path) -> list[dict[str, object]]:
  """The lines of a run's `metrics.jsonl`; a last line cut short is left out."""
  path = Path(directory) / 'metrics.jsonl'
  lines = path.read_text().splitlines() if path.exists() else []
  metrics = []
  for line in lines:
    try:
      metrics.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return metrics


def _truncate(path, last_step):
  if not path.exists():
    return
  kept = [m for m in read_metrics(path.parent) if m['step'] <= last_step]
  temporary = path.with_suffix('.tmp')
  temporary.write_text(''.join(json.dumps(m) + '\n' for m in kept))
  os.replace(temporary, path)
