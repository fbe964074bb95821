"""The folder of the data cache."""

import functools
import os
import sys
import tempfile
from pathlib import Path

from trax_hier.environment import expand_home

VARIABLE = 'TRAX_HIER_DATA_CACHE'

# Deleted when the process ends.
_temporary = functools.cache(tempfile.TemporaryDirectory)


def say(message: str) -> None:
  """Prints a line on standard error: standard output may hold a sample."""
  print(message, file=sys.stderr, flush=True)


def cache_folder() -> Path:
  """Returns the folder of the data cache, created if missing.

  It is `trax_hier/data` in the user's cache folder, or the folder that the
  environment variable TRAX_HIER_DATA_CACHE names, which may be read-only if it
  exists. If there is no home folder that can be written to, it is a temporary
  one, and a line says so.

  Raises:
    ValueError: if the variable names a folder that cannot be created.
  """
  if chosen := os.environ.get(VARIABLE):
    folder = expand_home(chosen, f'{VARIABLE}={chosen}').absolute()
    if not folder.is_dir() and (reason := why_not_writable(folder)):
      raise ValueError(f'{VARIABLE}={chosen}: cannot be written: {reason}')
    return folder
  home = os.path.expanduser(os.environ.get('XDG_CACHE_HOME') or '~/.cache')
  folder = Path(home, 'trax_hier', 'data')
  if not (reason := why_not_writable(folder)):
    return folder
  if not _temporary.cache_info().currsize:
    say(
      f'the data are prepared for this run only: {folder} cannot be written '
      f'({reason}); {VARIABLE} chooses another folder'
    )
  return Path(_temporary().name)


def why_not_writable(folder: Path) -> str:
  """Returns why a folder cannot be written or created; '' if it can."""
  if not folder.is_absolute():
    return 'the home folder is not known'
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      return ''
  except OSError as error:
    return error.strerror or str(error)
