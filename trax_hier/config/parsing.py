"""Parses gin files and bindings, checks them and binds them in gin.

Names, types and macros are checked when parsed, and each fault is one
`ConfigError`. Gin 0.5.0 itself accepts a value of any type, and any parameter
name if the configurable takes `**kwargs`. A short name that several modules
register means the configurable of trax_hier; a fully qualified name selects the
others.
"""

import copy
from collections.abc import Collection, Sequence
from typing import Any

import gin
from gin import config_parser

from trax_hier.config import files, foreign, names, trust
from trax_hier.config.errors import ConfigError, must_be_given
from trax_hier.config.files import Location
from trax_hier.config.table import Binding, Table

_table = Table()


def parse(
  config_files: Sequence[str] = (),
  bindings: Sequence[str] = (),
  is_trusted: bool = True,
) -> None:
  """Reads gin files, then bindings, checks them and binds them in gin.

  Later files and bindings override earlier ones. Files are searched for in the
  current folder, then, if included, in the folder of the including file, then
  among the packaged files by their short name (`quickstart.gin`).

  The modules that register the configurables must be imported first, by the
  caller or by `import x.y` in the gin file. After an error nothing is bound.

  Args:
    config_files: Paths or short names of gin files.
    bindings: Gin statements such as `'train.steps = 10'`.
    is_trusted: Whether the files are the user's own. If not, they import and
      include nothing and call models and data alone; see module `trust`.

  Raises:
    ConfigError: A file or binding has a fault; the message says where.

  Example:
    >>> from trax_hier import data, models, training
    >>> parse(['quickstart.gin'], ['train.steps = 10'])
    >>> value('train.steps'), value('StandardLibrary.length')
    (10, 256)
    >>> clear()
  """
  global _table
  table = _table.copy()
  statements = [
    found
    for name in config_files
    for found in files.read_file(name, is_trusted=is_trusted)
  ]
  foreign.check_own(statements, config_files)
  for statement, at in statements:
    _add_statement(statement, at, table)
  for binding in bindings:
    for statement, at in files.read_bindings(binding):
      _add_statement(statement, at, table)
  table.sources += [*config_files, *(f"--config='{b}'" for b in bindings)]
  table.check_macros()
  trust.check_calls(table)
  table.check()
  for binding in table.bindings.values():
    if not (trust.is_inert(binding) or table.is_open(binding)):
      gin.bind_parameter(binding.key, binding.value)
  _table = table


def current_table() -> Table:
  """Returns the table of everything parsed since `clear`."""
  return _table


def resolved() -> list[Binding]:
  """Returns the bindings in force, each with its location."""
  return list(_table.bindings.values())


def value(name: str) -> Any:
  """Returns the bound value of a parameter; references `@name()` are called.

  Args:
    name: Configurable and parameter, such as `'train.data'`.

  Raises:
    ConfigError: No such configurable exists, or the parameter is not bound.
  """
  configurable, _, parameter = name.rpartition('.')
  binding = _table.bindings.get(('', names.resolve(configurable), parameter))
  if binding is None:
    raise ConfigError(must_be_given(name))
  # Gin resolves references when they are deep-copied.
  return copy.deepcopy(binding.value)


def set_vocab_size(name: str, size: int) -> None:
  """Binds the size of the vocabulary of a model, if no binding gives it.

  `VOCAB_SIZE = None` leaves it open, and so does a model without a binding.

  Args:
    name: Parameter that holds the factory of the model: 'train.model'.
    size: Number of ids in the data.
  """
  configurable, _, parameter = name.rpartition('.')
  factory = _table.bindings.get(('', names.resolve(configurable), parameter))
  if factory is None:
    return
  reference = _table.source_of(factory).value
  if not isinstance(reference, names.GinReference):
    return
  selector, scopes = reference.configurable.selector, reference.scopes
  if 'vocab_size' not in names.bindable_parameters(selector):
    return
  keys = [
    ('/'.join(scopes[:n]), selector, 'vocab_size')
    for n in range(len(scopes), -1, -1)
  ]
  bound = next((k for k in keys if k in _table.bindings), None)
  if bound is None:
    bound = keys[0]
    _bind(Binding(*bound, size, factory.location))
    _table.from_data.add(bound)
  elif bound in _table.from_data or _table.is_open(_table.bindings[bound]):
    _table.from_data.add(bound)
    _bind(_table.source_of(_table.bindings[bound])._replace(value=size))
    _bind(_table.bindings[bound])


def _bind(binding: Binding) -> None:
  """Puts a binding in force."""
  _table.bindings[binding.key] = binding
  gin.bind_parameter(binding.key, binding.value)


def check_no_paths(name: str, harmless: Collection[str] = ()) -> None:
  """Checks that untrusted files do not choose the files that `name` reads.

  Args:
    name: Parameter that holds a data set, such as `'train.data'`.
    harmless: Selectors of data sets that take no path.

  Raises:
    ConfigError: A string in an untrusted file reaches the data set.
  """
  trust.check_no_paths(_table, name, harmless)


def fingerprint() -> str:
  """Returns a string that changes whenever gin may supply other values."""
  return f'{names.bindings()} {gin.current_scope_str()}'


def clear() -> None:
  """Removes every binding, in gin too."""
  global _table
  _table = Table()
  gin.clear_config()


def _add_statement(statement, at: Location, table: Table) -> None:
  """Checks the names in a statement and adds it to `table`."""
  if isinstance(statement, config_parser.ImportStatement):
    trust.check_import(statement.module, at)
    names.import_module(statement, at)
    table.imports[statement.format()] = None
    return
  if isinstance(statement, config_parser.BlockDeclaration):
    names.resolve(statement.selector, at)
    return
  scope, name, parameter, value, _ = statement
  if parameter:
    selector = names.resolve(name, at)
    names.check_parameter(selector, parameter, at)
    hint = names.hint(selector, parameter)
  else:
    hint = Any
    scope = f'{scope}/{name}' if scope else name
    selector, parameter = names.MACRO, 'value'
  value = names.map_leaves(
    value, files.Reference, lambda r: names.link(r, at, hint)
  )
  table.add(Binding(scope, selector, parameter, value, at))
