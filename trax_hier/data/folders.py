"""Reads the text files of a folder, and says which files are left out."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from trax_hier.data.files import NotTextError, convert, why_not_text

_N_NAMED = 3  # names in a message


class Notes:
  """Names of files by what happened to them, for one line of a message.

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
    self._names = {}

  def add(self, what: str, name: str) -> None:
    """Adds the name of a file."""
    self._names.setdefault(what, []).append(name)

  def __str__(self) -> str:
    """Numbers and first names, '' if there are none."""
    return ', '.join(
      f'{len(names):,} {what} ({", ".join(sorted(names)[:_N_NAMED])}'
      f'{", …" * (len(names) > _N_NAMED)})'
      for what, names in self._names.items()
    )


class Folder(NamedTuple):
  """The text files of a folder.

  Attributes:
    contents: UTF-8 bytes of each file by path relative to the folder, sorted by
      path.
    left_out: Files and folders that are not in `contents`, with the reasons.
    converted: Files that were decompressed or encoded as UTF-8.
  """

  contents: dict[str, bytes]
  left_out: Notes
  converted: Notes

  def describe(self, how: str) -> str:
    """Returns one line: the number of files, and what else became of files.

    Args:
      how: How the files were split.
    """
    text = f'{len(self.contents):,} files, {how}'
    if converted := str(self.converted):
      text += f'; converted: {converted}'
    if left_out := str(self.left_out):
      text += f'; left out: {left_out}'
    return text


def _is_hidden(name):
  return name.startswith('.')


class _Walk:
  """Lists the files below a folder, each once, and follows links.

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
        if self._skip is _is_hidden:
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


def read_texts(
  root: Path, suffix: str = '', skip: Callable[[str], bool] = _is_hidden
) -> Folder:
  """Reads the text files below a folder, each once.

  Compressed files and files in UTF-16 are converted, as `files.convert` does.
  Links are followed. Empty, hidden, unreadable and duplicate files, and files
  that are not UTF-8, are left out.

  Args:
    root: Folder to search.
    suffix: End of the names of the files to read; others are not reported.
    skip: Predicate on the name of a file or folder; True excludes it. By
      default, hidden files and folders are excluded and reported.

  Raises:
    OSError: if the folder cannot be read.
  """
  folder = Folder({}, Notes(), Notes())
  files = _Walk(root, skip, folder.left_out).files
  for path in sorted(files, key=lambda path: path.relative_to(root).parts):
    if not path.name.endswith(suffix):
      continue
    name = path.relative_to(root).as_posix()
    try:
      content, form = convert(path.read_bytes())
      fault = why_not_text(content) if content else 'empty'
    except NotTextError as error:
      fault = str(error)
    except OSError:
      fault = 'unreadable'
    if fault:
      folder.left_out.add(fault, name)
      continue
    folder.contents[name] = content
    if form:
      folder.converted.add(form, name)
  return folder
