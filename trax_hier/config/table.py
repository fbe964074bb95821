"""The table of bindings in force, and checks that need several of them."""

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

from trax_hier.config import names, text, types
from trax_hier.config.errors import ConfigError, cut, must_be_given, suggest
from trax_hier.config.files import Location
from trax_hier.config.macros import CircularMacroError, Extents

Key = tuple[str, str, str]

# Exponents of two that whole numbers stay below. Tables of positions are made
# before memory is estimated; JAX counts steps in 32 bits.
_BITS = {
  'trax_hier.layers.': 26,
  'trax_hier.models.': 26,
  'trax_hier.training.': 31,
}


class Binding(NamedTuple):
  """A binding in force: `scope/selector.parameter = value`, at `location`.

  As in gin, a macro NAME has the scope 'NAME', the selector 'gin.macro' and the
  parameter 'value'.
  """

  scope: str
  selector: str
  parameter: str
  value: Any
  location: Location

  @property
  def key(self) -> Key:
    """(scope, selector, parameter); of equal keys, the last binding counts."""
    return self[:3]

  @property
  def is_macro(self) -> bool:
    """Whether this binds a macro, as in `NAME = value`."""
    return self.selector == names.MACRO

  @property
  def name(self) -> str:
    """The left-hand side with the shortest unambiguous name."""
    if self.is_macro:
      return self.scope
    scoped = names.scoped_name(self.scope, self.selector)
    return f'{scoped}.{self.parameter}'


