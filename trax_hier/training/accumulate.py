"""Gradient accumulation: a batch is processed in sequential micro-batches."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from trax_hier.training.state import Batch

PyTree = object

# (weights, model_state, batch, rng) -> (gradients, metric sums, new state)
Gradients = Callable[
  [PyTree, PyTree, Batch, jax.Array], tuple[PyTree, jax.Array, PyTree]
]


def accumulate(gradients: Gradients, n: int, lanes: PyTree) -> Gradients:
  """Makes a gradient function process its batch in n micro-batches.

  Gradients and metric sums are added up. Model state kept per row is split
  with the rows, along its axis in `lanes`; other state is carried from one
  micro-batch to the next.

  Args:
    gradients: Function of a batch, whose results are sums over rows.
    n: Number of micro-batches; it must divide the rows.
    lanes: Axes of rows in the model state, from `state.lane_axes`.

  Returns:
    A function equal to `gradients` up to rounding, with 1/n of its activations
    in memory.
  """
  if n == 1:
    return gradients
  axes = [axis for axis in jax.tree.leaves(lanes) if axis >= 0]

  def accumulated(weights, model_state, batch, rng):
    micro_batches = {name: _split(x, 0, n) for name, x in batch.items()}
    shared, per_row = _partition(model_state, lanes)
    row_states = [
      _split(x, axis, n) for x, axis in zip(per_row, axes, strict=True)
    ]

    def body(carry, inputs):
      sums, shared = carry
      i, batch, per_row = inputs
      grads, values, new_state = gradients(
        weights,
        _combine(shared, per_row, lanes),
        batch,
        jax.random.fold_in(rng, i),
      )
      sums = jax.tree.map(jnp.add, sums, (grads, values))
      shared, per_row = _partition(new_state, lanes)
      return (sums, shared), per_row

    batch, per_row = jax.tree.map(lambda x: x[0], (micro_batches, row_states))
    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype),
      jax.eval_shape(
        lambda: gradients(
          weights, _combine(shared, per_row, lanes), batch, rng
        )[:2]
      ),
    )
    (sums, shared), row_states = jax.lax.scan(
      body, (zeros, shared), (jnp.arange(n), micro_batches, row_states)
    )
    per_row = [_join(x, axis) for x, axis in zip(row_states, axes, strict=True)]
    return *sums, _combine(shared, per_row, lanes)

  return accumulated


def _split(x, axis, n):
  """Splits an axis into n micro-batches, stacked on a new leading axis.

  A micro-batch takes every n-th row: each device holds consecutive rows, and so
  has its share of every micro-batch in its own memory.
  """
  shape = (*x.shape[:axis], x.shape[axis] // n, n, *x.shape[axis + 1 :])
  return jnp.moveaxis(x.reshape(shape), axis + 1, 0)


def _join(x, axis):
  """Inverse of `_split`."""
  x = jnp.moveaxis(x, 0, axis + 1)
  return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _partition(model_state, lanes):
  """Separates state arrays that rows share from arrays kept per row."""
  leaves, axes = jax.tree.leaves(model_state), jax.tree.leaves(lanes)
  shared = [x for x, axis in zip(leaves, axes, strict=True) if axis < 0]
  per_row = [x for x, axis in zip(leaves, axes, strict=True) if axis >= 0]
  return shared, per_row


def _combine(shared, per_row, lanes):
  """Inverse of `_partition`."""
  axes, structure = jax.tree.flatten(lanes)
  shared, per_row = iter(shared), iter(per_row)
  leaves = [next(shared) if axis < 0 else next(per_row) for axis in axes]
  return jax.tree.unflatten(structure, leaves)
