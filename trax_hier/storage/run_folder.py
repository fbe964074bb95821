"""Finds the files of a run directory without importing JAX or gin."""

from pathlib import Path

from trax_hier.environment import expand_home


def config_file(folder: str | Path) -> Path:
  """Returns the absolute path of a run's config.gin.

  Raises:
    ValueError: The folder is not a run directory.
  """
  folder = expand_home(folder).absolute()
  if not folder.is_dir():
    raise ValueError(f'{folder}: no such folder')
  file = folder / 'config.gin'
  if not file.is_file():
    raise ValueError(f'{folder}: not a run directory: it has no config.gin')
  return file
