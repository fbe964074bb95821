"""What names of Trax and meliad are called here, for error messages."""

from trax_hier.config.old_names import CONFIGURABLES, PARAMETERS


def parameter_hint(configurable: str, parameter: str) -> str:
  """Returns what an old parameter is called here, as part of a message.

  Args:
    configurable: Name of the configurable here that lacks the parameter.
    parameter: Its name, perhaps one of Trax or meliad.

  Returns:
    "; did you mean ...?", or why there is no such parameter, or ''.

  Example:
    >>> parameter_hint('HourglassLM', 'attention_upsampling_fn')
    "; did you mean 'AttentionUpsample.expand'?"
  """
  old = [configurable]
  old += [name for name, here in CONFIGURABLES.items() if configurable in here]
  found = [PARAMETERS.get(f'{name}.{parameter}') for name in old]
  rows = [
    row
    for name, row in PARAMETERS.items()
    if name.rpartition('.')[2] == parameter
  ]
  # Names that configurables here have, too, say nothing of Trax.
  is_common = any(f'.{new}'.endswith(f'.{parameter}') for new, _ in rows)
  if not is_common and parameter != 'max_len':
    found += rows
  new, remark = next(filter(None, found), ('', ''))
  if new == f'{configurable}.{parameter}' or not (new or remark):
    return ''
  if not new:
    return f' of Trax or meliad: {remark}'
  return f"; did you mean '{new}'{f' ({remark})' if remark else ''}?"


def configurable_hint(name: str) -> str:
  """Returns what an old configurable is called here: '; did you mean ...?'.

  Example:
    >>> configurable_hint('NaiveUpsampling')
    "; did you mean 'RepeatUpsample'?"
    >>> configurable_hint('ReformerLM')
    '; nothing here is like it'
  """
  if name not in CONFIGURABLES:
    return ''
  here = ' or '.join(f"'{new}'" for new in CONFIGURABLES[name])
  return f'; did you mean {here}?' if here else '; nothing here is like it'
