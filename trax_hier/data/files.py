"""Finds and reads the user's files."""

from collections.abc import Callable
from pathlib import Path


def find_path(
  path: str, binding: str, kind: str = 'file or folder', hint: str = ''
) -> Path:
  """Returns an existing path with `~` expanded.

  Args:
    path: Path as the user gave it.
    binding: Argument that sets the path, such as "TextFiles.path = 'x'", for
      messages.
    kind: Required kind: 'file', 'folder' or 'file or folder'.
    hint: End of the message, such as the command that creates the file.

  Raises:
    ValueError: naming the binding, if no such file or folder exists.
  """
  found = Path(path).expanduser()
  exists = {'file': found.is_file, 'folder': found.is_dir}
  if not path or not exists.get(kind, found.exists)():
    raise ValueError(
      f'{binding}: no such {kind} (looked for {found.absolute()}){hint}'
    )
  return found


def _list_files(root: Path, skip: Callable[[str], bool]) -> list[Path]:
  """Lists the files below a folder, in the same order on every machine.

  Args:
    root: Folder to search; links to folders are not followed.
    skip: Predicate on the name of a file or folder; True excludes it.

  Returns:
    Paths sorted by their parts relative to `root`.
  """
  found = []
  for path in root.iterdir():
    if skip(path.name):
      continue
    if path.is_dir() and not path.is_symlink():
      found += _list_files(path, skip)
    elif path.is_file():
      found.append(path)
  return sorted(found, key=lambda path: path.relative_to(root).parts)


def _is_text(content: bytes) -> bool:
  """Returns whether the bytes are UTF-8 without a zero byte."""
  if b'\0' in content:
    return False
  try:
    content.decode('utf-8')
  except UnicodeDecodeError:
    return False
  return True


def _is_hidden(name):
  return name.startswith('.')


def read_texts(
  root: Path, suffix: str = '', skip: Callable[[str], bool] = _is_hidden
) -> dict[str, bytes]:
  """Reads the UTF-8 files below a folder, except empty ones.

  Args:
    root: Folder to search; links to folders are not followed.
    suffix: End of the names of the files to read.
    skip: Predicate on the name of a file or folder; True excludes it. By
      default, hidden files and folders are excluded.

  Returns:
    The bytes of each file by path relative to `root`, sorted by path.

  Raises:
    OSError: if a file cannot be read.
  """
  contents = {}
  for path in _list_files(root, skip):
    if path.name.endswith(suffix):
      content = path.read_bytes()
      if content and _is_text(content):
        contents[path.relative_to(root).as_posix()] = content
  return contents
