"""What programs need of the system: home folders, streams, devices, memory."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Limits of the container, in cgroups of version 2 and 1.
_CGROUP_LIMITS = (
  '/sys/fs/cgroup/memory.max',
  '/sys/fs/cgroup/memory/memory.limit_in_bytes',
)
# Also what `Path` makes of a URL: 'gs:/bucket'.
_URL = re.compile('[A-Za-z][A-Za-z0-9+.-]+:/')
# All but tabs and the ends of lines.
_CONTROL = re.compile(r'[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]')


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


def escape_controls(text: str) -> str:
  """Writes characters that can control a terminal as escapes.

  Example:
    >>> escape_controls('a\\x1b[2J')
    'a\\\\x1b[2J'
  """
  return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def print_any_text() -> None:
  """Lets standard output and error print text that their encoding lacks.

  A finished training must not fail because a terminal knows only ASCII, or
  because the name of a file is not UTF-8: such characters become escapes.
  """
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, 'reconfigure'):  # Not a stream of a notebook or test.
      stream.reconfigure(errors='backslashreplace')


def quiet_logs() -> None:
  """Hides what XLA and Orbax log: what fails also raises an exception.

  Call it before JAX is imported. TF_CPP_MIN_LOG_LEVEL chooses what XLA logs.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  logging.getLogger('absl').setLevel(logging.CRITICAL)


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


def platform_message() -> str | None:
  """Returns a message if JAX finds no devices, or None.

  JAX's own errors come from anywhere in a program, and some have no message.
  """
  import jax

  try:
    jax.local_devices()
  except (RuntimeError, AssertionError) as error:
    reason = str(error) or 'its plugin is not installed'
    first = reason.splitlines()[0][:300]
    chosen = os.environ.get('JAX_PLATFORMS')
    where = f'JAX_PLATFORMS={chosen}: ' if chosen else ''
    return f'{where}JAX finds no such devices here (cpu always works): {first}'
  return None


def check_devices() -> None:
  """Raises RuntimeError, with a message, if JAX finds no devices."""
  if message := platform_message():
    raise RuntimeError(message)


def memory() -> tuple[int | None, str]:
  """Bytes of memory for arrays, and whose they are; None if unknown.

  On CPU, the smaller of the machine's memory and the container's limit.
  """
  import jax

  device = jax.local_devices()[0]
  if device.platform != 'cpu':
    stats = device.memory_stats() or {}
    return stats.get('bytes_limit'), f'the device {device.device_kind}'
  limits = []
  if hasattr(os, 'sysconf') and 'SC_PHYS_PAGES' in os.sysconf_names:
    limits.append(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))
  for path in map(Path, _CGROUP_LIMITS):
    with contextlib.suppress(OSError, ValueError):  # No such file, or 'max'.
      limits.append(int(path.read_text('utf-8')))
  return min(limits, default=None), 'this machine'


def check_fits(what: str, sizes: Mapping[str, int], advice: str) -> None:
  """Checks that arrays fit in memory.

  Args:
    what: What needs them, for the message.
    sizes: Their names and bytes.
    advice: End of the message.

  Raises:
    ValueError: They need more than there is.
  """
  available, place = memory()
  total = sum(sizes.values())
  if available is None or total <= available:
    return
  parts = ', '.join(
    f'{name} {_gigabytes(size)}' for name, size in sizes.items() if size
  )
  raise ValueError(
    f'{what} needs at least {_gigabytes(total)} ({parts}), but {place} has '
    f'{_gigabytes(available)}{advice}'
  )


def _gigabytes(n):
  return f'{n / 1e9:,.1f} GB'
