"""Converts weights and states to the layout for decoding.

Training stacks the weights of equal blocks, and one scan runs them. A scan
copies the weights and caches of each block. Decoding one token is bound by
reading these arrays, so decoding programs store each block separately.

A layer whose weights have another layout for decoding has a method
`decoding_weights(weights, precision)`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from trax_hier.compat import base
from trax_hier.layers.attention.prefix import Prefill, Prefixed
from trax_hier.layers.base.dtypes import cast_floats
from trax_hier.layers.base.once import Computed, FromWeights, Once
from trax_hier.layers.base.repeat import Blocks, Stack, unstack

PRECISIONS = ('float32', 'bfloat16', 'int8')


def decoding_weights(
  layer: base.Layer, weights: Any, precision: str = 'float32'
) -> Any:
  """Converts a model's weights to weights for decoding.

  Unstacks the weights (n, ..) of each `Repeat`.

  Args:
    layer: The model in 'predict' mode.
    weights: Its weights.
    precision: 'float32' keeps the dtypes. 'bfloat16' casts to bfloat16, and
      the model computes in bfloat16. 'int8' quantizes the kernels of dense
      layers, with a scale for each output channel, and the rows of `SparseFF`,
      with a scale for each row.

  Raises:
    ValueError: precision has another value.

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
      return weights  # Trax's marker of a layer that occurs earlier.
    if isinstance(layer, Stack):
      (stacked,), (block,) = weights, layer.sublayers
      trees = unstack(stacked, layer.n)
      return (Blocks(tuple(convert(block, tree) for tree in trees)),)
    if layer.sublayers:
      parts = zip(layer.sublayers, weights, strict=True)
      return tuple(convert(sub, part) for sub, part in parts)
    if hasattr(layer, 'decoding_weights'):
      weights = layer.decoding_weights(weights, precision)
    return _cast(weights, precision)

  return convert(layer, weights)


def decoding_state(
  layer: base.Layer,
  weights: Any,
  state: Any,
  precision: str = 'float32',
  inputs: Any = None,
) -> Any:
  """Converts a model's initial state to the state for decoding.

  Args:
    layer: The model in 'predict' mode.
    weights: Its `decoding_weights`.
    state: Its initial state.
    precision: Precision of the weights.
    inputs: Inputs of a first call, such as tokens (b, l). From these, the
      outputs of each `Once` and the prefix of each `Prefixed` are computed into
      the state, so that decoding programs omit the computations. With None, the
      first call of a decoding program computes them.

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
      parts = zip(blocks.trees, unstack(stacked, layer.n), strict=True)
      return (Blocks(tuple(convert(block, *part) for part in parts)),)
    if isinstance(layer, FromWeights):
      state = layer.remember(weights)
    elif layer.sublayers:
      parts = zip(layer.sublayers, weights, state, strict=True)
      state = tuple(convert(*part) for part in parts)
      if isinstance(layer, Prefixed) and inputs is not None:
        state = *state[:2], Prefill(done=False)
      return state
    return _cast(state, precision)

  state = convert(layer, weights, state)
  if inputs is None:
    return state
  # Only these results of the call are used, so jit removes the rest.
  rng = jax.random.PRNGKey(0)
  return _fill(layer, state, layer.pure_fn(inputs, weights, state, rng)[1])


def _fill(layer, state, after):
  """`state`, with the results of `Once` and `Prefixed` taken from `after`."""
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
    return (Blocks(tuple(_fill(block, *part) for part in parts)),)
  if not layer.sublayers:
    return state
  parts = zip(layer.sublayers, state, after, strict=True)
  return tuple(_fill(*part) for part in parts)


def _cast(tree, precision):
  return cast_floats(tree, jnp.bfloat16) if precision == 'bfloat16' else tree
