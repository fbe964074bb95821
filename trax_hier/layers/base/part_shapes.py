"""Checks that a part has the inputs and outputs of its slot.

A signature such as 'x/4, x -> x' is explained at `slots.Kind`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from trax_hier.compat import ShapeDtype, base

# Shapes for the check of a part: batch size, rows of the coarsest sequence, and
# the width of a layer whose slot sets none.
_BATCH, _ROWS, _WIDTH = 3, 2, 8

# Symbols of arrays with one number for each position or segment.
_NUMBERS = {'p': jnp.float32, 'beta': jnp.float32, 'starts': jnp.int32}

# Makes an error from the reason why a part does not fit its slot.
Misfit = Callable[[str], Exception]


def check_signature(
  part: base.Layer, signature: str, masked: bool, misfit: Misfit
) -> None:
  """Raises unless a layer has as many inputs and outputs as a signature.

  Args:
    part: The layer.
    signature: That of the slot.
    masked: Whether the layer may have a mask as an additional, last input.
    misfit: Makes the error.
  """
  inputs, outputs = _parse(signature)
  can_mask = masked and 'mask' not in inputs
  n_inputs = len(inputs) + (can_mask and part.n_in > len(inputs))
  if (part.n_in, part.n_out) != (n_inputs, len(outputs)):
    raise misfit(
      f'makes a layer of {_count(part.n_in, "input")} and '
      f'{_count(part.n_out, "output")}'
    )
  if getattr(part, 'takes_tokens', False):
    raise misfit('makes a rule on tokens')


def check_shapes(
  part: base.Layer,
  slot_signature: str,
  dimensions: Mapping[str, Any],
  misfit: Misfit,
) -> None:
  """Raises unless a layer maps small inputs to the shapes of a signature.

  Args:
    part: The layer, which is initialized with tracers: use it no further.
    slot_signature: The signature of the slot.
    dimensions: Arguments that the slot gives to its part, such as d_model.
    misfit: Makes the error.
  """
  width = dimensions.get('d_model')
  if dimensions.get('carry') or dimensions.get('mode') == 'predict':
    return  # Not every length is legal; the model's own evaluation follows.
  inputs, outputs = _parse(slot_signature)
  inputs += ['mask'] * (part.n_in - len(inputs))
  factors = [int(n) for n in re.findall(r'/(\d+)', slot_signature)]
  length = _ROWS * max(factors, default=1)

  def shape(symbol):
    context_length = length + ('context' in inputs)
    if symbol == 'mask':
      return ShapeDtype((_BATCH, context_length), jnp.bool_)
    if symbol == 'context':
      return ShapeDtype((_BATCH, context_length, width), jnp.float32)
    if symbol in _NUMBERS:
      return ShapeDtype((_BATCH, length), _NUMBERS[symbol])
    if symbol == 'c':
      d_inner = dimensions.get('d_inner') or width
      return ShapeDtype((_BATCH, length, d_inner), jnp.float32)
    name, _, factor = symbol.partition('/')
    d = dimensions.get('d_out') if name == 'y' else width
    rows = length // int(factor or 1)
    return ShapeDtype((_BATCH, rows, d or _WIDTH), jnp.float32)

  signature = tuple(map(shape, inputs))
  signature = signature if len(signature) > 1 else signature[0]
  try:
    made = jax.eval_shape(
      lambda key: _outputs(part, signature, key), jax.random.PRNGKey(0)
    )
  except Exception as error:
    if width is None and 'd_out' in dimensions:
      return  # The layer may not take the width that is assumed here.
    raise misfit(f'fails: {message_of(error)}') from error
  found = [y.shape for y in made]
  wanted = [tuple(shape(symbol).shape) for symbol in outputs]
  if found != wanted:
    raise misfit(
      f'maps {_listed(signature)} to {", ".join(map(str, found))} and not to '
      f'{", ".join(map(str, wanted))}'
    )


def _outputs(part, signature, key):
  weights, state = part.init(signature, rng=key)
  x = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), signature)
  y = part.pure_fn(x, weights, state, key)[0]
  return list(y) if isinstance(y, tuple | list) else [y]


def _parse(signature):
  return [side.split(', ') for side in signature.split(' -> ')]


def _listed(signature):
  if not isinstance(signature, tuple):
    signature = (signature,)
  return ', '.join(str(tuple(s.shape)) for s in signature)


def message_of(error: Exception) -> str:
  """The message of an error, in one line without gin's chain of calls."""
  text = getattr(error, 'fault', None) or str(error)
  return ' '.join(text.partition('\n  In call to')[0].split())


def _count(n, noun):
  return f'{n} {noun}{"s" * (n != 1)}'
