"""Which value each gin parameter has, and who set it."""

import inspect
import re
from collections.abc import Callable

# `NAME = ` at the start of a line; the value may go on in indented lines.
_BINDING = re.compile(r'^([\w./]+) = ((?:.*)(?:\n {4}.*)*)', re.M)
_DEFAULT = 'default'
_SET_BY_CALLERS = ('output_dir', 'before_compile')
_MACRO = re.compile(r'%([\w/]+)')


def configuration(root: Callable) -> list[tuple[str, str, str]]:
  """The parameters in force, after all was built and `config.check_used` ran.

  Args:
    root: the configurable that was not called, `train`: of it, defaults are
      those of its signature.

  Returns:
    For each parameter its name, its value and its origin: 'file:line' or
    '--config', with the macro that stands there, or 'default'.
  """
  from trax_hier import config

  bindings = {binding.name: binding for binding in config.resolved()}
  values = {
    name: ' '.join(value.removeprefix('\\').split())
    for name, value in _BINDING.findall(config.operative_text())
  }
  for parameter in inspect.signature(root).parameters.values():
    is_bindable = parameter.name not in _SET_BY_CALLERS
    if is_bindable and parameter.default is not parameter.empty:
      name = f'{root.__name__}.{parameter.name}'
      values.setdefault(name, repr(parameter.default))
  rows = [
    (name, _expand(value, values), _origin(name, bindings))
    for name, value in values.items()
  ]
  # Macros first, as they stand in a file.
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
  """Who set a parameter; in gin a binding reaches the scopes inside its own."""
  scope, _, parameter = name.rpartition('/')
  scopes = scope.split('/') if scope else []
  for n in range(len(scopes), -1, -1):
    binding = bindings.get('/'.join([*scopes[:n], parameter]))
    if binding is not None:
      return _place(binding, bindings)
  return _DEFAULT


def _place(binding, bindings):
  via = ''
  while macro := _MACRO.fullmatch(repr(binding.value)):
    binding = bindings[macro[1]]
    via = f' ({binding.name})'
  at = binding.location
  return ('--config' if at.file is None else at.short) + via
