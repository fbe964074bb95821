"""`metrics.jsonl`: the metrics of a run, one JSON object per line."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from trax_hier.training.logging.sink import Sink

_FILE = 'metrics.jsonl'
# Kinds in files of earlier versions, and their present names.
_RENAMED = {'look': 'probe'}


class JsonLines(Sink):
  """Writes lines `{"kind": "train", "step": n, name: value, ...}`.

  Each line is passed to the operating system at once, so a killed process loses
  no line.
  """

  def __init__(self, directory: Path, last_step: int):
    """Opens the file.

    Args:
      directory: Folder of the run.
      last_step: Last step whose lines are kept; later ones are deleted.

    Raises:
      OSError: if the file cannot be written.
    """
    path = directory / _FILE
    _truncate(path, last_step)
    self._file = path.open('a', buffering=1)

  def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
    """Adds a line."""
    line = json.dumps({'kind': kind, 'step': step, **values})
    self._file.write(line + '\n')

  def flush(self) -> None:
    """Writes everything to disk."""
    os.fsync(self._file.fileno())

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def read_metrics(directory: str | Path) -> list[dict[str, object]]:
  """The lines of a run's `metrics.jsonl`, without a truncated last line."""
  path = Path(directory) / _FILE
  lines = path.read_text().splitlines() if path.exists() else []
  metrics = []
  for line in lines:
    try:
      values = json.loads(line)
    except json.JSONDecodeError:
      break
    if values.get('kind') in _RENAMED:
      values['kind'] = _RENAMED[values['kind']]
    metrics.append(values)
  return metrics


def _truncate(path, last_step):
  if not path.exists():
    return
  kept = [m for m in read_metrics(path.parent) if m['step'] <= last_step]
  temporary = path.with_suffix('.tmp')
  temporary.write_text(''.join(json.dumps(m) + '\n' for m in kept))
  os.replace(temporary, path)
