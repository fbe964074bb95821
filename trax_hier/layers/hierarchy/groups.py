"""Decoding of layers that run once per group of k rows.

`Coarse` and `ShortenedStack` run a layer only when a group is complete.

Letters: b batch, l length, d d_model.
"""

import jax
import jax.numpy as jnp

from trax_hier.layers.base.conditional import apply_if


def run_complete_groups(layer, weights, state, rng, tail, x, start, more):
  """Runs a layer on the groups of k rows that a predict call completes.

  l new rows complete l // k groups, or one more, depending on how many rows of
  an incomplete group came before.

  Args:
    layer: (b, n k, d) -> one or several outputs.
    weights: Weights of the layer.
    state: State of the layer.
    rng: PRNG key of the layer.
    tail: (b, k - 1, d), the last rows of earlier calls.
    x: (b, l, d), the new rows.
    start: First row of the first group in `tail` and `x` concatenated.
    more: Whether the call completes l // k + 1 groups, a bool scalar.

  Returns:
    A list of up to two tuples of outputs; the layer's new state; the new tail.
    The first tuple is for the l // k groups, if any; the second is for the
    additional group, zeros if there is none, and missing if k divides l.
  """
  k, length = tail.shape[1] + 1, x.shape[1]
  rows = jnp.concatenate([tail.astype(x.dtype), x], axis=1)
  n = length // k

  def run(state, start, n):
    groups = jax.lax.dynamic_slice_in_dim(rows, start, n * k, axis=1)
    outputs, state = layer.pure_fn(groups, weights, state, rng)
    return as_tuple(outputs), state

  outputs = []
  if n:
    new, state = run(state, start, n)
    outputs.append(new)
  if length % k:

    def one_more(old):
      _, state = old
      return run(state, start + n * k, 1)

    shapes, _ = jax.eval_shape(lambda s: run(s, start, 1), state)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    new, state = apply_if(more, one_more, (zeros, state))
    outputs.append(new)
  # The state's dtype may be wider than the compute dtype.
  return outputs, state, rows[:, length:].astype(tail.dtype)


def as_tuple(x):
  """Inputs or outputs of a layer as a tuple, even if there is only one."""
  return tuple(x) if isinstance(x, (tuple, list)) else (x,)
