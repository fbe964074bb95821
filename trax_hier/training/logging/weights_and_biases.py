"""Weights & Biases; needs the extra `trax_hier[wandb]`."""

import html
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trax_hier import config
from trax_hier.training.logging.sink import Sink

_ID_FILE = 'wandb_id.txt'


def check_wandb(project: str | None) -> None:
  """Checks `train.wandb`.

  Raises:
    ValueError: if it is neither None nor a name, or wandb is not installed.
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


class WeightsAndBiases(Sink):
  """Logs to one W&B run, which a resumed run continues."""

  def __init__(self, directory: Path, project: str):
    """Starts or continues the W&B run.

    Args:
      directory: Folder of the run; names the W&B run and stores its id.
      project: Project of the W&B run.

    Raises:
      OSError: if W&B cannot be reached or rejects the user.
    """
    import wandb

    self._wandb = wandb
    file = directory / _ID_FILE
    id_ = file.read_text('utf-8').strip() if file.is_file() else None
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
    file.write_text(self._run.id + '\n', 'utf-8')

  def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
    """Adds `kind/name` for each value."""
    self._log(step, {f'{kind}/{name}': x for name, x in values.items()})

  def histogram(
    self, tag: str, step: int, counts: np.ndarray, edges: np.ndarray
  ) -> None:
    """Adds counts (n,) between ascending edges (n + 1,)."""
    histogram = self._wandb.Histogram(np_histogram=(counts, edges))
    self._log(step, {tag: histogram})

  def text(self, tag: str, step: int, text: str) -> None:
    """Adds a text, shown verbatim."""
    verbatim = self._wandb.Html(f'<pre>{html.escape(text)}</pre>')
    self._log(step, {tag: verbatim})

  # `flush` is inherited: W&B sends from a separate process.

  def close(self) -> None:
    """Waits until everything is sent."""
    self._run.finish()

  def _log(self, step, values):
    self._run.log(values, step=step)
