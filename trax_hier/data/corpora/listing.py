"""Lists the files of a path: a file, a folder, or the matches of a pattern."""

import glob
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from trax_hier.data.files import find_path
from trax_hier.data.folders import Notes, is_hidden, walk
from trax_hier.environment import expand_home


class Listing(NamedTuple):
  """The files of a path.

  Attributes:
    files: Files by name, relative to the folder, sorted.
    is_file: Whether the path is one file.
    left_out: Files and folders that are not in `files`, with the reasons.
  """

  files: dict[str, Path]
  is_file: bool
  left_out: Notes


def list_files(
  path: str,
  binding: str,
  suffix: str = '',
  skip: Callable[[str], bool] = is_hidden,
) -> Listing:
  """Lists the files of a path.

  Args:
    path: File, folder, or pattern such as 'books/*.txt' or 'books/**/*.gz'; `~`
      is the home folder.
    binding: Argument that sets the path, for messages.
    suffix: End of the names of the files of a folder; others are not reported.
    skip: Predicate on the name of a file or folder; True excludes it. By
      default, hidden files and folders are excluded and reported.

  Raises:
    OSError: if the folder cannot be read.
    ValueError: naming the binding, if there is no such file.
  """
  if glob.has_magic(path) and not expand_home(path, binding).exists():
    return _match(path, binding)
  found = find_path(path, binding)
  left_out = Notes()
  if found.is_dir():
    files = walk(found, skip, left_out)
    names = {file: file.relative_to(found) for file in files}
    files = sorted(names, key=lambda file: names[file].parts)
    listed = {names[file].as_posix(): file for file in files}
    listed = {n: file for n, file in listed.items() if n.endswith(suffix)}
    return Listing(listed, False, left_out)
  if not found.is_file():
    raise ValueError(f'{binding}: neither a file nor a folder')
  return Listing({found.name: found}, True, left_out)


def _match(path, binding):
  pattern, left_out = expand_home(path, binding), Notes()
  magic = map(glob.has_magic, pattern.parts)
  n_fixed = next(i for i, is_magic in enumerate(magic) if is_magic)
  root = Path(*pattern.parts[:n_fixed])
  found = sorted(map(Path, glob.glob(str(pattern), recursive=True)))
  files = {}
  for each in sorted(found, key=lambda each: each.parts):
    name = each.relative_to(root).as_posix()
    if each.is_file():
      files[name] = each
    # '**' also fits folders.
    elif '**' not in pattern.parts:
      left_out.add('folders' if each.is_dir() else 'not a file', name)
  if not files:
    others = str(left_out)
    raise ValueError(
      f'{binding}: no file matches this pattern'
      + (others and f'; left out: {others} (end it by /**/* for their files)')
    )
  return Listing(files, False, left_out)
