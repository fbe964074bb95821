"""Errors of the configuration: one message that names the fault and the fix."""

import difflib
import re
from collections.abc import Iterable

# What gin 0.5.0 appends to the errors of the configurables it calls.
_MISSING = re.compile(r'No values supplied by Gin or caller .*: \[(.*)\]')
_SCOPE = re.compile(r" in scope '(.*)'\s*$")


class ConfigError(ValueError):
  """A fault in a gin file or binding: one message with file, line, binding."""


def suggest(name: str, known: Iterable[str]) -> str:
  """Returns '; did you mean ...?' for the known names near `name`, or ''."""
  by_lower = {k.lower(): k for k in known}
  near = difflib.get_close_matches(name.lower(), list(by_lower), n=3)
  if not near:
    return ''
  return '; did you mean ' + ' or '.join(f"'{by_lower[n]}'" for n in near) + '?'


def must_be_given(name: str) -> str:
  """The message for a binding that only the user can choose."""
  return f"{name} must be given a value, as in --config='{name} = ...'"


def explain(error: Exception) -> str:
  """Returns the message of an error that passed through configurables.

  Gin appends the chain of calls to every error, and its bindings to a missing
  argument. Here the chain is reduced to the configurable at fault, and a
  missing argument to the binding that would set it.
  """
  message, *calls = str(error).split('\n  In call to configurable ')
  if not calls:
    return message
  missing = _MISSING.search(message)
  name = calls[0].split("'")[1]
  if not missing:
    known = name in message or type(error).__name__ != 'ValueError'
    return message if known else f'{name}: {message}'
  scope = _SCOPE.search(calls[0])
  binding = f'{scope[1]}/{name}' if scope else name
  binding += '.' + missing[1].split("'")[1]
  return must_be_given(binding)
