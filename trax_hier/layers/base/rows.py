"""Layers whose rows of a batch are at different points of their sequences.

In predict mode, layers count positions for all rows of a batch together. If the
rows advance at different times, as with segments of variable length, every row
needs a state of its own: `row_states` makes the state of n batches of one row,
and `over_rows` runs a function on each of them, in one program. Loops inside
run until they end in every row, and change only the state of rows in which they
have not ended.

Letters: b batch, l length, d d_model.
"""

import contextvars
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from trax_hier.compat import base
from trax_hier.layers.base.once import FromWeights
from trax_hier.layers.base.repeat import Blocks, Stack

_AXIS = 'rows'
_is_over_rows = contextvars.ContextVar('is_over_rows', default=False)


def largest_of_rows(n: jax.Array) -> jax.Array:
  """The largest value of a scalar over all rows (b,), inside `over_rows`.

  Elsewhere, the scalar itself. A branch that `lax.switch` selects by it is the
  same in all rows, so that only this branch runs.

  Example:
    >>> print(largest_of_rows(jnp.int32(3)))
    3
  """
  return jax.lax.pmax(n, _AXIS) if _is_over_rows.get() else n


def row_axes(layer: base.Layer, state: Any, axis: int = 0) -> Any:
  """The axes of rows in the states that `row_states` makes; -1 if none.

  The output of a `FromWeights` is the same for all rows. Inside a `Repeat`, the
  axis follows that of the blocks, (n, b, ..).

  Args:
    layer: The layer.
    state: Its state, with or without the axes of rows.
    axis: Axis of rows outside the stacks in `layer`.
  """
  if isinstance(state, dict):
    return state  # Trax's marker of a layer that occurs earlier.
  if isinstance(layer, Stack):
    ((inner,), (stacked,)) = layer.sublayers, state
    if isinstance(stacked, Blocks):
      trees = (row_axes(inner, tree, axis) for tree in stacked.trees)
      return (Blocks(tuple(trees)),)
    return (row_axes(inner, stacked, axis + 1),)
  if layer.sublayers:
    pairs = zip(layer.sublayers, state, strict=True)
    return tuple(row_axes(*pair, axis) for pair in pairs)
  axis = -1 if isinstance(layer, FromWeights) else axis
  return jax.tree.map(lambda _: axis, state)


def row_states(layer: base.Layer, state: Any, n: int) -> Any:
  """The state of a layer for n batches of one row, from that for one.

  Args:
    layer: The layer.
    state: Its initial state for a batch (1, ..).
    n: Number of rows.
  """

  def repeat(x, axis):
    return x if axis < 0 else jnp.repeat(jnp.expand_dims(x, axis), n, axis)

  return jax.tree.map(repeat, state, row_axes(layer, state))


def split_own(axes: Any, state: Any) -> tuple[list, Callable[[list], Any]]:
  """Separates the arrays of single rows from those common to all rows.

  Args:
    axes: From `row_axes`.
    state: A state of the same structure.

  Returns:
    The arrays of rows, and the function that makes a state of such arrays.
  """
  leaves, structure = jax.tree.flatten(state)
  is_own = [axis >= 0 for axis in jax.tree.leaves(axes)]

  def merge(own):
    own = iter(own)
    parts = zip(is_own, leaves, strict=True)
    merged = [next(own) if mine else common for mine, common in parts]
    return jax.tree.unflatten(structure, merged)

  own = [x for x, mine in zip(leaves, is_own, strict=True) if mine]
  return own, merge


def over_rows(
  function: Callable, axes: Any, state: Any, *arrays: jax.Array
) -> tuple[Any, Any]:
  """Runs a function on each row of a batch, with a state of its own.

  Args:
    function: (state of a row, arrays (1, ..)) -> (a tree of outputs (1, ..),
      new state). What is common to all rows does not change.
    axes: Axes of rows in the state, from `row_axes`.
    state: States of the rows, from `row_states`.
    *arrays: Inputs of all rows, (b, ..).

  Returns:
    The outputs of all rows, (b, ..), and their new states.

  Example: the number of calls of each row in which x was above 0.
    >>> def add(n, x):
    ...   n += jnp.sum(x > 0)
    ...   return n[None], n
    >>> state, x = jnp.array([5, 5]), jnp.array([[1.0], [0.0]])
    >>> print(over_rows(add, 0, state, x)[0])
    [6 5]
  """
  own, merge = split_own(axes, state)
  own_axes = [axis for axis in jax.tree.leaves(axes) if axis >= 0]

  def run(own, arrays):
    outputs, new = function(merge(own), *(x[None] for x in arrays))
    new, _ = split_own(axes, new)
    new = [x.astype(old.dtype) for x, old in zip(new, own, strict=True)]
    return jax.tree.map(lambda y: y[0], outputs), new

  if len(arrays[0]) == 1:
    # XLA updates the caches of a single row in place.
    own = [x.squeeze(i) for x, i in zip(own, own_axes, strict=True)]
    outputs, own = run(own, [x[0] for x in arrays])
    outputs = jax.tree.map(lambda y: y[None], outputs)
    own = [jnp.expand_dims(x, i) for x, i in zip(own, own_axes, strict=True)]
    return outputs, merge(own)
  token = _is_over_rows.set(True)
  try:
    outputs, own = jax.vmap(
      run, in_axes=(own_axes, 0), out_axes=(0, own_axes), axis_name=_AXIS
    )(own, list(arrays))
  finally:
    _is_over_rows.reset(token)
  return outputs, merge(own)
