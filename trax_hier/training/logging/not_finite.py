"""Numbers that are infinite or not a number: their error, their JSON."""

import json
import math
from collections.abc import Mapping
from typing import Any


class NotFiniteError(FloatingPointError):
  """Metrics, weights or other state became infinite or not a number."""


def not_finite(values: Mapping[str, float]) -> str:
  """Names the values that are infinite or not a number; '' if there are none.

  Example:
    >>> not_finite({'loss': float('nan'), 'accuracy': 0.5})
    'loss is nan'
  """
  bad = (f'{k} is {x}' for k, x in values.items() if not math.isfinite(x))
  return ', '.join(bad)


def json_text(value: Any, indent: int | None = None) -> str:
  """JSON of a value; numbers that are not finite become null.

  JSON has no NaN and no infinity, and many readers reject a file that has.

  Args:
    value: Tree of dicts, lists, strings, numbers, True, False and None.
    indent: Spaces per level; None writes one line.

  Example:
    >>> json_text({'loss': float('nan'), 'step': 3})
    '{"loss": null, "step": 3}'
  """
  return json.dumps(_with_null(value), indent=indent, allow_nan=False)


def _with_null(value):
  match value:
    case dict():
      return {key: _with_null(x) for key, x in value.items()}
    case list() | tuple():
      return [_with_null(x) for x in value]
    case float() if not math.isfinite(value):
      return None
  return value
