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


def check_taken(
  configurable: str, name: str, value: Any, **factories: Callable[..., Any]
) -> None:
  """Raises ValueError if no factory takes an argument that is set.

  Args:
    configurable: Name of the configurable that offers the argument.
    name: Name of the argument.
    value: Its value; None means that it is not set.
    **factories: Factories by the name of their slot.

  Example:
    >>> check_taken('DecoderBlock', 'd_head', 4, attention=lambda d_model: None)
    Traceback (most recent call last):
    ...
    ValueError: DecoderBlock.d_head = 4 has no effect: the factory bound to \
DecoderBlock.attention has no argument d_head; set d_head = None
  """
  if value is None or any(accepts(f, name) for f in factories.values()):
    return
  slots = ' or '.join(f'{configurable}.{slot}' for slot in factories)
  raise ValueError(
    f'{configurable}.{name} = {value} has no effect: the factory bound to '
    f'{slots} has no argument {name}; set {name} = None'
  )


def _parameters(factory):
  if isinstance(factory, functools.partial) and not factory.keywords:
    factory = factory.func  # As made by `slots.forwarded`.
  # For a class under a gin scope, only __init__ has the real signature.
  function = factory.__init__ if inspect.isclass(factory) else factory
  return inspect.signature(function).parameters
