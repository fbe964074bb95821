"""The one door to gin: files, bindings, checks, the operative config.

    config.parse(['quickstart.gin'], ['train.steps = 10'])
    ...                        # build; configurables take their bindings
    config.check_used()        # no binding without effect
    config.operative_text()    # the values used, as a gin file

Stricter than gin 0.5.0, which takes any type and any name a `**kwargs`
swallows: names, types and macros are checked when parsed, and each fault is one
`ConfigError`. A short name that several modules register means the one of
trax_hier; a fully qualified name reaches the others.
"""

import copy
import inspect
import re
from collections.abc import Collection, Sequence
from typing import Any

import gin
from gin import config_parser

from trax_hier.config import files, names, text
from trax_hier.config.files import ConfigError, Location
from trax_hier.config.table import Binding, Key, Table

# What gin 0.5.0 appends to the errors of the configurables it calls.
_MISSING = re.compile(r'No values supplied by Gin or caller .*: \[(.*)\]')
_SCOPE = re.compile(r" in scope '(.*)'\s*$")

_table = Table()


def parse(
  config_files: Sequence[str] = (), bindings: Sequence[str] = ()
) -> None:
  """Reads gin files, then bindings on top, checks them and hands them to gin.

  Later files and bindings win. A file is looked for in the current folder, an
  included one then in the folder of the file that includes it, and both at last
  among the packaged files, by their short name (`quickstart.gin`).

  The modules that register the configurables must be imported before, by the
  caller or by `import x.y` in the gin file. On an error nothing is bound.

  Args:
    config_files: paths or short names of gin files.
    bindings: gin statements such as `'train.steps = 10'`.

  Raises:
    ConfigError: one message that names file, line and binding.

  Example:
    >>> from trax_hier import data, models, training
    >>> parse(['quickstart.gin'], ['train.steps = 10'])
    >>> value('train.steps'), value('StandardLibrary.length')
    (10, 256)
    >>> clear()
  """
  global _table
  table = _table.copy()
  for name in config_files:
    for statement, at in files.read_file(name):
      _take(statement, at, table)
  for binding in bindings:
    for statement, at in files.read_bindings(binding):
      _take(statement, at, table)
  table.sources += [*config_files, *(f"--config='{b}'" for b in bindings)]
  table.check()
  for binding in table.bindings.values():
    gin.bind_parameter(binding.key, binding.value)
  _table = table


def check_used(called_later: Sequence[str] = ()) -> None:
  """Checks that each binding has had an effect by now.

  A binding that a deeper scope hides still counts as used. One older than an
  override that chose another part is let pass: the bindings of the discarded
  part are idle by intention.

  Args:
    called_later: names of configurables that the run calls only after this
      check; their bindings are not looked at.

  Raises:
    ConfigError: names each binding without effect and says why.
  """
  _table.called_later = {names.resolve(name) for name in called_later}
  calls = names.calls()
  live = _live(calls)
  faults = [
    f'{binding.location}: {_why_idle(binding, calls)}'
    for key, binding in _table.bindings.items()
    if key not in live and key not in _table.excused
  ]
  if len(faults) == 1:
    raise ConfigError(f'{faults[0]}, so the binding has no effect')
  if faults:
    raise ConfigError(
      f'{len(faults)} bindings have no effect:\n  ' + '\n  '.join(faults)
    )


