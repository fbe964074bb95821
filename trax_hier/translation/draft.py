"""The new gin file while it is made, and what is said of the old one."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from trax_hier.config.files import Reference
from trax_hier.config.foreign import Setting
from trax_hier.config.text import write
from trax_hier.translation.source import Part, macro_of

SECTIONS = 'Data', 'Model', 'Optimizer', 'Training'
REQUIRED = Reference('gin.REQUIRED', '%', True)
# Parameters whose values are macros, as tiny.gin and smoke.gin expect.
_SIZES = {
  'vocab_size': 'VOCAB_SIZE',
  'd_model': 'D_MODEL',
  'd_ff': 'D_FF',
  'n_heads': 'N_HEADS',
  'dropout': 'DROPOUT',
  'window': 'WINDOW',
  'n_states': 'N_STATES',
  'n_elements_in_block': 'N_ELEMENTS',
  'SparseAttention.n_modules': 'N_MODULES',
  'SparseCrossAttention.n_modules': 'N_MODULES',
  'MultiplicativeDense.n_modules': 'LOSS_MODULES',
}
# Macros with a meaning in the files here, such as tiny.gin.
_RESERVED = {*_SIZES.values(), 'CHUNK_LEN', 'DATA', 'VOCAB'}


@dataclasses.dataclass
class Draft:
  """Bindings and comments of the new file.

  Attributes:
    macros: {name: value}.
    sections: {title: {name: value}}.
    lost: (binding or None, what differs) of settings without counterpart.
    harmless: Old bindings that change no result here.
    decisions: {name: text} of bindings that the user must look at.
    lengths: Tokens of a row, and of a row of sources if the model reads any, to
      build the model without data.
    renames: {macro of the old files: macro here}; others keep their names.
  """

  macros: dict[str, Any] = dataclasses.field(default_factory=dict)
  sections: dict[str, dict[str, Any]] = dataclasses.field(
    default_factory=lambda: {title: {} for title in SECTIONS}
  )
  lost: list[tuple[Setting | None, str]] = dataclasses.field(
    default_factory=list
  )
  harmless: list[Setting] = dataclasses.field(default_factory=list)
  decisions: dict[str, str] = dataclasses.field(default_factory=dict)
  lengths: tuple[int, ...] = (512,)
  renames: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def bind(
    self, section: str, name: str, value: Any, setting: Setting | None = None
  ) -> None:
    """Adds a binding.

    Sizes become macros. A number that was a macro of the old file stays one.
    A name that has another value already keeps it, which is noted.

    Args:
      section: One of `SECTIONS`.
      name: 'Configurable.parameter'.
      value: Its value, without macros.
      setting: The old binding, if there is one.
    """
    size = _SIZES.get(name) or _SIZES.get(name.rpartition('.')[2])
    old = macro_of(setting) if type(value) in (int, float, str) else ''
    macro = size or self._new_name(old)
    if self._is_taken(section, name, value, setting):
      return
    # Of two values for one name, the first has the macro.
    if macro and self.macros.setdefault(macro, value) == value:
      value = Reference(macro, '%', True)
    self.sections[section][name] = value

  def replace(
    self, section: str, name: str, value: Any, setting: Setting
  ) -> None:
    """Adds a binding that the old files have in its name here.

    It takes the place of one that was translated.
    """
    first = self._without_macro(self.sections[section].pop(name, value))
    self.bind(section, name, value, setting)
    if first != value:
      text = f'{name} = {write(value)} replaces the translated {write(first)}'
      self.lose(None, text)

  def require(self, section: str, name: str, macro: str, text: str) -> None:
    """Adds a binding whose value, a macro, the user must give."""
    self.macros.setdefault(macro, REQUIRED)
    self.sections[section][name] = Reference(macro, '%', True)
    self.decisions[macro] = text

  def refer(
    self, section: str, name: str, to: str, evaluate: bool = False
  ) -> None:
    """Adds a binding to a reference, `@to` or `@to()`."""
    reference = Reference(to, '@', evaluate)
    if not self._is_taken(section, name, reference):
      self.sections[section][name] = reference

  def copy(
    self, section: str, part: Part, parameter: str, name: str, default: Any
  ) -> Any:
    """Adds the value that a parameter has in the old files; returns it.

    Args:
      section: One of `SECTIONS`.
      part: The old configurable.
      parameter: Its parameter.
      name: The new binding.
      default: The value in the old library if no binding sets it.
    """
    value = part.get(parameter, default=default)
    self.bind(section, name, value, part.setting(parameter))
    return value

  def value(self, name: str) -> Any:
    """Returns the value of a binding of the model; None if there is none."""
    return self._without_macro(self.sections['Model'].get(name))

  def decide(self, name: str, text: str) -> None:
    """Notes that the value of a binding is the user's decision."""
    self.decisions[name] = text

  def lose(self, setting: Setting | None, text: str) -> None:
    """Notes a setting without counterpart, and what differs."""
    if (setting, text) not in self.lost:
      self.lost.append((setting, text))

  def compare(
    self, part: Part, parameter: str, equal: Any, default: Any, text: str
  ) -> None:
    """Notes a parameter as lost unless its value is the one used here.

    Args:
      part: The old configurable.
      parameter: Its parameter.
      equal: The value, or a tuple of values, that changes nothing.
      default: The value in the old library if no binding sets it.
      text: What differs.
    """
    value = part.get(parameter, default=default)
    setting = part.setting(parameter)
    values = equal if isinstance(equal, tuple) and equal else (equal,)
    if value not in values:
      if setting is None:
        name = f'{part.names[0]}.{parameter}'
        text = f'{name} = {value!r} is the old default: {text}'
      self.lose(setting, text)
    elif setting is not None:
      self.harmless.append(setting)

  def _is_taken(self, section, name, value, setting=None):
    """Whether a name has another value, which is noted."""
    rows = self.sections[section]
    if name not in rows:
      return False
    first = self._without_macro(rows[name])
    if first == value:
      return False
    text = f'{name} = {write(first)} already, and has one value here'
    self.lose(setting, text if setting else f'{text}: {write(value)} is lost')
    return True

  def _without_macro(self, value):
    is_macro = isinstance(value, Reference) and value.sigil == '%'
    return self.macros[value.name] if is_macro else value

  def _new_name(self, macro):
    name = macro.replace('/', '_')
    if name in self.renames:
      return self.renames[name]
    return f'OLD_{name}' if name in _RESERVED else name
