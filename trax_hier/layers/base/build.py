"""Calls a layer factory with the dimensions that its signature names.

Models offer one set of dimensions (d_model, n_heads, mode, ...) to the layer
factories that gin injects. A factory receives only the dimensions that it
declares: `LinearShorten` does not declare `n_heads`, so it does not receive it.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any


def build(factory: Callable[..., Any], **dimensions: Any) -> Any:
  """Returns `factory(...)`, called with the `dimensions` in its signature.

  Raises:
    ValueError: `factory` is not callable.

  Example:
    >>> def factory(d_model, mode='train'):
    ...   return f'd_model = {d_model}, mode = {mode}'
    >>> build(factory, d_model=8, n_heads=2, mode='eval')
    'd_model = 8, mode = eval'
  """
  if not callable(factory):
    raise ValueError(
      f'expected a layer factory such as @DecoderBlock, got {factory!r}'
    )
  parameters = _parameters(factory)
  return factory(
    **{name: dimensions[name] for name in parameters if name in dimensions}
  )


def accepts(factory: Callable[..., Any], argument: str) -> bool:
  """Whether the signature of a factory has this argument."""
  return argument in _parameters(factory)


def _parameters(factory):
  is_partial = isinstance(factory, functools.partial)
  if is_partial and not (factory.args or factory.keywords):
    factory = factory.func  # As made by `slots.forwarded`.
  # For a class under a gin scope, only __init__ has the real signature.
  function = factory.__init__ if inspect.isclass(factory) else factory
  return inspect.signature(function).parameters
