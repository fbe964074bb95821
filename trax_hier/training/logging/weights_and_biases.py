"""A run's numbers at Weights & Biases; an extra: `trax_hier[wandb]`."""

import html
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trax_hier import config

_ID_FILE = 'wandb_id.txt'


def check_wandb(project: str | None) -> None:
  """Checks `train.wandb`.

  Raises:
    ValueError: if it is no name, or if wandb is not installed.
  """
  if project is None:
    return
  if not isinstance(project, str) or not project:
    raise ValueError(
      f'train.wandb must be None or the name of a project, got {project!r}'
    )
  try:
    import wandb  # noqa: F401
  except ImportError as error:
    raise ValueError(
      f'train.wandb = {project!r} needs the package wandb: '
      "pip install 'trax_hier[wandb]', or bind None"
    ) from error


class WeightsAndBiases:
  """A sink of `MetricsLog`: one run there, the same when it is resumed."""

  def __init__(self, directory: Path, project: str):
    """Begins the run, or goes on with it.

    Args:
      directory: the folder of the run, which gives it its name and keeps its
        id.
      project: the project that it belongs to.

    Raises:
      OSError: if W&B cannot be reached or does not know the user.
    """
    import wandb

    self._wandb = wandb
    file = directory / _ID_FILE
    id_ = file.read_text().strip() if file.is_file() else None
    try:
      self._run = wandb.init(
        project=project,
        id=id_,
        name=directory.name,
        dir=str(directory),
        config={'gin': config.operative_text()},
        resume='allow',
      )
    except wandb.Error as error:
      raise OSError(f'train.wandb = {project!r}: {error}') from error
    file.write_text(self._run.id + '\n')

  def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
    """Adds `kind/name` for each value."""
    self._log(step, {f'{kind}/{name}': x for name, x in values.items()})

  def histogram(
    self,
    kind: str,
    step: int,
    name: str,
    counts: np.ndarray,
    edges: np.ndarray,
  ) -> None:
    """Adds counts (n,) of what lies between edges (n + 1,)."""
    histogram = self._wandb.Histogram(np_histogram=(counts, edges))
    self._log(step, {f'{kind}/{name}': histogram})

  def text(self, kind: str, step: int, name: str, text: str) -> None:
    """Adds a text, shown as it is."""
    shown = self._wandb.Html(f'<pre>{html.escape(text)}</pre>')
    self._log(step, {f'{kind}/{name}': shown})

  def flush(self) -> None:
    """Does nothing: a process of its own sends what was added."""

  def close(self) -> None:
    """Waits until everything is sent."""
    self._run.finish()

  def _log(self, step, values):
    self._run.log(values, step=step)
