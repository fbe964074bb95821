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


def cut_middle(text: str, longest: int) -> str:
  """Returns a text of a message without its middle if it is long.

  The legal values come last, and must not be lost to a long value before.
  """
  if len(text) <= longest:
    return text
  half = longest // 2
  n_lost = len(text) - 2 * half
  return f'{text[:half]}... ({n_lost:,} more characters) ...{text[-half:]}'


def suggest(name: str, known: Iterable[str]) -> str:
  """Returns '; did you mean ...?' with known names close to `name`, or ''.

  Names of the same words come first, then those that begin with `name`, those
  that contain it, and those of similar spelling.
  """
  by_lower = {k.lower(): k for k in sorted(known)}
  wanted = name.lower()
  near = [n for n in by_lower if len(wanted) > 2 and wanted in n]
  near.sort(key=lambda n: (not n.startswith(wanted), len(n)))
  words = sorted(wanted.split('_'))
  near = [n for n in by_lower if sorted(n.split('_')) == words] + near
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
