"""The lock of a run directory: one trainer at a time writes to it."""

import contextlib
import datetime
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import jax
import numpy as np
from jax.experimental import multihost_utils

_FILE = '.lock'


class FolderInUseError(ValueError):
  """Another trainer writes to the run directory."""


@contextlib.contextmanager
def locked(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
  """Holds the lock of a run directory; programs that only read need none.

  The operating system releases the lock of a process that ends in any way. The
  lock file stays, and says who held it last. Of several hosts, the first one
  takes the lock for all.

  Args:
    folder: Folder of the run.
    say: Prints a line if the file system has no locks.

  Raises:
    FolderInUseError: if another trainer holds the lock; says which.
  """
  file = folder / _FILE
  lock = filelock.FileLock(file, blocking=False)
  is_free = True
  if jax.process_index() == 0:
    try:
      lock.acquire()
    except filelock.Timeout:
      is_free = False
    except OSError as error:
      say(
        f'{folder} cannot be locked ({error.strerror or error}): do not start '
        'a second trainer there'
      )
  if jax.process_count() > 1:
    is_free = bool(multihost_utils.broadcast_one_to_all(np.bool_(is_free)))
  try:
    if not is_free:
      raise FolderInUseError(
        f'another trainer writes to {folder}: {_holder(file)}. Stop it, or use '
        'another output_dir'
      )
    if lock.is_locked:
      now = datetime.datetime.now().astimezone().isoformat(' ', 'seconds')
      file.write_text(
        f'process {os.getpid()} on {socket.gethostname()}, since {now}\n',
        'utf-8',
      )
    yield
  finally:
    lock.release()


def _holder(file):
  """Who holds the lock: the line that the holder has written."""
  try:
    return file.read_text('utf-8').strip() or 'a process that has just started'
  except (OSError, ValueError):
    return 'an unknown process'
