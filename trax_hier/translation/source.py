"""The bindings of old gin files, and which of them a translation has used."""

from collections.abc import Iterable
from typing import Any

from trax_hier.config import names
from trax_hier.config.errors import ConfigError, must_be_given
from trax_hier.config.files import Reference
from trax_hier.config.foreign import Document, Setting
from trax_hier.config.macros import CircularMacroError, Extents
from trax_hier.config.names import OWN


class Source:
  """Bindings of old files; of equal ones, the last counts.

  Attributes:
    settings: {(scope, configurable, parameter): binding}; of configurables only
      the last part of the name, since modules have moved between versions.
    macros: {name: binding} of the macros.
    own: Bindings of ours, whose names are given in full: {(scope, selector,
      parameter): binding}.
    document: The files as written.
    taken: Keys of the settings that a rule has used.
    chosen: Configurables that the model or its training calls.
    last: The setting whose value was read last.
  """

  def __init__(self, document: Document):
    self.settings: dict[tuple[str, str, str], Setting] = {}
    self.macros: dict[str, Setting] = {}
    self.own: dict[tuple[str, str, str], Setting] = {}
    self.document = document
    self.taken: set[tuple[str, str, str]] = set()
    self.chosen: set[str] = set()
    self.last: Setting | None = None
    for setting in document.settings:
      if setting.parameter and setting.selector.startswith(OWN):
        self.own[setting.scope, setting.selector, setting.parameter] = setting
      elif setting.parameter:
        key = setting.scope, setting.name, setting.parameter
        self.settings.pop(key, None)
        self.settings[key] = setting
      else:
        self.macros[_macro_name(setting)] = setting

  def find(self, name: str, parameter: str, scope: str = '') -> Setting | None:
    """Returns the binding in force in a scope and marks it as used."""
    self.chosen.add(name)
    scopes = scope.split('/') if scope else []
    for n in range(len(scopes), -1, -1):
      key = '/'.join(scopes[:n]), name, parameter
      if key in self.settings:
        self.taken.add(key)
        return self.settings[key]
    return None

  def value(self, setting: Setting) -> Any:
    """Returns the value of a binding, with macros replaced.

    Raises:
      ConfigError: A macro is missing, refers to itself or must be given.
    """
    self.last = setting

    def macro(reference):
      if reference.sigil != '%':
        return None
      if reference.name == 'gin.REQUIRED':
        raise ConfigError(f'{setting.location}: {must_be_given(setting.key)}')
      if reference.name not in self.macros:
        raise ConfigError(
          f'{setting.location}: there is no macro %{reference.name}; give the '
          'file that sets it first'
        )
      return reference.name, self.macros[reference.name].value

    def expand(value):
      def leaf(reference):
        found = macro(reference)
        return reference if found is None else expand(found[1])

      return names.map_leaves(value, Reference, leaf)

    try:
      Extents(Reference, macro).check(setting.value)
    except CircularMacroError as error:
      raise ConfigError(f'{setting.location}: {error}') from None
    return expand(setting.value)

  def part(self, *names_of: str, scope: str = '') -> 'Part':
    """Returns a view of one configurable, by all names that it has had."""
    return Part(self, names_of, scope)

  def idle(self) -> list[Setting]:
    """The bindings that no rule has used, in order."""
    return [s for key, s in self.settings.items() if key not in self.taken]


class Part:
  """A configurable of the old files, as called in a scope."""

  def __init__(self, source: Source, names_of: Iterable[str], scope: str):
    self.source, self.names, self.scope = source, tuple(names_of), scope

  def setting(self, *parameters: str) -> Setting | None:
    """Returns the last binding of a parameter, by any of its names."""
    found = [
      self.source.find(name, parameter, self.scope)
      for name in self.names
      for parameter in parameters
    ]
    order = list(self.source.settings.values())
    return max(filter(None, found), key=order.index, default=None)

  def get(self, *parameters: str, default: Any = None) -> Any:
    """Returns the value of a parameter: its binding, or Trax's default."""
    setting = self.setting(*parameters)
    return default if setting is None else self.source.value(setting)

  def target(self, *parameters: str, default: str = '') -> tuple[str, str]:
    """Returns scope and name of the configurable that a parameter refers to.

    Raises:
      ConfigError: Its value is not a reference.
    """
    value = self.get(*parameters)
    if value is None:
      return '', default
    if not isinstance(value, Reference):
      setting = self.setting(*parameters)
      raise ConfigError(
        f'{setting.location}: {setting.key} takes a reference such as @Name'
      )
    return target(value)


def target(reference: Reference) -> tuple[str, str]:
  """Returns the scope and the last part of the name of a reference.

  A full name of ours stays as it is.

  Example:
    >>> target(Reference('encoder/trax.layers.Attention', '@', False))
    ('encoder', 'Attention')
  """
  scope, _, name = reference.name.rpartition('/')
  return scope, name if name.startswith(OWN) else name.rpartition('.')[2]


def macro_of(setting: Setting | None) -> str:
  """Returns NAME if the value of a binding is `%NAME`, or ''."""
  value = setting.value if setting else None
  is_macro = isinstance(value, Reference) and value.sigil == '%'
  return value.name if is_macro else ''


def _macro_name(setting):
  return f'{setting.scope}/{setting.selector}' * bool(setting.scope) or (
    setting.selector
  )
