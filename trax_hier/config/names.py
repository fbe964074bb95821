"""Resolves names and references in gin files.

Besides `plain_gin`, the only module that uses private names of gin. A
*selector* is the full name of a configurable, such as
`trax_hier.layers.DecoderBlock`.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import gin

from trax_hier.config import types
from trax_hier.config.errors import ConfigError, cut, suggest
from trax_hier.config.files import Location, Reference
from trax_hier.config.name_hints import configurable_hint, parameter_hint

MACRO, CONSTANT = 'gin.macro', 'gin.constant'
GinReference = gin.config.ConfigurableReference
OWN = 'trax_hier.'
# Folders of gin files in which `import_module` has found modules.
_import_folders: list[str] = []


def import_module(statement, at: Location) -> None:
  """Runs an import statement; raises ConfigError if it fails.

  The module may lie in the current folder, which `python -m` searches, but an
  installed program does not, or beside the gin file. Neither folder is searched
  unless gin imports a module, because a file there may have the name of an
  optional package. Afterwards the folder of the gin file is searched last.
  """
  module = statement.module
  if module.startswith('__gin__'):
    raise ConfigError(
      f'{at}: trax_hier does not use {module}: delete the line; a file of '
      'meliad is translated by trax-hier import_config'
    )
  here, beside = os.getcwd(), None
  if at.file is not None:
    beside = os.path.dirname(os.path.abspath(at.file))
  is_new = module not in sys.modules
  is_added = is_new and beside not in (None, here, *sys.path)
  try:
    if is_added:
      sys.path.insert(0, beside)
    if is_new and '' not in sys.path:
      sys.path[:] = [here, *(path for path in sys.path if path != here)]
    importlib.import_module(module)
    if is_added:
      _import_folders.append(beside)
  except Exception as e:  # Code of the module may raise anything.
    reason = cut(' '.join(f'{type(e).__name__}: {e}'.split()))
    if isinstance(e, ModuleNotFoundError) and e.name == module.split('.')[0]:
      places = dict.fromkeys(x for x in (here, beside) if x is not None)
      reason += (
        f'; searched {" and ".join(places)}; PYTHONPATH adds other folders'
      )
    raise ConfigError(f"{at}: cannot import '{module}': {reason}") from e
  finally:
    if is_added:
      sys.path.remove(beside)
      sys.path.append(beside)


def import_folders() -> list[str]:
  """Folders of gin files in which imports have found modules."""
  return list(_import_folders)


def resolve(
  name: str,
  at: Location | None = None,
  sigil: str = '',
  fits: Callable[[str], bool] = bool,
) -> str:
  """Returns the selector that a short name stands for.

  Args:
    name: The end of a selector; selectors of trax_hier take precedence.
    at: The statement with the name; None outside of gin text.
    sigil: '@' if the name is a reference; part of the message.
    fits: Whether a selector is worth a suggestion.

  Raises:
    ConfigError: No configurable has this name, or several have it.
  """
  prefix = f'{at}: ' if at else ''
  # `gin.macro` and the like serve gin, not its users.
  matches = [
    m for m in registry().matching_selectors(name) if not m.startswith('gin.')
  ]
  own = [m for m in matches if m.startswith(OWN)]
  matches = own if len(own) == 1 else matches
  if len(matches) > 1:
    raise ConfigError(
      f"{prefix}'{sigil}{name}' is ambiguous: write the full name,"
      f' {" or ".join(sorted(matches))}'
    )
  if not matches:
    last = name.rsplit('.')[-1]
    known = [s for s, _ in registry().items() if not s.startswith('gin.')]
    fitting = [s.rsplit('.')[-1] for s in known if fits(s)]
    hint = configurable_hint(last) or suggest(last, fitting)
    hint = hint or suggest(last, [s.rsplit('.')[-1] for s in known])
    hint = hint or '; is the `import` of its module missing?'
    raise ConfigError(
      f"{prefix}there is no configurable '{sigil}{cut(name)}'{hint}"
    )
  return matches[0]


def bindable_parameters(name: str) -> list[str]:
  """Returns the parameters of a configurable that gin can bind."""
  found = registry()[resolve(name)]
  named = types.parameter_hints(found.wrapped)
  legal = [p for p in named if p not in (found.denylist or ())]
  return [p for p in legal if p in (found.allowlist or legal)]


def hint(selector: str, parameter: str) -> Any:
  """Returns the annotation of a parameter."""
  return types.parameter_hints(registry()[selector].wrapped)[parameter]


def check_parameter(selector: str, parameter: str, at: Location) -> None:
  """Raises ConfigError unless gin can bind `parameter` of `selector`."""
  legal = bindable_parameters(selector)
  if parameter in legal:
    return
  if parameter in types.parameter_hints(registry()[selector].wrapped):
    fault = f"sets its parameter '{parameter}' itself: gin cannot bind it"
  else:
    hint = parameter_hint(short_name(selector), parameter)
    hint = hint or suggest(parameter, legal)
    fault = f"has no parameter '{cut(parameter)}'{hint}"
  fault = fault if fault.endswith('?') else f'{fault}.'
  takes = cut(', '.join(legal), 400) or 'none'
  raise ConfigError(
    f'{at}: {short_name(selector)} {fault}{_elsewhere(parameter)} Its '
    f'parameters: {takes}'
  )


def _elsewhere(parameter: str) -> str:
  """Names the optimizers, schedules and data with a parameter of this name."""
  found = [
    f'{short_name(s)}.{parameter}'
    for s, c in registry().items()
    if s.startswith(('trax_hier.training.', 'trax_hier.data.'))
    and parameter in types.parameter_hints(c.wrapped)
  ]
  if parameter == 'learning_rate':
    found.append('multifactor.constant for the schedule @multifactor()')
  return f' There is {" and ".join(found)}.' if 0 < len(found) < 6 else ''


def link(ref: Reference, at: Location, hint: Any = Any) -> GinReference:
  """Converts a `Reference` to gin's own type, with its full selector.

  Args:
    ref: The reference.
    at: Its statement.
    hint: Annotation of the parameter that takes it, for suggestions.
  """
  if ref.sigil == '%':
    try:
      return gin.config.ParserDelegate().macro(ref.name)
    except ValueError as e:  # An ambiguous constant.
      raise ConfigError(f'{at}: {e}') from None
  *scopes, name = ref.name.split('/')

  def fits(selector):
    return types.conforms(GinReference(selector, ref.evaluate), hint)

  selector = resolve(name, at, '@', fits)
  return GinReference('/'.join([*scopes, selector]), ref.evaluate)


def scoped_name(scope: str, selector: str) -> str:
  """`scope/name`, where the name is the `short_name`."""
  return f'{scope}/{short_name(selector)}' if scope else short_name(selector)


def short_name(selector: str) -> str:
  """The last part of a selector if unique in trax_hier, else the selector."""
  name = selector.rsplit('.')[-1]
  own = [m for m in registry().matching_selectors(name) if m.startswith(OWN)]
  return name if own == [selector] else selector


# Values and references --------------------------------------------------------


def map_leaves(value, leaf: type | tuple[type, ...], fn: Callable):
  """Maps `fn` over the leaves of the given types in a nested value."""
  if isinstance(value, leaf):
    return fn(value)
  if type(value) in (tuple, list):
    return type(value)(map_leaves(v, leaf, fn) for v in value)
  if type(value) is dict:
    return {
      map_leaves(k, leaf, fn): map_leaves(v, leaf, fn) for k, v in value.items()
    }
  return value


def references(value) -> list[GinReference]:
  """The references and macros anywhere in a value."""
  found = []
  map_leaves(value, GinReference, found.append)
  return found


def macro_name(ref: GinReference) -> str:
  """NAME of `%NAME`, or '' for any other reference."""
  return '/'.join(ref.scopes) if ref.configurable.selector == MACRO else ''


def parts(selector: str) -> set[str]:
  """Selectors that the parameters of a configurable refer to.

  Parameters without a binding count with their default.
  """
  found = {
    ref.configurable.selector
    for (_, bound), values in bindings().items()
    if bound == selector
    for ref in references(list(values.values()))
  }
  wrapped = registry()[selector].wrapped
  defaults = [p.default for p in inspect.signature(wrapped).parameters.values()]
  return found | {
    other
    for other, configurable in registry().items()
    if any(configurable.wrapper is default for default in defaults)
  }


def own_namesake(ref: GinReference) -> str:
  """The last part of a foreign name if trax_hier has one like it, else ''."""
  selector = ref.configurable.selector
  name = selector.rsplit('.')[-1]
  own = [m for m in registry().matching_selectors(name) if m.startswith(OWN)]
  return name if own and not selector.startswith(OWN) else ''


def is_given(ref: GinReference) -> bool:
  """Whether a reference is anything other than `%gin.REQUIRED`."""
  return (
    ref.configurable.selector != CONSTANT
    or ref.scoped_configurable_fn() is not gin.REQUIRED
  )


# Private names of gin ---------------------------------------------------------


def registry():
  """Gin's map from selectors to configurables."""
  return gin.config._REGISTRY


def calls() -> dict[tuple[str, str], dict[str, Any]]:
  """{(scope, selector): {parameter: value}} of the calls so far."""
  with gin.config._OPERATIVE_CONFIG_LOCK:
    return {k: dict(v) for k, v in gin.config._OPERATIVE_CONFIG.items()}


def bindings() -> dict[tuple[str, str], dict[str, Any]]:
  """{(scope, selector): {parameter: value}} of the bindings in gin."""
  return gin.config._CONFIG