def explain(error: Exception) -> str:
  """Returns an error that came through configurables as one clear message.

  Gin adds the chain of calls to each such error, and to a missing argument what
  it had bound; here the first is dropped, but for the name of the configurable
  at fault, and the second names the binding.
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
  return _must_be_given(binding)


def operative_text() -> str:
  """Returns the values used so far as a gin file that runs the same again.

  Holds each parameter of each configurable called so far that no caller set
  itself, defaults included, and the bindings of those `check_used` was told
  are called later. Values bound from Python that gin cannot write are left out.
  """
  calls = names.calls()
  macros, sections = {}, {}
  for (scope, selector), values in calls.items():
    if selector == names.MACRO:
      macros |= {scope: values['value']}
    elif selector != names.CONSTANT:
      sections[scope, selector] = values
  for key in _live(calls):
    binding = _table.bindings[key]
    if binding.is_macro:
      macros[binding.name] = binding.value
    elif binding.selector in _table.called_later:
      section = sections.setdefault(key[:2], {})
      section.setdefault(binding.parameter, binding.value)
  lines = [
    '# Operative configuration: the values a run of trax_hier used.',
    '# To run it again, give this file as the only --config_file.',
    *(f'# Read from: {" ".join(s.split())}' for s in _table.sources),
    '',
    *_table.imports,
  ]
  if _table.imports:
    lines.append('')
  lines += text.section('Macros', '', macros)
  titles = {names.scoped_name(*key): key for key in sections}
  for title in sorted(titles, key=str.lower):
    lines += text.section(title, f'{title}.', sections[titles[title]])
  return '\n'.join(lines)


def parameters(gin_text: str) -> dict[str, str]:
  """The values of the parameters in a gin text, macros put in, as text.

  Names are as written there; nothing is looked up or bound.

  Raises:
    ConfigError: it is no gin text.

  Example:
    >>> parameters('HourglassLM.d_model = 64')
    {'HourglassLM.d_model': '64'}
  """
  macros, values = {}, {}
  for statement, _ in files.read_bindings(gin_text):
    if isinstance(statement, config_parser.BindingStatement):
      scope, name, parameter, value, _ = statement
      name = f'{scope}/{name}' if scope else name
      if parameter:
        values[f'{name}.{parameter}'] = value
      else:
        macros[name] = value

  def insert(reference):
    is_macro = reference.sigil == '%' and reference.name in macros
    return expand(macros[reference.name]) if is_macro else reference

  def expand(value):
    return names.map_leaves(value, files.Reference, insert)

  return {name: text.write(expand(value)) for name, value in values.items()}


def differences(
  saved: str, ignored: Collection[str] = ()
) -> dict[str, tuple[str | None, str | None]]:
  """What an earlier `operative_text` says otherwise than the present one.

  A parameter that the earlier text lacks and that has its default now is no
  difference: it may be younger than the text. Left out are the parameters of a
  part that is in one text only: what chose it is a difference.

  Args:
    saved: the earlier text.
    ignored: names of parameters that may differ, such as 'train.steps'.

  Returns:
    By name, the values then and now as gin text; None where there is none.

  Raises:
    ConfigError: `saved` is no gin text.
  """
  then, now = parameters(saved), parameters(operative_text())

  def is_difference(name):
    if name in then and name in now:
      return then[name] != now[name]
    part = f'{name.rpartition(".")[0]}.'
    in_both = all(any(n.startswith(part) for n in side) for side in (then, now))
    return in_both and (name in then or now[name] != _default(name))

  return {
    name: (then.get(name), now.get(name))
    for name in sorted((then | now).keys() - set(ignored))
    if is_difference(name)
  }


def resolved() -> list[Binding]:
  """Returns the bindings in force, each with the place that set it."""
  return list(_table.bindings.values())


def value(name: str) -> Any:
  """Returns what a parameter is bound to; its `@name()` are called.

  Args:
    name: configurable and parameter, such as `'train.data'`.

  Raises:
    ConfigError: there is no such configurable, or the parameter is not bound.
  """
  configurable, _, parameter = name.rpartition('.')
  binding = _table.bindings.get(('', names.resolve(configurable), parameter))
  if binding is None:
    raise ConfigError(_must_be_given(name))
  # gin resolves references when they are copied.
  return copy.deepcopy(binding.value)


def fingerprint() -> str:
  """Returns a text that changes whenever gin may give other values."""
  return f'{names.bindings()} {gin.current_scope_str()}'


def clear() -> None:
  """Forgets every binding, in gin too."""
  global _table
  _table = Table()
  gin.clear_config()


def _take(statement, at: Location, table: Table) -> None:
  """Checks the names in a statement and adds it to `table`."""
  if isinstance(statement, config_parser.ImportStatement):
    names.import_module(statement, at)
    table.imports[statement.format()] = None
    return
  if isinstance(statement, config_parser.BlockDeclaration):
    names.resolve(statement.selector, at)
    return
  scope, name, parameter, value, _ = statement
  if parameter:
    selector = names.resolve(name, at)
    names.check_parameter(selector, parameter, at)
  else:
    scope = f'{scope}/{name}' if scope else name
    selector, parameter = names.MACRO, 'value'
  value = names.map_leaves(value, files.Reference, lambda r: names.link(r, at))
  table.add(Binding(scope, selector, parameter, value, at))


def _default(name: str) -> str | None:
  """The default of a parameter as gin text; None if it has none."""
  configurable, _, parameter = name.rpartition('.')
  selector = names.resolve(configurable.rpartition('/')[2])
  wrapped = names.registry()[selector].wrapped
  default = inspect.signature(wrapped).parameters[parameter].default
  return None if default is inspect.Parameter.empty else text.write(default)


def _must_be_given(name: str) -> str:
  return f"{name} must be given a value, as in --config='{name} = ...'"


def _live(calls: dict[tuple[str, str], dict[str, Any]]) -> set[Key]:
  """The bindings that a call used or will use, and the macros they need."""

  def is_used(binding: Binding) -> bool:
    return binding.selector in _table.called_later or any(
      selector == binding.selector
      and _within(scope, binding.scope)
      and binding.parameter in values
      for (scope, selector), values in calls.items()
    )

  live = {
    key
    for key, binding in _table.bindings.items()
    if not binding.is_macro and is_used(binding)
  }
  return live | set(_table.macros_below(live))


def _why_idle(binding: Binding, calls: dict) -> str:
  """Says what keeps a binding from having an effect."""
  if binding.is_macro:
    if binding.key in _table.macros_below(_table.bindings):
      return f'%{binding.name} stands only in bindings without effect'
    return (
      f'no binding uses the macro %{binding.name} (a parameter would be'
      ' Name.parameter)'
    )
  name = names.short_name(binding.selector)
  scopes = sorted(s for s, selector in calls if selector == binding.selector)
  if not scopes:
    return f'nothing calls {name}'
  if not any(_within(scope, binding.scope) for scope in scopes):
    called = ' and '.join(f"scope '{s}'" if s else 'no scope' for s in scopes)
    return f"{name} is called in {called}, never in scope '{binding.scope}'"
  return f"the callers of {name} set '{binding.parameter}' themselves"


def _within(inner: str, outer: str) -> bool:
  """Whether scope `inner` is `outer` or lies inside it."""
  return not outer or f'{inner}/'.startswith(f'{outer}/')
