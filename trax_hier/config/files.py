"""Reads gin files as statements, each with its file and line.

Adds a search path, `include` and readable syntax errors to gin's own parser.
Module `names` resolves the names.
"""

import dataclasses
import io
import os
import pathlib
import tokenize
from collections.abc import Iterator

from gin import config_parser

from trax_hier.config.errors import ConfigError, cut, suggest

# {beginning of gin's message: the usual cause}
_CAUSES = {
  'Unable to parse value': 'Strings take straight quotes, closed on their line',
  'Expected newline': 'A value is one literal: gin evaluates no expressions,'
  ' and strings take quotes',
  "Couldn't parse statement": 'A comment takes a leading #',
  'Unexpected token': 'A statement is Name.parameter = value',
}
# Those of this library and its runs have some kB. Gin takes seconds for more.
_MAX_BYTES = 2**18
_PACKAGE = pathlib.Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Reference:
  """`@name`, `@name()` or `%name` as written, scopes included."""

  name: str
  sigil: str
  evaluate: bool


@dataclasses.dataclass(frozen=True)
class Location:
  """The place of a statement.

  Attributes:
    file: The gin file; None for a `--config` binding.
    line: Number of the line, from 1.
    text: The line.
    is_trusted: Whether the file is the user's own; see module `trust`.
  """

  file: str | None
  line: int
  text: str
  is_trusted: bool = True

  def __str__(self) -> str:
    if self.file is None:
      return f"--config='{self.text}'"
    return f'{self.file}:{self.line}: {self.text}'

  @property
  def short(self) -> str:
    """`file:line`, without the statement."""
    return str(self) if self.file is None else f'{self.file}:{self.line}'


class _Delegate(config_parser.ParserDelegate):
  """Keeps references as written; `names.link` resolves them."""

  def configurable_reference(self, scoped_name, evaluate):
    return Reference(scoped_name, '@', evaluate)

  def macro(self, name):
    return Reference(name, '%', True)


def packaged_gin_dir() -> pathlib.Path:
  """Returns the folder of the gin files that come with trax_hier.

  They lie inside the package in a wheel, and next to it in a source checkout.
  """
  inside = _PACKAGE / 'gin'
  return inside if inside.is_dir() else _PACKAGE.parent / 'gin'


def parse_value(text: str):
  """Parses one value; raises the errors of gin's parser."""
  return config_parser.ConfigParser(text, _Delegate()).parse_value()


def read_bindings(bindings: str, file: str | None = None) -> Iterator[tuple]:
  """Yields (statement, Location) for a `--config` string.

  Args:
    bindings: Gin text.
    file: The file of a run that the text is from, which includes nothing.

  Raises:
    ConfigError: The text has a syntax error, or an include fails.
  """
  yield from _statements(bindings, file, (), is_trusted=file is None)


def read_file(
  name: str,
  at: Location | None = None,
  stack: tuple[str, ...] = (),
  is_trusted: bool = True,
  folders: tuple[str, ...] = (),
) -> Iterator[tuple]:
  """Yields (statement, Location) for a gin file, with its includes expanded.

  Args:
    name: Path, or short name of a packaged file.
    at: Place of the include statement; None if the user named the file.
    stack: Resolved paths of the files being read, outermost first.
    is_trusted: Whether the file is the user's own, which may include others.
    folders: Where to search for included files in addition.

  Raises:
    ConfigError: The file is missing or unreadable, has a syntax error, or
      includes itself, or includes another and is not trusted.
  """
  prefix = f'{at}: ' if at else ''
  includers = [os.path.dirname(stack[-1]), *folders] if stack else []
  path = _find(name, prefix, includers)
  key = os.path.realpath(path)
  if key in stack:
    chain = ' includes '.join(_display(p) for p in (*stack, key))
    raise ConfigError(f'{prefix}a file cannot include itself: {chain}')
  try:
    text = read_text(path)
  except ConfigError as error:
    raise ConfigError(f'{prefix}{error}') from None
  stack = (*stack, key)
  yield from _statements(text, _display(path), stack, is_trusted, folders)


