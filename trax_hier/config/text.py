"""Writes values and bindings as gin text."""

import math
import pprint
from typing import Any

from trax_hier.config import names
from trax_hier.config.files import Reference, parse_value


def section(title: str, prefix: str, values: dict[str, Any]) -> list[str]:
  """The lines `prefix + name = value` under a banner; [] without values."""
  lines = []
  for name, value in sorted(values.items()):
    text = write(value)
    try:
      parse_value(text)
    except Exception:  # The repr of a Python object is not a gin value.
      continue
    one_line = f'{prefix}{name} = {text}'
    if len(one_line) <= 80 and '\n' not in text:
      lines.append(one_line)
    else:
      lines.append(f'{prefix}{name} = \\')
      lines += [f'    {line}' for line in text.splitlines()]
  banner = [f'# {title}', f'# {"=" * 78}']
  return [*banner, *lines, ''] if lines else []


class _Verbatim(str):
  """Text that pprint prints without quotes."""

  def __repr__(self) -> str:
    return str(self)


def write(value) -> str:
  """Returns the value as gin text, with the shortest unambiguous names."""

  def leaf(v):
    if isinstance(v, names.GinReference) and v.configurable.selector not in (
      names.MACRO,
      names.CONSTANT,
    ):
      call = '()' if v.evaluate else ''
      scoped = names.scoped_name('/'.join(v.scopes), v.configurable.selector)
      return _Verbatim(f'@{scoped}{call}')
    if isinstance(v, Reference):
      call = '()' if v.evaluate and v.sigil == '@' else ''
      return _Verbatim(f'{v.sigil}{v.name}{call}')
    if isinstance(v, float) and math.isinf(v):
      return _Verbatim('1e999' if v > 0 else '-1e999')
    return v

  return pprint.pformat(
    names.map_leaves(value, (names.GinReference, Reference, float), leaf),
    width=76,
    sort_dicts=False,
  )
