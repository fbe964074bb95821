"""The table of bindings in force, and the checks that need all of it."""

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

from trax_hier.config import names, text, types
from trax_hier.config.files import ConfigError, Location, suggest

Key = tuple[str, str, str]


class Binding(NamedTuple):
  """One value in force: `scope/selector.parameter = value`, set at `location`.

  A macro NAME has the scope 'NAME', the selector 'gin.macro' and the parameter
  'value', as in gin.
  """

  scope: str
  selector: str
  parameter: str
  value: Any
  location: Location

  @property
  def key(self) -> Key:
    """What a later binding must share to replace this one."""
    return self[:3]

  @property
  def is_macro(self) -> bool:
    """Whether this is `NAME = value`."""
    return self.selector == names.MACRO

  @property
  def name(self) -> str:
    """The left-hand side, as short as it is clear."""
    if self.is_macro:
      return self.scope
    scoped = names.scoped_name(self.scope, self.selector)
    return f'{scoped}.{self.parameter}'


@dataclasses.dataclass
class Table:
  """What has been parsed.

  Attributes:
    bindings: the bindings in force.
    imports: import statements as text, in order (a dict for its order).
    sources: files and `--config` options as given, for the record.
    excused: bindings that an override may have left without effect.
    called_later: selectors whose calls come after the check of use.
  """

  bindings: dict[Key, Binding] = dataclasses.field(default_factory=dict)
  imports: dict[str, None] = dataclasses.field(default_factory=dict)
  sources: list[str] = dataclasses.field(default_factory=list)
  excused: set[Key] = dataclasses.field(default_factory=set)
  called_later: set[str] = dataclasses.field(default_factory=set)

  def copy(self) -> 'Table':
    """Returns a copy that can be changed freely."""
    fields = (getattr(self, f.name) for f in dataclasses.fields(self))
    return Table(*(f.copy() for f in fields))

  def add(self, binding: Binding) -> None:
    """Binds; a later binding replaces an earlier one."""
    old = self.bindings.get(binding.key)
    # Choosing another part makes the bindings of the part it replaces idle,
    # which is how one overrides a file: no fault of those bindings.
    if old and repr(old.value) != repr(binding.value) and _is_choice(old.value):
      self.excused |= set(self.bindings)
    self.excused.discard(binding.key)
    self.bindings[binding.key] = binding

  def macros_below(self, keys: Iterable[Key]) -> dict[Key, Binding]:
    """The macros these bindings refer to, directly or through other macros."""
    found, pending = {}, list(keys)
    while pending:
      for ref in names.references(self.bindings[pending.pop()].value):
        key = (names.macro_name(ref), names.MACRO, 'value')
        if key in self.bindings and key not in found:
          found[key] = self.bindings[key]
          pending.append(key)
    return found

  def check(self) -> None:
    """Checks macros and types; raises ConfigError at the first fault."""
    for binding in self.bindings.values():
      self._check_macros_exist(binding)
    for binding in self.bindings.values():
      self._check_given(binding)
    for binding in self.bindings.values():
      if not binding.is_macro and self._is_given(binding):
        self._check_type(binding)

  def _check_macros_exist(self, binding: Binding) -> None:
    known = [b.scope for b in self.bindings.values() if b.is_macro]
    for ref in names.references(binding.value):
      macro = names.macro_name(ref)
      if macro and macro not in known:
        raise ConfigError(
          f'{binding.location}: there is no macro %{macro}'
          f'{suggest(macro, known)}'
        )
    if binding.is_macro and binding.key in self.macros_below([binding.key]):
      raise ConfigError(
        f'{binding.location}: the macro {binding.name} is defined by itself'
      )

  def _is_given(self, binding: Binding) -> bool:
    """Whether nothing in the value or below it is `%gin.REQUIRED`."""
    below = self.macros_below([binding.key]).values()
    return all(
      names.is_given(ref)
      for part in (binding, *below)
      for ref in names.references(part.value)
    )

  def _is_replaced(self, binding: Binding) -> bool:
    """Whether it is of a part that a later statement has put another for."""
    chosen = (names.references(b.value) for b in self.bindings.values())
    return binding.key in self.excused and not any(
      ref.configurable.selector == binding.selector
      for references in chosen
      for ref in references
    )

  def _check_given(self, binding: Binding) -> None:
    if all(map(names.is_given, names.references(binding.value))):
      return
    users = [
      user
      for user in self.bindings.values()
      if binding.key in self.macros_below([user.key])
    ]
    parts = [user for user in users if not user.is_macro]
    if parts and all(map(self._is_replaced, parts)):
      return
    if binding.is_macro and not users and binding.key in self.excused:
      return
    names_of_users = [f'{user.name} ({user.location.short})' for user in users]
    used = f'; used by {", ".join(names_of_users)}' if users else ''
    raise ConfigError(
      f'{binding.location}: {binding.name} must be given a value, as in'
      f" --config='{binding.name} = ...'{used}"
    )

  def _check_type(self, binding: Binding) -> None:
    wrapped = names.registry()[binding.selector].wrapped
    hint = types.parameters(wrapped)[binding.parameter]
    value = self._expand(binding.value)
    if types.conforms(value, hint):
      return
    advice = types.advice(value, hint, text.write)
    if isinstance(value, str) and types.takes_reference(hint):
      found = names.registry().matching_selectors(value)
      advice = f'; did you mean @{value}?' if found else advice
    is_reference = isinstance(value, names.GinReference)
    kind = '' if is_reference or value is None else type(value).__name__ + ' '
    via = ', '.join(
      f'%{macro.name} is set at {macro.location.short}'
      for macro in self.macros_below([binding.key]).values()
    )
    raise ConfigError(
      f'{binding.location}: {binding.name} takes {types.describe(hint)}, not'
      f' {kind}{text.write(value)}{advice}'
      f'{f" ({via})" if via else ""}'
    )

  def _expand(self, value):
    """Replaces macros and constants by their values, at every depth."""

    def leaf(ref: names.GinReference):
      if ref.configurable.selector == names.CONSTANT:
        return ref.scoped_configurable_fn()
      macro = names.macro_name(ref)
      if not macro:
        return ref
      return self._expand(self.bindings[macro, names.MACRO, 'value'].value)

    return names.map_leaves(value, names.GinReference, leaf)


def _is_choice(value) -> bool:
  """Whether the value brings in another configurable or macro."""
  return any(
    ref.configurable.selector != names.CONSTANT
    for ref in names.references(value)
  )
