"""What programs need of the system: home folders, streams, devices."""

import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

# Also what `Path` makes of a URL: 'gs:/bucket'.
_URL = re.compile('[A-Za-z][A-Za-z0-9+.-]+:/')


def expand_home(path: str | os.PathLike, setting: str = '') -> Path:
  """Returns a path with `~` and `~user` replaced by the home folder.

  Args:
    path: Path as the user gave it.
    setting: Flag or binding that gives it, such as '--output_dir=x', for
      messages.

  Raises:
    ValueError: There is no such user, the home folder is not known, or the path
      is a URL, such as gs://bucket.

  Example:
    >>> expand_home('runs/quickstart').parts
    ('runs', 'quickstart')
  """
  if _URL.match(os.fspath(path)):
    raise ValueError(
      f'{setting or path}: files are read and written in local folders only: '
      'mount the remote storage (gcsfuse, rclone mount) and give the path of '
      'the mounted folder'
    )
  try:
    return Path(path).expanduser()
  except RuntimeError as error:
    raise ValueError(
      f'{path}: there is no home folder {Path(path).parts[0]}; for a file of '
      f'this name, write ./{path}'
    ) from error


def print_any_text() -> None:
  """Lets standard output and error print text that their encoding lacks.

  A finished training must not fail because a terminal knows only ASCII, or
  because the name of a file is not UTF-8: such characters become escapes.
  """
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, 'reconfigure'):  # Not a stream of a notebook or test.
      stream.reconfigure(errors='backslashreplace')


def flag_names(argv: Sequence[str] | None = None) -> list[str]:
  """Returns arguments in which `--output-dir` is spelled `--output_dir`.

  Args:
    argv: The arguments; None means those of this process.

  Example:
    >>> flag_names(['--output-dir=a-b', 'c-d'])
    ['--output_dir=a-b', 'c-d']
  """

  def spell(argument):
    name, equals, value = argument.partition('=')
    if not name.startswith('--') or ' ' in name:
      return argument
    return '--' + name[2:].replace('-', '_') + equals + value

  return [spell(each) for each in (sys.argv[1:] if argv is None else argv)]


def platform_message(error: BaseException) -> str | None:
  """Returns a message for an error of JAX's choice of devices, or None."""
  # JAX asserts, without a message, that it has the plugin of a platform.
  places = traceback.extract_tb(error.__traceback__)
  is_assertion = isinstance(error, AssertionError) and any(
    place.filename.endswith('xla_bridge.py') for place in places[-1:]
  )
  message = str(error) or 'its plugin is not installed'
  if not is_assertion and not (
    isinstance(error, RuntimeError) and 'backend' in message
  ):
    return None
  first = message.splitlines()[0][:300]
  chosen = os.environ.get('JAX_PLATFORMS')
  where = f'JAX_PLATFORMS={chosen}: ' if chosen else ''
  return f'{where}JAX finds no such devices here (cpu always works): {first}'
