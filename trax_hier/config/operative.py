"""Writes and compares operative configurations: the values that a run used."""

import inspect
from collections.abc import Collection

from gin import config_parser

from trax_hier.config import files, names, text
from trax_hier.config.errors import ConfigError
from trax_hier.config.macros import Extents
from trax_hier.config.parsing import current_table
from trax_hier.config.usage import live_keys


def operative_text(with_idle: bool = False) -> str:
  """Returns the values used so far as a gin file that repeats the run.

  The file holds each parameter of each configurable called so far, defaults
  included, unless the caller passed it. It also holds the bindings of the
  configurables in `check_used(called_later)`. Values bound from Python that gin
  cannot write are left out, and so are arguments without effect, unless
  `with_idle`.
  """
  table = current_table()
  macros, sections = {}, {}
  for (scope, selector), values in names.calls().items():
    if selector == names.MACRO:
      macros |= {scope: values['value']}
    elif selector != names.CONSTANT:
      sections[scope, selector] = {
        name: value
        for name, value in values.items()
        if with_idle or not table.idle.get((selector, name))
      }
  for key in live_keys(table):
    binding = table.bindings[key]
    if binding.is_macro:
      macros[binding.name] = binding.value
    elif binding.selector in table.called_later:
      section = sections.setdefault(key[:2], {})
      section.setdefault(binding.parameter, binding.value)
  lines = [
    '# Operative configuration: the values a run of trax_hier used.',
    '# To run it again, give this file as the only --config_file.',
    *(f'# Read from: {" ".join(s.split())}' for s in table.sources),
    '',
    *table.imports,
  ]
  if table.imports:
    lines.append('')
  lines += text.section('Macros', '', macros)
  titles = {names.scoped_name(*key): key for key in sections}
  for title in sorted(titles, key=str.lower):
    lines += text.section(title, f'{title}.', sections[titles[title]])
  return '\n'.join(lines)


def parameters(gin_text: str, file: str | None = None) -> dict[str, str]:
  """Returns {name: value} of a gin text: values as gin text, macros expanded.

  Names stay as written; nothing is resolved or bound.

  Args:
    gin_text: The text.
    file: The file that it is from, for messages.

  Raises:
    ConfigError: The text is not valid gin.

  Example:
    >>> parameters('D = 64\\nHourglassLM.d_model = %D')
    {'HourglassLM.d_model': '64'}
  """
  macros, values = {}, {}
  for statement, _ in files.read_bindings(gin_text, file):
    if isinstance(statement, config_parser.BindingStatement):
      scope, name, parameter, value, _ = statement
      name = f'{scope}/{name}' if scope else name
      if parameter:
        values[f'{name}.{parameter}'] = value
      else:
        macros[name] = value

  def macro(reference):
    is_macro = reference.sigil == '%' and reference.name in macros
    return (reference.name, macros[reference.name]) if is_macro else None

  def expand(value):
    def leaf(reference):
      found = macro(reference)
      return reference if found is None else expand(found[1])

    return names.map_leaves(value, files.Reference, leaf)

  extents = Extents(files.Reference, macro)
  for value in values.values():
    try:
      extents.check(value)
    except ConfigError as error:
      raise ConfigError(f'{file}: {error}' if file else str(error)) from None
  return {name: text.write(expand(value)) for name, value in values.items()}


def differences(
  saved: str, ignored: Collection[str] = ()
) -> dict[str, tuple[str | None, str | None]]:
  """Compares an earlier `operative_text` with the present one.

  A parameter that the earlier text lacks is a difference only if its present
  value is not the default, since it may be newer than the text. If only one
  text has a configurable, its parameters are left out: the parameter that
  selects it is a difference already.

  Args:
    saved: The earlier text.
    ignored: Names of parameters that may differ, such as 'train.steps'.

  Returns:
    {name: (earlier, present)}: values as gin text, or None if there is none.

  Raises:
    ConfigError: `saved` is not valid gin.
  """
  then, now = parameters(saved), parameters(operative_text(with_idle=True))

  def is_difference(name):
    if name in then and name in now:
      return then[name] != now[name]
    prefix = f'{name.rpartition(".")[0]}.'
    in_both = all(
      any(n.startswith(prefix) for n in side) for side in (then, now)
    )
    return in_both and (name in then or now[name] != _default(name))

  return {
    name: (then.get(name), now.get(name))
    for name in sorted((then | now).keys() - set(ignored))
    if is_difference(name)
  }


def _default(name: str) -> str | None:
  """The default of a parameter as gin text; None if it has none."""
  configurable, _, parameter = name.rpartition('.')
  selector = names.resolve(configurable.rpartition('/')[2])
  wrapped = names.registry()[selector].wrapped
  default = inspect.signature(wrapped).parameters[parameter].default
  return None if default is inspect.Parameter.empty else text.write(default)
