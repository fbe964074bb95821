"""`metrics.jsonl`: the metrics of a run, one JSON object per line."""

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from trax_hier.environment import expand_home
from trax_hier.training.logging.not_finite import json_text
from trax_hier.training.logging.sink import Sink

_FILE = 'metrics.jsonl'
# Kinds in files of earlier versions, and their present names.
_RENAMED = {'look': 'probe'}


class JsonLines(Sink):
  """Writes lines `{"kind": "train", "step": n, name: value, ...}`.

  A number that is infinite or not a number is written as null. Each line is
  passed to the operating system at once, so a killed process loses no line.
  """

  def __init__(self, directory: Path, last_step: int):
    """Opens the file.

    Args:
      directory: Folder of the run.
      last_step: Last step whose lines are kept; later ones are deleted. Lines
        that `read_metrics` skips are kept.

    Raises:
      OSError: if the file cannot be written.
    """
    path = directory / _FILE
    _truncate(path, last_step)
    self._file = path.open('a', buffering=1, encoding='utf-8')

  def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
    """Adds a line."""
    line = json_text({'kind': kind, 'step': step, **values})
    self._file.write(line + '\n')

  def flush(self) -> None:
    """Writes everything to disk."""
    os.fsync(self._file.fileno())

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def print_to_stderr(line: str) -> None:
  """Prints a line on standard error."""
  print(line, file=sys.stderr)


def read_metrics(
  directory: str | Path, say: Callable[[str], None] = print_to_stderr
) -> list[dict[str, object]]:
  """The lines of a run's `metrics.jsonl`, in file order; null becomes NaN.

  Lines that are not metrics are skipped. They are counted, except for the last
  line if it is incomplete, as it is while the run writes it.

  Args:
    directory: Folder of the run; a folder without the file has no lines.
    say: Called at most once, with a line that counts the skipped lines.

  Raises:
    OSError: if the file cannot be read.
    ValueError: if `directory` is a URL.
  """
  path = expand_home(directory) / _FILE
  lines = _lines(path)
  bad = [i for i, (_, metrics) in enumerate(lines, 1) if metrics is None]
  if bad:
    say(
      f'{path}: {len(bad)} of {len(lines)} lines are not metrics and are '
      f'skipped, the first is line {bad[0]}'
    )
  return [metrics for _, metrics in lines if metrics is not None]


def _lines(path):
  """(line, metrics or None) of each complete line of the file."""
  *complete, last = path.read_bytes().split(b'\n') if path.exists() else [b'']
  lines = [(line, _parse(line)) for line in complete]
  metrics = _parse(last)
  return lines if metrics is None else [*lines, (last, metrics)]


def _parse(line):
  """The metrics in a line; None if it is damaged or something else."""
  try:
    values = json.loads(line.decode())
  except (ValueError, RecursionError):
    return None
  if not isinstance(values, dict) or not isinstance(values.get('kind'), str):
    return None
  if type(values.get('step')) is not int or values['step'] < 0:
    return None
  kind = values.pop('kind')
  numbers = {k: math.nan if x is None else x for k, x in values.items()}
  if not all(type(x) in (int, float) for x in numbers.values()):
    return None
  return {'kind': _RENAMED.get(kind, kind), **numbers}


def _truncate(path, last_step):
  """Deletes the lines of later steps, and an incomplete last line."""
  kept = b''.join(
    line + b'\n'
    for line, metrics in _lines(path)
    if metrics is None or metrics['step'] <= last_step
  )
  if not path.exists() or kept == path.read_bytes():
    return
  temporary = path.with_suffix('.tmp')
  temporary.write_bytes(kept)
  os.replace(temporary, path)
