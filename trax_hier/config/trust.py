"""Limits on gin files of others, such as the config.gin of an export.

Such a file imports and includes nothing. Its models, layers and positions take
models and layers; the data, the optimizer and the schedule take each other. So
a file cannot make a model's parameter open data, and nothing can call `train`.
"""

import sys
from collections.abc import Collection

from trax_hier.config import names, text
from trax_hier.config.errors import ConfigError
from trax_hier.config.files import Location
from trax_hier.config.table import Binding, Table

TRAIN = 'trax_hier.training.train'
# Configurables of Trax, such as its backend, which every run records.
_TRAX = 'trax.'
_MODEL = 'trax_hier.layers.', 'trax_hier.models.'
_DATA = ('trax_hier.data.',)
_TRAINING = *_DATA, 'trax_hier.training.'
_ADVICE = 'if you trust its author, --trust_code (trust_code=True) allows it'


def check_import(module: str, at: Location) -> None:
  """Raises ConfigError if an untrusted file may not import a module.

  It may name the modules of trax_hier that are imported already.
  """
  own = module.partition('.')[0] == 'trax_hier'
  if not at.is_trusted and not (own and module in sys.modules):
    raise ConfigError(
      f'{at}: a configuration of others may import nothing but trax_hier;'
      f' {_ADVICE}'
    )


def check_calls(table: Table) -> None:
  """Raises ConfigError if a statement of an untrusted file goes too far."""
  for binding in table.bindings.values():
    if not binding.is_macro:
      allowed = _callable_by(binding)
      if not (allowed or binding.location.is_trusted or is_inert(binding)):
        raise _refusal(binding, names.short_name(binding.selector))
      for each in (binding, *table.macros_of([binding.key]).values()):
        _check_references(each, allowed)
    else:
      _check_references(binding, (*_MODEL, *_TRAINING))


def is_inert(binding: Binding) -> bool:
  """Whether a binding of an untrusted file is not to be bound in gin.

  `config.value` reads the arguments of `train` from the table, and no call of
  `train` should take them; Trax keeps its defaults.
  """
  is_read = binding.selector == TRAIN or binding.selector.startswith(_TRAX)
  return is_read and not binding.location.is_trusted


def check_no_paths(
  table: Table, name: str, harmless: Collection[str] = ()
) -> None:
  """Checks that an untrusted file does not choose the files that data read.

  Args:
    table: The bindings in force.
    name: Parameter that holds the data set, such as 'train.data'.
    harmless: Selectors of data sets that take no path.

  Raises:
    ConfigError: A string reaches a data set from an untrusted file.
  """
  configurable, _, parameter = name.rpartition('.')
  key = '', names.resolve(configurable), parameter
  pending = [key] if key in table.bindings else []
  seen = set(pending)
  while pending:
    key = pending.pop()
    values = (table.bindings[key], *table.macros_of([key]).values())
    for each in values:
      strings = []
      names.map_leaves(each.value, str, strings.append)
      if strings and not each.location.is_trusted and key[1] not in harmless:
        raise ConfigError(
          f'{each.location}: a configuration of others does not choose files '
          f'to read: give your own, as in --config="{each.name} = \'...\'";'
          f' {_ADVICE}'
        )
      called = {r.configurable.selector for r in names.references(each.value)}
      found = {k for k in table.bindings if k[1] in called} - seen
      seen |= found
      pending += found


def _callable_by(binding: Binding) -> tuple[str, ...]:
  """Prefixes of the selectors that a binding of an untrusted file may take."""
  is_model = (binding.selector, binding.parameter) == (TRAIN, 'model')
  if is_model or binding.selector.startswith(_MODEL):
    return _MODEL
  if binding.selector.startswith(_DATA):
    return _DATA
  return _TRAINING if binding.selector.startswith(_TRAINING) else ()


def _check_references(binding: Binding, allowed: tuple[str, ...]) -> None:
  if binding.location.is_trusted:
    return
  for ref in names.references(binding.value):
    selector = ref.configurable.selector
    if selector in (names.MACRO, names.CONSTANT):
      continue
    if selector == TRAIN or not selector.startswith(allowed):
      raise _refusal(binding, text.write(ref))


def _refusal(binding: Binding, what: str) -> ConfigError:
  return ConfigError(
    f'{binding.location}: a configuration of others may call only models,'
    f' layers and positions of trax_hier, not {what} here; {_ADVICE}'
  )
