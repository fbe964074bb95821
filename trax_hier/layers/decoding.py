"""Weights and states laid out for decoding.

Training keeps equal blocks stacked, for one scan to run them. A scan copies the
block that it is at, be it weights or caches; a program that decodes a token at
a time does little more than read them, so there each block is on its own.

A layer whose weights have a layout of their own has a method
`decoding_weights(weights, precision)`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from trax_hier.compat import base
from trax_hier.layers.attention.prefix import Prefill, Prefixed
from trax_hier.layers.base.stacking import (
  Blocks,
  Computed,
  FromWeights,
  Once,
  Stack,
)

PRECISIONS = ('float32', 'bfloat16', 'int8')


def decoding_weights(
  layer: base.Layer, weights: Any, precision: str = 'float32'
) -> Any:
  """A model's weights for decoding, to be given to it in place of its own.

  Args:
    layer: The model in 'predict' mode.
    weights: Its weights. Those that a `Repeat` stacks, (n, ..), are taken
      apart.
    precision: What they are stored in. 'float32' keeps them as they are.
      'bfloat16' makes the model compute in bfloat16. 'int8' stores the kernels
      of dense layers in 8 bits with a scale for each output channel, and the
      rows of `SparseFF` with a scale for each row.

  Raises:
    ValueError: precision is none of these.

  Example:
    >>> from trax_hier.layers import Dense, Repeat
    >>> layer = Repeat(lambda: Dense(4), 2)
    >>> weights = ((jnp.zeros((2, 4, 4)), jnp.zeros((2, 4))),)
    >>> (blocks,) = decoding_weights(layer, weights)
    >>> jax.tree.map(jnp.shape, blocks)
    Blocks(trees=(((4, 4), (4,)), ((4, 4), (4,))))
  """
  if precision not in PRECISIONS:
    raise ValueError(
      f'precision must be one of {", ".join(PRECISIONS)}, got {precision!r}'
    )

  def convert(layer, weights):
    if isinstance(weights, dict):
      return weights  # Trax's mark of a layer that occurred before.
    if isinstance(layer, Stack):
      (stacked,), (block,) = weights, layer.sublayers
      parts = _split(stacked, layer.n)
      return (Blocks(tuple(convert(block, part) for part in parts)),)
    if layer.sublayers:
      parts = zip(layer.sublayers, weights, strict=True)
      return tuple(convert(sub, part) for sub, part in parts)
    if hasattr(layer, 'decoding_weights'):
      weights = layer.decoding_weights(weights, precision)
    return _narrow(weights, precision)

  return convert(layer, weights)


def decoding_state(
  layer: base.Layer,
  weights: Any,
  state: Any,
  precision: str = 'float32',
  inputs: Any = None,
) -> Any:
  """A model's first state for decoding with its `decoding_weights`.

  Args:
    layer: The model in 'predict' mode.
    weights: Its weights for decoding.
    state: Its first state.
    precision: That of the weights.
    inputs: Those of any first call, such as tokens (b, l). If given, every
      `Once` has been computed and every `Prefixed` has read its prefix, so that
      programs that decode need not contain it.

  Example:
    >>> from trax_hier.layers import Relu
    >>> from trax_hier.compat import signature
    >>> layer, x = Once(Relu(), mode='predict'), jnp.array([-1.0, 2.0])
    >>> weights, state = layer.init(signature(x))
    >>> _, computed = decoding_state(layer, weights, state, inputs=x)
    >>> print(computed.value)
    [0. 2.]
  """

  def convert(layer, weights, state):
    if isinstance(state, dict):
      return state
    if isinstance(layer, Stack):
      (blocks,), (stacked,), (block,) = weights, state, layer.sublayers
      parts = zip(blocks.trees, _split(stacked, layer.n), strict=True)
      return (Blocks(tuple(convert(block, *part) for part in parts)),)
    if isinstance(layer, FromWeights):
      state = layer.remember(weights)
    elif layer.sublayers:
      parts = zip(layer.sublayers, weights, state, strict=True)
      state = tuple(convert(*part) for part in parts)
      if isinstance(layer, Prefixed) and inputs is not None:
        state = *state[:2], Prefill(done=False)
      return state
    return _narrow(state, precision)

  state = convert(layer, weights, state)
  if inputs is None:
    return state
  # Of this call nothing else is used, so that nothing else is computed.
  rng = jax.random.PRNGKey(0)
  return _known(layer, state, layer.pure_fn(inputs, weights, state, rng)[1])


def _known(layer, state, after):
  """`state`, with what is computed once taken from the state `after`."""
  if isinstance(state, dict):
    return state
  if isinstance(layer, Once):
    (own, _), (_, (_, value)) = state, after
    return own, Computed(value)
  if isinstance(layer, Prefixed):
    return after
  if isinstance(layer, Stack):
    (blocks,), (others,), (block,) = state, after, layer.sublayers
    parts = zip(blocks.trees, others.trees, strict=True)
    return (Blocks(tuple(_known(block, *part) for part in parts)),)
  if not layer.sublayers:
    return state
  parts = zip(layer.sublayers, state, after, strict=True)
  return tuple(_known(*part) for part in parts)


def _split(stacked, n):
  return [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(n)]


def _narrow(tree, precision):
  if precision != 'bfloat16':
    return tree
  return jax.tree.map(
    lambda x: (
      x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x
    ),
    tree,
  )
