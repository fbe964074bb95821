"""Messages of errors that configurables raise, with the lines to blame."""

import re
from collections.abc import Sequence

from trax_hier.config import names, text
from trax_hier.config.errors import (
  ConfigError,
  cut,
  cut_middle,
  must_be_given,
)
from trax_hier.config.parsing import current_table

# What gin 0.5.0 appends to the errors of the configurables it calls.
_MISSING = re.compile(r'No values supplied by Gin or caller .*: \[(.*)\]')
_SCOPE = re.compile(r" in scope '(.*)'\s*$")
_MAX_WORD, _MAX_MESSAGE, _MAX_LIST = 300, 1000, 5000
# A whole number, also in a string such as '3@4'; not a part of 0.25.
_WHOLE = re.compile(r'(?<![\w.])\d{1,18}(?![\w.])')
# Their numbers, such as steps, are not sizes of arrays.
_UNSIZED = 'trax_hier.training.'


def explain(error: Exception) -> str:
  """Shortens the message of an error raised inside configurables.

  Gin appends the chain of calls to every error message. Only the configurable
  that failed is kept, or for a missing argument, the binding that would set it.
  The file and line are added of each binding that the message names.
  """
  message, *calls = str(error).split('\n  In call to configurable ')
  if isinstance(error, ConfigError):
    return cut_middle(message, _MAX_LIST)
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
  short = re.sub(r'\S+', lambda word: cut(word[0], _MAX_WORD), message)
  if isinstance(error, ValueError | TypeError):
    short = ' '.join(short.split())  # The repr of a layer has several lines.
  elif isinstance(error, MemoryError):
    short = short or 'there is not enough memory'
  return cut_middle(short, _MAX_MESSAGE) + _places(message)


def size_binding(shape: Sequence[int]) -> str:
  """The binding that makes an array large: 'TextFiles.batch_size = 1000000'.

  It has the largest whole number that divides the largest size of the shape; ''
  if there is none, as when Python code gives the sizes.
  """
  largest, number, found = max(shape, default=1), 0, ''
  table = current_table()
  for binding in table.bindings.values():
    if binding.is_macro or binding.selector.startswith(_UNSIZED):
      continue
    for each in (binding, *table.macros_of([binding.key]).values()):
      shown = repr(each.value)
      numbers = [int(n) for n in _WHOLE.findall(shown) if int(n)]
      best = max((n for n in numbers if largest % n == 0), default=0)
      if best > max(number, largest**0.5):
        number, found = best, f'{binding.name} = {cut(shown)}'
  return found


def _caller(name: str) -> str:
  """'a.gin:3: X.y = @name(): ', the first binding that refers to it, or ''."""
  for binding in current_table().bindings.values():
    for ref in names.references(binding.value):
      if ref.configurable.selector.rpartition('.')[2] == name:
        return f'{binding.location}: '
  return ''


def _places(message: str) -> str:
  """' (a.gin:3)' with the places of the bindings that a message names.

  A model passes its arguments on to layers, which may complain: 'Attention:
  n_heads = 0 must ..'. Then the bindings of that value are named, too.
  """
  table = current_table()
  named, passed_on = [], []
  for binding in table.bindings.values():
    if binding.is_macro or binding.location.short in message:
      continue
    configurable, _, parameter = binding.name.rpartition('.')
    configurable = configurable.rpartition('/')[2]
    full = rf'(?<![\w.]){configurable}\.{parameter}(?!\w)'
    # 'HourglassLM: n_heads = 3 must ...'
    short = rf'(?<![\w.]){parameter}( = |:? must )'
    is_named = re.search(rf'(?<![\w.]){configurable}(?!\w)', message)
    found = re.search(short, message)
    macros = table.macros_of([binding.key]).values()
    if re.search(full, message) or (is_named and found):
      blamed = [m.location for m in macros] or [binding.location]
      named += [at.short for at in blamed if at.file is not None]
    elif found:
      value = text.write([*(m.value for m in macros), binding.value][0])
      if re.search(rf'{parameter} = {re.escape(value)},? must ', message):
        at = '' if binding.location.file is None else binding.location.short
        passed_on.append(f'{binding.name}{at and f" at {at}"}')
  places = dict.fromkeys(named or passed_on)
  return f' ({", ".join([*places][:4])})' if places else ''
