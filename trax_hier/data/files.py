"""Finding and reading the user's files."""

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
    kind: 'file', 'folder' or 'file or folder', which the path must be.
    hint: Command that makes a missing file or folder, for the message.

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


def list_files(root: Path, skip: Callable[[str], bool]) -> list[Path]:
  """Lists the files below a folder, in the same order on every machine.

  Args:
    root: Folder to search; links to folders are not followed.
    skip: Predicate on the name of a file or folder; True leaves it out.

  Returns:
    Paths sorted by their parts relative to `root`.
  """
  found = []
  for path in root.iterdir():
    if skip(path.name):
      continue
    if path.is_dir() and not path.is_symlink():
      found += list_files(path, skip)
    elif path.is_file():
      found.append(path)
  return sorted(found, key=lambda path: path.relative_to(root).parts)


def is_text(content: bytes) -> bool:
  """Returns whether the bytes are UTF-8 without a zero byte."""
  if b'\0' in content:
    return False
  try:
    content.decode('utf-8')
  except UnicodeDecodeError:
    return False
  return True


def read_texts(root: Path) -> dict[str, bytes]:
  """Reads the UTF-8 files below a folder, except hidden and empty ones.

  Returns:
    Their bytes by path relative to `root`, sorted by path.

  Raises:
    OSError: if a file cannot be read.
  """
  contents = {}
  for path in list_files(root, skip=lambda name: name.startswith('.')):
    content = path.read_bytes()
    if content and is_text(content):
      contents[path.relative_to(root).as_posix()] = content
  return contents
