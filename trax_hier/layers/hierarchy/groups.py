"""Decoding of layers that run once per group of k rows.

`Coarse` and `ShortenedStack` run a layer only when a group is complete.
"""

import jax.numpy as jnp

from trax_hier.layers.base.groups import as_tuple, run_groups


def run_complete_groups(layer, weights, state, rng, tail, x, start, more):
  """Runs a layer on the groups that the rows of a predict call complete.

  Args:
    layer: (b, n k, d) -> one or several outputs.
    weights: Weights of the layer.
    state: State of the layer.
    rng: PRNG key of the layer.
    tail: (b, k - 1, d), the last rows of earlier calls.
    x: (b, l, d), the new rows.
    start: Index of the first group in the concatenation of `tail` and `x`.
    more: Whether the call completes l // k + 1 groups, not l // k; a bool
      scalar.

  Returns:
    The outputs, as `run_groups` returns them; the layer's new state; the new
    tail.
  """
  k, length = tail.shape[1] + 1, x.shape[1]
  rows = jnp.concatenate([tail.astype(x.dtype), x], axis=1)

  def run(group, state):
    outputs, state = layer.pure_fn(group, weights, state, rng)
    return as_tuple(outputs), state

  outputs, state = run_groups(run, state, rows, start, k, length, more)
  # The state's dtype may be wider than the compute dtype.
  return outputs, state, rows[:, length:].astype(tail.dtype)
