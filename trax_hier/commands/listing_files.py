"""Reads the headers of the gin files that come with trax_hier."""

import dataclasses
import re

from trax_hier.config.files import packaged_gin_dir

_INCLUDE = re.compile(r"include '([^']+)'")
_MACRO = re.compile(r'([A-Z]\w*) = (.*)')
# Parts of other files, which are not given alone.
_PARTS = 'base/'


@dataclasses.dataclass(frozen=True)
class GinFile:
  """A complete configuration.

  Attributes:
    name: Its name, such as 'hourglass/enwik8.gin'.
    summary: The first sentence of its header.
    header: The comment at its beginning.
    required: Macros that the user must give, such as 'DATA'.
  """

  name: str
  summary: str
  header: str
  required: tuple[str, ...]


def gin_files() -> list[GinFile]:
  """Returns the complete configurations, those of the top folder first."""
  root = packaged_gin_dir()
  names = [path.relative_to(root).as_posix() for path in root.rglob('*.gin')]
  whole = [name for name in names if not name.startswith(_PARTS)]
  by_folder = sorted(whole, key=lambda name: (name.rpartition('/')[0], name))
  return [_read(root, name) for name in by_folder]


def _read(root, name):
  text = (root / name).read_text('utf-8')
  header = re.match(r'(?:#.*\n)*', text)[0]
  lines = [
    line.removeprefix('#').removeprefix(' ') for line in header.splitlines()
  ]
  first = ' '.join('\n'.join(lines).partition('\n\n')[0].split())
  summary = re.split(r'(?<=\.) (?=[A-Z])', first)[0].rstrip('.')
  macros = _macros(root, name).items()
  needs = tuple(sorted(macro for macro, is_given in macros if not is_given))
  return GinFile(name, summary, '\n'.join(lines).strip(), needs)


def _macros(root, name):
  """{macro: whether it has a value} after a file and those that it includes."""
  found = {}
  for line in (root / name).read_text('utf-8').splitlines():
    if included := _INCLUDE.match(line):
      found |= _macros(root, included[1])
    elif macro := _MACRO.fullmatch(line):
      found[macro[1]] = macro[2].strip() != '%gin.REQUIRED'
  return found
