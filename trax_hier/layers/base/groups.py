"""Layers that run once per group of k inputs, when the group is complete."""

import jax
import jax.numpy as jnp

from trax_hier.layers.base.conditional import apply_if


def run_groups(run, state, inputs, start, k, length, more):
  """Runs a layer on the groups of k inputs that this call completes.

  `length` new inputs complete length // k groups, or one more, depending on how
  many inputs of an incomplete group came before.

  Args:
    run: The layer: inputs (b, n k, d) of n groups, state -> tuple of outputs,
      state.
    state: State of the layer.
    inputs: (b, k - 1 + length, d), the last k - 1 inputs of earlier calls, then
      the new inputs.
    start: Index in `inputs` of the first group.
    k: Number of inputs in a group.
    length: Number of new inputs.
    more: Whether the call completes length // k + 1 groups, a bool scalar.

  Returns:
    A list of up to two tuples of outputs, and the new state. The first tuple is
    for the length // k groups, if any; the second is for the additional group,
    zeros without one. The second is missing if k divides length.
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
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    new, state = apply_if(more, one_more, (zeros, state))
    outputs.append(new)
  return outputs, state


def as_tuple(x):
  """The outputs of a layer as a tuple, even of one."""
  return tuple(x) if isinstance(x, (tuple, list)) else (x,)
