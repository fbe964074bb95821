"""ConfigError, and parts of its messages, which name the fault and the fix.

The package docstring lists the modules that raise it.
"""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
  """A fault in a gin file or binding: one message with file, line, binding."""


def cut(text: str, longest: int = 160) -> str:
  """Returns a text of a message, cut if it is long, with what it lacks."""
  if len(text) <= longest:
    return text
  return f'{text[:longest]}... ({len(text) - longest:,} more characters)'


def suggest(name: str, known: Iterable[str]) -> str:
  """Returns '; did you mean ...?' with known names close to `name`, or ''.

  Names that begin with `name` come first, then those that contain it, then
  those of similar spelling.
  """
  by_lower = {k.lower(): k for k in sorted(known)}
  wanted = name.lower()
  near = [n for n in by_lower if len(wanted) > 2 and wanted in n]
  near.sort(key=lambda n: (not n.startswith(wanted), len(n)))
  # A name of any length takes its time, but none of ours is this long.
  if len(wanted) <= 100:
    near += difflib.get_close_matches(wanted, list(by_lower), n=3)
  near = list(dict.fromkeys(near))[:3]
  if not near:
    return ''
  return '; did you mean ' + ' or '.join(f"'{by_lower[n]}'" for n in near) + '?'


def must_be_given(name: str) -> str:
  """Returns the message for a parameter or macro without a value."""
  return f"{name} must be given a value, as in --config='{name} = ...'"
