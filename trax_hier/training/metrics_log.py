"""A run's numbers on disk: metrics.jsonl and TensorBoard event files."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import tensorboardX


class MetricsLog:
  """Appends metrics to `metrics.jsonl` and to event files, in one folder.

  A line is `{"kind": "train" | "valid", "step": n, name: value, ...}`. Each is
  handed to the operating system as it is written, so that a killed process
  loses none of it.
  """

  def __init__(
    self, directory: str | Path, last_step: int, writes: bool = True
  ):
    """Opens the log, dropping what a killed run wrote past `last_step`.

    Args:
      directory: the folder of the run.
      last_step: the last step whose metrics are kept.
      writes: whether anything is written at all.
    """
    self._writes = writes
    if not writes:
      return
    path = Path(directory) / 'metrics.jsonl'
    _truncate(path, last_step)
    self._file = path.open('a', buffering=1)
    self._events = tensorboardX.SummaryWriter(
      str(directory), purge_step=last_step + 1 if last_step else None
    )

  def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
    """Adds one line, and one TensorBoard scalar `kind/name` per value."""
    if not self._writes:
      return
    values = {name: float(value) for name, value in values.items()}
    line = json.dumps({'kind': kind, 'step': step, **values})
    self._file.write(line + '\n')
    for name, value in values.items():
      self._events.add_scalar(f'{kind}/{name}', value, step)

  def close(self) -> None:
    """Flushes and closes the files."""
    if not self._writes:
      return
    self._file.close()
    self._events.close()


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
