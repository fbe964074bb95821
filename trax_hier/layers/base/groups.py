"""Layers that run once for a group of k inputs, when it is complete."""

import jax
import jax.numpy as jnp

from trax_hier.layers.base.stacking import apply_if


def run_groups(run, state, inputs, start, k, length, more):
  """Runs a layer on those groups of k inputs that have become complete.

  Args:
    run: (b, n k, d) inputs of n groups, state -> tuple of outputs, state.
    state: The layer's.
    inputs: (b, k - 1 + length, d), the last k - 1 inputs of earlier calls, then
      `length` new ones: these complete length // k groups for certain.
    start: Where in `inputs` the first of these groups begins.
    k: Number of inputs in a group.
    length: Number of new inputs.
    more: Whether they complete one group more, a bool scalar.

  Returns:
    A list of one or two tuples of outputs, those of the groups that are certain
    and those of the one that may come, zeros if it does not; and the state.
  """
  n = length // k

  def groups(state, start, n):
    group = jax.lax.dynamic_slice_in_dim(inputs, start, n * k, axis=1)
    return run(group, state)

  outputs = []
  if n:
    new, state = groups(state, start, n)
    outputs.append(new)
  if length % k:

    def one_more(old):
      _, state = old
      return groups(state, start + n * k, 1)

    shapes, _ = jax.eval_shape(lambda s: groups(s, start, 1), state)
    none = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    new, state = apply_if(more, one_more, (none, state))
    outputs.append(new)
  return outputs, state


def as_tuple(x):
  """The outputs of a layer, be they one or several."""
  return tuple(x) if isinstance(x, (tuple, list)) else (x,)