@dataclasses.dataclass
class Table:
  """Bindings, imports and sources parsed so far.

  Attributes:
    bindings: The bindings in force.
    imports: Import statements as text (a dict, which keeps their order).
    sources: Files and `--config` options as given, for `operative_text`.
    excused: Bindings that an override may have left without effect.
    called_later: Selectors that are called after `check_used`.
    idle: Why an argument of a call had no effect, '' if it had one, by selector
      and parameter; see `usage.record_effect`.
    passed_on: For a slot of a layer, such as 'RetinaAttention.pool', the slots
      of models that it gets its part from, such as 'RetinaLM.pool'.
    outranked: Bindings that precede, in another file or option, a binding that
      selects a component. The component may not take them, so that they have no
      effect.
    from_data: Sizes of vocabularies that the data gave.
  """

  bindings: dict[Key, Binding] = dataclasses.field(default_factory=dict)
  imports: dict[str, None] = dataclasses.field(default_factory=dict)
  sources: list[str] = dataclasses.field(default_factory=list)
  excused: set[Key] = dataclasses.field(default_factory=set)
  called_later: set[str] = dataclasses.field(default_factory=set)
  idle: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)
  outranked: set[Key] = dataclasses.field(default_factory=set)
  passed_on: dict[str, dict[str, None]] = dataclasses.field(
    default_factory=dict
  )
  from_data: set[Key] = dataclasses.field(default_factory=set)

  def copy(self) -> 'Table':
    """Returns a copy that shares no container with this one."""
    fields = (getattr(self, f.name) for f in dataclasses.fields(self))
    return Table(*(f.copy() for f in fields))

  def add(self, binding: Binding) -> None:
    """Adds a binding; it replaces an earlier one with its key."""
    old = self.bindings.get(binding.key)
    # An override that selects another component makes bindings of the replaced
    # component idle, which is not an error.
    if old and repr(old.value) != repr(binding.value) and _selects(old.value):
      self.excused |= set(self.bindings)
    if _selects(binding.value):
      self.outranked |= {
        key
        for key, other in self.bindings.items()
        if other.location.file != binding.location.file
      }
    self.excused.discard(binding.key)
    self.outranked.discard(binding.key)
    self.bindings[binding.key] = binding

  def macros_of(self, keys: Iterable[Key]) -> dict[Key, Binding]:
    """The macros these bindings refer to, directly or through other macros."""
    found, pending = {}, list(keys)
    while pending:
      for ref in names.references(self.bindings[pending.pop()].value):
        key = (names.macro_name(ref), names.MACRO, 'value')
        if key in self.bindings and key not in found:
          found[key] = self.bindings[key]
          pending.append(key)
    return found

  def check_macros(self) -> None:
    """Checks that macros exist, are not circular and are of limited size.

    Raises:
      ConfigError: naming the first fault and its place.
    """
    known = {b.scope for b in self.bindings.values() if b.is_macro}
    for binding in self.bindings.values():
      for ref in names.references(binding.value):
        macro = names.macro_name(ref)
        if macro and macro not in known:
          raise ConfigError(
            f'{binding.location}: there is no macro %{cut(macro)}'
            f'{suggest(macro, known)}'
          )
    extents = Extents(names.GinReference, self._macro)
    for binding in self.bindings.values():
      try:
        extents.check(
          binding.value, binding.scope if binding.is_macro else None
        )
      except CircularMacroError as error:
        macro = self.bindings[error.name, names.MACRO, 'value']
        raise ConfigError(f'{macro.location}: {error}') from None
      except ConfigError as error:
        raise ConfigError(
          f'{binding.location}: {cut(binding.name)}: {error}'
        ) from None

  def check(self) -> None:
    """Checks values and their types; raises ConfigError at the first fault.

    `check_macros` must have passed.
    """
    for binding in self.bindings.values():
      self._check_given(binding)
    for binding in self.bindings.values():
      if not binding.is_macro and self._is_given(binding):
        self._check_type(binding)

  def is_open(self, binding: Binding) -> bool:
    """Whether a model leaves the size of its vocabulary to the data."""
    is_model = not binding.selector.startswith('trax_hier.data.')
    return (
      is_model
      and binding.parameter == 'vocab_size'
      and self._expand(binding.value) is None
    )

  def source_of(self, binding: Binding) -> Binding:
    """The binding of the last macro that a value stands for, or itself."""
    while isinstance(binding.value, names.GinReference) and (
      macro := self._macro(binding.value)
    ):
      binding = self.bindings[macro[0], names.MACRO, 'value']
    return binding

  def _is_given(self, binding: Binding) -> bool:
    """Whether neither the value nor a macro in it is `%gin.REQUIRED`."""
    below = self.macros_of([binding.key]).values()
    return all(
      names.is_given(ref)
      for each in (binding, *below)
      for ref in names.references(each.value)
    )

  def _is_replaced(self, binding: Binding) -> bool:
    """Whether a later statement has replaced the binding's component."""
    selected = (names.references(b.value) for b in self.bindings.values())
    return binding.key in self.excused and not any(
      ref.configurable.selector == binding.selector
      for references in selected
      for ref in references
    )

  def _check_given(self, binding: Binding) -> None:
    """Rejects `%gin.REQUIRED`, unless only replaced components use it."""
    if all(map(names.is_given, names.references(binding.value))):
      return
    users = [
      user
      for user in self.bindings.values()
      if binding.key in self.macros_of([user.key])
    ]
    parameters = [user for user in users if not user.is_macro]
    if parameters and all(map(self._is_replaced, parameters)):
      return
    if binding.is_macro and not users and binding.key in self.excused:
      return
    names_of_users = [f'{user.name} ({user.location.short})' for user in users]
    used = f'; used by {", ".join(names_of_users)}' if users else ''
    raise ConfigError(
      f'{binding.location}: {must_be_given(binding.name)}{used}'
    )

  def _check_type(self, binding: Binding) -> None:
    hint = names.hint(binding.selector, binding.parameter)
    try:
      value = self._expand(binding.value)
    except TypeError as error:  # A macro with a list, as the key of a dict.
      raise ConfigError(
        f'{binding.location}: {binding.name}: {error}; keys are strings, '
        'numbers or tuples'
      ) from None
    if types.conforms(value, hint) or self.is_open(binding):
      self._check_size(binding, value)
      return
    advice = types.advice(value, hint, _shown)
    if isinstance(value, str) and types.takes_reference(hint):
      found = names.registry().matching_selectors(value)
      advice = f'; did you mean @{value}?' if found else advice
    is_reference = isinstance(value, names.GinReference)
    if is_reference and (own := names.own_namesake(value)):
      advice = f"; did you mean '{own}'?"
    kind = '' if is_reference or value is None else type(value).__name__ + ' '
    raise ConfigError(
      f'{binding.location}: {binding.name} takes {types.describe(hint)}, not'
      f' {kind}{_shown(value)}{advice}'
      f'{self._via(binding)}'
    )

  def _via(self, binding: Binding) -> str:
    """Names the macros in the value of a binding."""
    via = ', '.join(
      f'%{cut(macro.name)} is set at {macro.location.short}'
      for macro in list(self.macros_of([binding.key]).values())[:4]
    )
    return f' ({via})' if via else ''

  def _check_size(self, binding: Binding, value: Any) -> None:
    """Rejects whole numbers that would overflow or take all memory."""
    family = '.'.join(binding.selector.split('.')[:2]) + '.'
    bits = _BITS.get(family)
    if bits is None or binding.parameter == 'seed':  # A seed has 63 bits.
      return
    large = []

    def leaf(number):
      if abs(number) >= 2**bits:
        large.append(number)

    names.map_leaves(value, int, leaf)
    if large:
      raise ConfigError(
        f'{binding.location}: {binding.name} takes whole numbers below 2 ** '
        f'{bits}, not {_shown(large[0])}{self._via(binding)}'
      )

  def _macro(self, ref: names.GinReference) -> tuple[str, Any] | None:
    """Name and value of a macro; None for any other reference."""
    name = names.macro_name(ref)
    return (
      (name, self.bindings[name, names.MACRO, 'value'].value) if name else None
    )

  def _expand(self, value):
    """Replaces macros and constants with their values, at every depth."""

    def leaf(ref: names.GinReference):
      if ref.configurable.selector == names.CONSTANT:
        return ref.scoped_configurable_fn()
      macro = self._macro(ref)
      return ref if macro is None else self._expand(macro[1])

    return names.map_leaves(value, names.GinReference, leaf)


def _shown(value) -> str:
  """A value as gin text on one line of limited length."""
  return cut(' '.join(text.write(value).split()))


def _selects(value) -> bool:
  """Whether the value refers to a configurable or macro."""
  return any(
    ref.configurable.selector != names.CONSTANT
    for ref in names.references(value)
  )
