"""Entries of the data cache: folders that are complete or do not exist.

An entry is made in `unfinished/`, under a lock, synchronized to disk and then
renamed: a process that is killed leaves no half of an entry, and of several
processes that need the same entry, one makes it.
"""

import contextlib
import errno
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from trax_hier.data.cache.folder import (
  VARIABLE,
  cache_folder,
  say,
  why_not_writable,
)

T = TypeVar('T')

_SIZES = 'sizes.json'  # Sizes of the files of an entry.
# Errors of a full disk.
FULL = (errno.ENOSPC, errno.EDQUOT)


def open_entry(
  name: str,
  build: Callable[[Path], None],
  what: str,
  can_continue: bool = False,
) -> Path:
  """Returns the folder of an entry, made if it does not exist.

  Args:
    name: Name of the entry, which says all that determines its content.
    build: Writes the files of the entry to a folder.
    what: What is prepared, such as 'my.txt', for messages.
    can_continue: Whether `build` continues what an earlier call, which did not
      end, has written to the folder.

  Raises:
    ValueError: if the disk is full, or as `build`.
    OSError: as `build`.
  """
  root = cache_folder()
  folder = root / name
  if _is_complete(folder):
    return folder
  if reason := why_not_writable(root):
    raise ValueError(
      f'{what} is not prepared in the data cache, and {root} cannot be written '
      f'({reason}): set {VARIABLE} to another folder'
    )
  with _locked(root, name, what):
    if _is_complete(folder):
      return folder
    if folder.exists():
      say(f'{folder} is damaged, and is made again')
      shutil.rmtree(folder)
    work = root / 'unfinished' / name
    with writing_to(root, what), _cleared(work, can_continue):
      build(work)
      sizes = {path.name: path.stat().st_size for path in work.iterdir()}
      write_json(work / _SIZES, sizes)
      for path in (*work.iterdir(), work):
        sync(path)
      folder.parent.mkdir(parents=True, exist_ok=True)
      work.rename(folder)
      sync(folder.parent)
  return folder


def remember(folder: Path, name: str, compute: Callable[[], T]) -> T:
  """Returns what `compute` returns, computed once for an entry.

  Args:
    folder: Folder of the entry.
    name: Name of the value, which says all that determines it.
    compute: Returns the value, which JSON can write.
  """
  path = folder / f'{name}.json'
  with contextlib.suppress(OSError, ValueError):
    value = json.loads(path.read_text('utf-8'))
    if value is not None:
      return value
  value = compute()
  with contextlib.suppress(OSError):  # The cache may be read-only, or full.
    write_json(path, value)
  return value


def write_json(path: Path, value: object) -> None:
  """Writes a JSON file, whole or not at all."""
  scratch = path.with_name(f'{path.name}.{os.getpid()}')
  with scratch.open('w', encoding='utf-8') as file:
    json.dump(value, file)
    file.flush()
    os.fsync(file.fileno())
  scratch.replace(path)


def sync(path: Path) -> None:
  """Writes a file, or the names in a folder, to disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


@contextlib.contextmanager
def writing_to(root: Path, what: str) -> Iterator[None]:
  """Turns the error of a full disk into a ValueError that says what to do."""
  try:
    yield
  except OSError as error:
    if error.errno not in FULL:
      raise
    free = shutil.disk_usage(root).free / 1e9
    raise ValueError(
      f'preparing {what}: no space left in {root} ({free:,.1f} GB are free): '
      f'make room, or set {VARIABLE} to a folder on a larger disk'
    ) from error


@contextlib.contextmanager
def _cleared(work, can_continue):
  """Deletes what no later call can use, before and after an error."""
  if not can_continue:
    shutil.rmtree(work, ignore_errors=True)
  work.mkdir(parents=True, exist_ok=True)
  try:
    yield
  except BaseException as error:
    if not can_continue or isinstance(error, ValueError):
      shutil.rmtree(work, ignore_errors=True)
    raise


def _is_complete(folder):
  try:
    sizes = json.loads((folder / _SIZES).read_text('utf-8'))
    return isinstance(sizes, dict) and all(
      (folder / name).stat().st_size == size for name, size in sizes.items()
    )
  except (OSError, ValueError):
    return False


@contextlib.contextmanager
def _locked(root, name, what):
  """Holds the lock of an entry; says so if it has to wait for it."""
  import filelock  # Most starts make no entry.

  path = root / 'locks' / f'{name.replace("/", "-")}.lock'
  path.parent.mkdir(parents=True, exist_ok=True)
  lock = filelock.FileLock(path)
  try:
    try:
      lock.acquire(timeout=0)
    except filelock.Timeout:
      say(f'{what} is being prepared by {_holder(path)}: waiting for it')
      lock.acquire()
  except OSError as error:
    say(
      f'{path} cannot be locked ({error.strerror or error}): do not start a '
      f'second process that prepares {what}'
    )
  try:
    if lock.is_locked:
      path.write_text(
        f'process {os.getpid()} on {socket.gethostname()}', 'utf-8'
      )
    yield
  finally:
    lock.release()


def _holder(path):
  try:
    return path.read_text('utf-8').strip() or 'another process'
  except (OSError, ValueError):
    return 'another process'
