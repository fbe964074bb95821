"""Lists the files of a folder, and says which are left out."""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

_N_NAMED = 3  # names in a message


class Notes:
  """Names of files by what happened to them, for one line of a message.

  Keeps the numbers, and the first names in their order.

  Example:
    >>> notes = Notes()
    >>> for name in ('a.txt', 'b.txt', 'c.txt', 'd.txt'):
    ...   notes.add('not UTF-8', name)
    >>> notes.add('empty', 'e.txt')
    >>> str(notes)
    '4 not UTF-8 (a.txt, b.txt, c.txt, …), 1 empty (e.txt)'
  """

  def __init__(self):
    """Begins without names."""
    self._found = {}

  def add(self, what: str, *names: str, n: int = 1) -> None:
    """Adds `n` files, of which `names` are the first."""
    before, known = self._found.get(what, (0, []))
    first = sorted([*known, *names], key=_natural)[:_N_NAMED]
    self._found[what] = before + n, first

  def record(self) -> list[tuple[str, int, list[str]]]:
    """Returns what `extend` takes, for a JSON file."""
    return [(what, n, names) for what, (n, names) in self._found.items()]

  def extend(self, record: Iterable[tuple[str, int, list[str]]]) -> None:
    """Adds the notes that `record` has returned."""
    for what, n, names in record:
      self.add(what, *names, n=n)

  def kinds(self) -> list[str]:
    """Returns what happened to files."""
    return list(self._found)

  def __bool__(self) -> bool:
    """Whether there are names."""
    return bool(self._found)

  def __str__(self) -> str:
    """Numbers and first names, '' if there are none."""
    return ', '.join(
      f'{n:,} {what} ({", ".join(names)}{", …" * (n > len(names))})'
      for what, (n, names) in self._found.items()
    )


def _natural(name):
  """Sorts 'line 9' before 'line 10'."""
  parts = re.split(r'(\d+)', name)
  return [int(x) if i % 2 else x for i, x in enumerate(parts)]


def is_hidden(name: str) -> bool:
  """Returns whether a file or folder is hidden, by its name."""
  return name.startswith('.')


class _Walk:
  """See `walk`.

  A linked folder is read after the folders, so that a link does not change the
  name of a file that is in a folder too.
  """

  def __init__(self, root, skip, left_out):
    self._root = root
    self._real_root = os.path.realpath(root)
    self._skip = skip
    self._left_out = left_out
    self._seen = set()
    self._links = []
    self.files = []
    self._visit(root, self._real_root)
    while self._links:
      links, self._links = self._links, []
      for link in links:
        self._follow(link)

  def _name(self, path):
    return path.relative_to(self._root).as_posix()

  def _visit(self, folder, real):
    """Lists a folder whose path without links is `real`."""
    if real in self._seen:
      self._left_out.add('linked twice', self._name(folder))
      return
    self._seen.add(real)
    try:
      paths = sorted(folder.iterdir())
    except OSError:
      if folder == self._root:
        raise
      self._left_out.add('unreadable', self._name(folder))
      return
    for path in paths:
      real_path = os.path.join(real, path.name)
      if self._skip(path.name):
        # Sources that skip other names document them.
        if self._skip is is_hidden:
          self._left_out.add('hidden', self._name(path))
      elif path.is_symlink():
        self._links.append(path)
      elif path.is_dir():
        self._visit(path, real_path)
      else:
        self._add_file(path, real_path)

  def _add_file(self, path, real):
    if real in self._seen:
      self._left_out.add('linked twice', self._name(path))
    elif path.is_file():
      self._seen.add(real)
      self.files.append(path)
    else:
      self._left_out.add('not a file', self._name(path))

  def _follow(self, link):
    real = os.path.realpath(link)
    if not link.exists():
      self._left_out.add('broken links', self._name(link))
    elif not link.is_dir():
      self._add_file(link, real)
    elif f'{self._real_root}/'.startswith(f'{real.rstrip("/")}/'):
      self._left_out.add('linked to a folder around it', self._name(link))
    else:
      self._visit(link, real)


def walk(
  root: Path, skip: Callable[[str], bool], left_out: Notes
) -> list[Path]:
  """Lists the files below a folder, each once, and follows links.

  Args:
    root: Folder to search.
    skip: Predicate on the name of a file or folder; True excludes it. Only
      `is_hidden` is reported.
    left_out: Takes what is left out: hidden files, broken links, what is linked
      twice or is not a file, and folders that cannot be read.

  Raises:
    OSError: if the folder cannot be read.
  """
  return _Walk(root, skip, left_out).files