def read_text(path: str | os.PathLike) -> str:
  """Returns the text of a gin file.

  Raises:
    ConfigError: It cannot be read, is too large, or is not UTF-8.
  """
  try:
    size = os.path.getsize(path)
    if size > _MAX_BYTES:
      raise ConfigError(
        f'{path} is not a gin file: it has {size:,} bytes, and a gin file at '
        f'most {_MAX_BYTES:,}'
      )
    with open(path, encoding='utf-8-sig') as f:
      return f.read()
  except UnicodeDecodeError as e:
    raise ConfigError(
      f'{path} is not a gin file: byte {e.start} is not UTF-8 text'
    ) from None
  except OSError as e:
    raise ConfigError(f'cannot read {path}: {e.strerror}') from None


def _find(name: str, prefix: str, includers: list[str]) -> str:
  """Searches the current folder, those of includers, packaged files."""
  if not name.strip():
    raise ConfigError(f'{prefix}the name of a gin file is empty')
  packaged = packaged_gin_dir()
  folders = [os.getcwd(), *includers]
  places = [os.path.join(folder, name) for folder in folders]
  places.append(str(packaged / name.removeprefix('gin/')))
  places = list(dict.fromkeys(os.path.normpath(p) for p in places))
  for place in places:
    if os.path.isfile(place):
      return place
  for place in places:
    if os.path.isdir(place):
      raise ConfigError(f'{prefix}{place} is a folder, not a gin file')
  shipped = [str(p.relative_to(packaged)) for p in packaged.rglob('*.gin')]
  raise ConfigError(
    f'{prefix}there is no gin file {cut(repr(name))}{suggest(name, shipped)}'
    f'; searched {cut(", ".join(places), 600)}'
  )


def _display(path: str) -> str:
  """The path, relative to the current folder if it lies inside."""
  relative = os.path.relpath(path)
  return path if relative.startswith('..') else relative


def _statements(
  text: str,
  file: str | None,
  stack,
  is_trusted: bool = True,
  folders: tuple[str, ...] = (),
) -> Iterator[tuple]:
  """Parses `text` statement by statement and expands includes."""
  lines = text.splitlines() or ['']
  start = 1

  def location(line: int) -> Location:
    line = min(max(line, 1), len(lines))
    return Location(file, line, cut(lines[line - 1].strip()), is_trusted)

  def fault(line: int | None, reason: str) -> ConfigError:
    first = start
    while first < len(lines) and lines[first - 1].strip()[:1] in ('', '#'):
      first += 1
    at = location(line or first)
    since = (
      f' (the statement starts at line {first})' if first < at.line else ''
    )
    return ConfigError(f'{at}: syntax error: {reason}{since}')

  try:
    parser = config_parser.ConfigParser(io.StringIO(text), _Delegate())
    while True:
      start = parser.current_token.start[0]
      statement = parser.parse_statement()
      if statement is None:
        return
      at = location(statement.location.line_num)
      if isinstance(statement, config_parser.IncludeStatement):
        if not is_trusted:
          raise ConfigError(f'{at}: a configuration of others includes nothing')
        yield from read_file(statement.filename, at, stack, folders=folders)
      else:
        yield statement, at
  except ConfigError:
    raise
  except tokenize.TokenError as e:  # at the end of an unclosed statement
    raise fault(None, e.args[0]) from None
  except SyntaxError as e:
    raise fault(e.lineno, _with_cause(e.msg)) from None
  except TypeError as e:
    raise fault(None, f'{e}; keys are strings, numbers or tuples') from None
  except (StopIteration, ValueError, RecursionError, MemoryError) as e:
    # StopIteration: gin's parser ran past the end of the text.
    reason = str(e).splitlines()[0] if str(e) else 'unexpected end'
    raise fault(None, reason) from None


def _with_cause(message: str) -> str:
  """Gin's message in one line, with the usual cause."""
  _, marker, token = message.partition("Failed to parse token '")
  if marker:
    return (
      f"'{cut(token[:-1])}' is not a value: strings take quotes, references a"
      ' leading @, macros a leading %; Python spells True, False and None'
    )
  message = cut(' '.join(message.split()))
  causes = (
    cause for begin, cause in _CAUSES.items() if message.startswith(begin)
  )
  return ' '.join([message, *causes])
