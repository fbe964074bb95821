"""Calls a factory with those of the model's dimensions that it names.

Models hand one set of dimensions (d_model, n_heads, mode, ...) to parts that
gin injects. A part takes the ones in its signature: `LinearShorten` has no use
for `n_heads`, so it neither declares nor receives it.
"""

import inspect
from collections.abc import Callable
from typing import Any


def build(factory: Callable[..., Any], **dimensions: Any) -> Any:
  """Returns `factory(...)`, called with the `dimensions` in its signature.

  Raises:
    ValueError: `factory` cannot be called.

  Example:
    >>> def part(d_model, mode='train'):
    ...   return f'of width {d_model}, to {mode}'
    >>> build(part, d_model=8, n_heads=2, mode='eval')
    'of width 8, to eval'
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
  """Whether a factory has an argument in its signature."""
  return argument in _parameters(factory)


def _parameters(factory):
  # A class that gin has put in a scope shows its arguments in __init__ alone.
  function = factory.__init__ if inspect.isclass(factory) else factory
  return inspect.signature(function).parameters


def check_mode(mode: str) -> None:
  """Raises ValueError unless `mode` is 'train', 'eval' or 'predict'."""
  if mode not in ('train', 'eval', 'predict'):
    raise ValueError(f"mode must be 'train', 'eval' or 'predict', got {mode!r}")


def check_sizes(**sizes: int) -> None:
  """Raises ValueError unless all `sizes` are positive; names the first."""
  for name, size in sizes.items():
    if size < 1:
      raise ValueError(f'{name} = {size} must be positive')


def check_heads(d_model: int, n_heads: int) -> None:
  """Raises ValueError unless `n_heads` divides `d_model`."""
  if n_heads < 1 or d_model % n_heads:
    raise ValueError(f'n_heads = {n_heads} must divide d_model = {d_model}')


def check_dropout(dropout: float) -> None:
  """Raises ValueError unless `dropout` is a rate in [0, 1)."""
  if not 0 <= dropout < 1:
    raise ValueError(f'dropout = {dropout} must be at least 0 and below 1')


def check_inputs(name: str, layer: Any, n_in: int, inputs: str) -> None:
  """Raises ValueError unless `layer`, which `name` made, takes `n_in` inputs.

  `inputs` says which, in words.
  """
  if layer.n_in != n_in:
    raise ValueError(
      f'{name} must make a layer of {inputs}, but what it made takes '
      f'{layer.n_in} input{"s" * (layer.n_in > 1)}'
    )
