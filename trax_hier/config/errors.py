"""ConfigError, and parts of its messages, which name the fault and the fix.

The package docstring lists the modules that raise it.
"""

import difflib
import re
from collections.abc import Iterable

# What gin 0.5.0 appends to the errors of the configurables it calls.
_MISSING = re.compile(r'No values supplied by Gin or caller .*: \[(.*)\]')
_SCOPE = re.compile(r" in scope '(.*)'\s*$")


class ConfigError(ValueError):
  """A fault in a gin file or binding: one message with file, line, binding."""


def suggest(name: str, known: Iterable[str]) -> str:
  """Returns '; did you mean ...?' with known names close to `name`, or ''."""
  by_lower = {k.lower(): k for k in known}
  near = difflib.get_close_matches(name.lower(), list(by_lower), n=3)
  if not near:
    return ''
  return '; did you mean ' + ' or '.join(f"'{by_lower[n]}'" for n in near) + '?'


def must_be_given(name: str) -> str:
  """Returns the message for a parameter or macro without a value."""
  return f"{name} must be given a value, as in --config='{name} = ...'"


def explain(error: Exception) -> str:
  """Shortens the message of an error raised inside configurables.

  Gin appends the chain of calls to every error message. Only the configurable
  that failed is kept, or for a missing argument, the binding that would set it.
  """
  message, *calls = str(error).split('\n  In call to configurable ')
  if not calls:
    return message
  missing = _MISSING.search(message)
  name = calls[0].split("'")[1]
  if not missing:
    # Compared by name: gin raises an error of a derived class with this name.
    is_clear = name in message or type(error).__name__ != 'ValueError'
    return message if is_clear else f'{name}: {message}'
  scope = _SCOPE.search(calls[0])
  binding = f'{scope[1]}/{name}' if scope else name
  binding += '.' + missing[1].split("'")[1]
  return must_be_given(binding)
