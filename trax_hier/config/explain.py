"""Messages of errors that configurables raise, with the lines to blame."""

import re

from trax_hier.config import names
from trax_hier.config.errors import ConfigError, cut, must_be_given
from trax_hier.config.parsing import current_table

# What gin 0.5.0 appends to the errors of the configurables it calls.
_MISSING = re.compile(r'No values supplied by Gin or caller .*: \[(.*)\]')
_SCOPE = re.compile(r" in scope '(.*)'\s*$")
_MAX_WORD, _MAX_MESSAGE = 300, 1000


def explain(error: Exception) -> str:
  """Shortens the message of an error raised inside configurables.

  Gin appends the chain of calls to every error message. Only the configurable
  that failed is kept, or for a missing argument, the binding that would set it.
  The file and line are added of each binding that the message names.
  """
  message, *calls = str(error).split('\n  In call to configurable ')
  if isinstance(error, ConfigError):
    return message
  if calls:
    missing = _MISSING.search(message)
    name = calls[0].split("'")[1]
    if missing:
      scope = _SCOPE.search(calls[0])
      binding = f'{scope[1]}/{name}' if scope else name
      fault = must_be_given(f'{binding}.' + missing[1].split("'")[1])
      return _caller(name) + fault
    # Compared by name: gin raises an error of a derived class with this name.
    is_clear = name in message or type(error).__name__ != 'ValueError'
    message = message if is_clear else f'{name}: {message}'
  # The legal values come last and must not be lost to a long value.
  short = re.sub(r'\S+', lambda word: cut(word[0], _MAX_WORD), message)
  return cut(short, _MAX_MESSAGE) + _places(message)


def _caller(name: str) -> str:
  """'a.gin:3: X.y = @name(): ', the first binding that refers to it, or ''."""
  for binding in current_table().bindings.values():
    for ref in names.references(binding.value):
      if ref.configurable.selector.rpartition('.')[2] == name:
        return f'{binding.location}: '
  return ''


def _places(message: str) -> str:
  """' (a.gin:3)' with the places of the bindings that a message names."""
  places = []
  table = current_table()
  for binding in table.bindings.values():
    if binding.is_macro or binding.location.short in message:
      continue
    configurable, _, parameter = binding.name.rpartition('.')
    configurable = configurable.rpartition('/')[2]
    full = rf'(?<![\w.]){configurable}\.{parameter}(?!\w)'
    # 'HourglassLM: n_heads = 3 must ...'
    short = rf'(?<![\w.]){parameter} = '
    named = re.search(rf'(?<![\w.]){configurable}(?!\w)', message)
    if re.search(full, message) or (named and re.search(short, message)):
      macros = table.macros_of([binding.key]).values()
      blamed = [m.location for m in macros] or [binding.location]
      places += [at.short for at in blamed if at.file is not None]
  return f' ({", ".join(dict.fromkeys(places[:4]))})' if places else ''
