"""Where things lie in the folder of a run; quick to import."""

from pathlib import Path


def config_file(folder: str | Path) -> Path:
  """The configuration in the folder of a run, as an absolute path.

  Raises:
    ValueError: if it is not the folder of a run.
  """
  folder = Path(folder).expanduser().absolute()
  if not folder.is_dir():
    raise ValueError(f'{folder}: no such folder')
  file = folder / 'config.gin'
  if not file.is_file():
    raise ValueError(f'{folder}: not the folder of a run: it has no config.gin')
  return file
