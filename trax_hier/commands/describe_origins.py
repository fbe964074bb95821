"""The value and the origin of each gin parameter, for `trax-hier describe`."""

import inspect
import re
from collections.abc import Callable

# `NAME = VALUE` at the start of a line; indented lines continue the value.
_BINDING = re.compile(r'^([\w./]+) = ((?:.*)(?:\n {4}.*)*)', re.M)
_DEFAULT = 'default'
_MACRO = re.compile(r'%([\w/]+)')


def configuration(root: Callable) -> list[tuple[str, str, str]]:
  """Lists the gin parameters in use; call it after `config.check_used`.

  Args:
    root: `train`, which `describe` does not call: gin has not recorded its
      defaults, so they are read from its signature.

  Returns:
    A row per parameter: name, value and origin. The origin is 'file:line' or
    '--config', followed by the macro that holds the value, or 'default'.
  """
  from trax_hier import config

  bindings = {binding.name: binding for binding in config.resolved()}
  values = {
    name: ' '.join(value.removeprefix('\\').split())
    for name, value in _BINDING.findall(config.operative_text())
  }
  parameters = inspect.signature(root).parameters
  for name in config.bindable_parameters(root.__name__):
    default = parameters[name].default
    if default is not inspect.Parameter.empty:
      values.setdefault(f'{root.__name__}.{name}', repr(default))
  rows = [
    (name, _expand(value, values), _origin(name, bindings))
    for name, value in values.items()
  ]
  # Macros first, as in a gin file.
  return sorted(
    (row for row in rows if not _is_trax_default(row)),
    key=lambda row: ('.' in row[0], row[0].lower()),
  )


def _expand(value, values):
  while macro := _MACRO.fullmatch(value):
    value = values[macro[1]]
  return value


def _is_trax_default(row):
  name, _, origin = row
  return origin == _DEFAULT and name.startswith('trax.')


def _origin(name, bindings):
  """The origin of a parameter; a binding also applies in nested scopes."""
  scope, _, parameter = name.rpartition('/')
  scopes = scope.split('/') if scope else []
  for n in range(len(scopes), -1, -1):
    binding = bindings.get('/'.join([*scopes[:n], parameter]))
    if binding is not None:
      return _location(binding, bindings)
  return _DEFAULT


def _location(binding, bindings):
  """Where a binding is set; for a macro, where the last macro is set."""
  via = ''
  while macro := _MACRO.fullmatch(repr(binding.value)):
    binding = bindings[macro[1]]
    via = f' ({binding.name})'
  at = binding.location
  return ('--config' if at.file is None else at.short) + via
