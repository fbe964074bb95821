"""Limits on what the macros in a value stand for.

A few lines can define a value of a billion items: each macro a list of others.
"""

from collections.abc import Callable
from typing import Any

from trax_hier.config.errors import ConfigError

# Gin resolves macros by recursion, with several frames of Python for each.
_MAX_DEPTH = 40
_MAX_ITEMS = 10**5


class CircularMacroError(ConfigError):
  """A macro refers to itself; `name` is its name."""

  def __init__(self, name: str):
    """Takes the name of the macro."""
    super().__init__(f'the macro {name} refers to itself')
    self.name = name


class Extents:
  """Measures values as if their macros were replaced, without replacing them.

  The limit on items holds for all measured values together.
  """

  def __init__(
    self, kind: type, value_of: Callable[[Any], tuple[str, Any] | None]
  ):
    """Takes the type of references.

    Args:
      kind: Type of macros and other references.
      value_of: Gives the name and the value of a macro, or None for another
        reference.
    """
    self._kind, self._value_of = kind, value_of
    self._macros, self._open = {}, {None}
    self._total = 0

  def check(self, value: Any, name: str | None = None) -> None:
    """Measures a value.

    Args:
      value: The value.
      name: Name of the macro whose value this is, if it is one.

    Raises:
      CircularMacroError: A macro in it refers to itself.
      ConfigError: It is too large or too deep.
    """
    self._open = {name}
    self._total += self._measure(value, 0)[0]
    if self._total > _MAX_ITEMS:
      raise ConfigError(f'the values have more than {_MAX_ITEMS:,} items')

  def _measure(self, value, level):
    """The number of items in a value, and how deep they are nested."""
    macro = self._value_of(value) if isinstance(value, self._kind) else None
    if macro is not None:
      name, inner = macro
      if name in self._open:
        raise CircularMacroError(name)
      if name not in self._macros:
        self._open.add(name)
        self._macros[name] = self._measure_all([inner], level)
        self._open.remove(name)
      items, depth = self._macros[name]
    elif type(value) is dict:
      items, depth = self._measure_all([*value, *value.values()], level)
    elif type(value) in (tuple, list):
      items, depth = self._measure_all(value, level)
    else:
      items, depth = 1, 0
    if level + depth > _MAX_DEPTH:
      raise _too_deep()
    return items, depth

  def _measure_all(self, values, level):
    if level >= _MAX_DEPTH:
      raise _too_deep()
    measured = [self._measure(value, level + 1) for value in values]
    items = sum(items for items, _ in measured)
    return 1 + items, 1 + max((depth for _, depth in measured), default=0)


def _too_deep():
  return ConfigError(
    f'macros, lists, tuples and dictionaries are nested more than {_MAX_DEPTH} '
    'deep'
  )
