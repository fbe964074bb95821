"""Gradient accumulation: one batch taken in parts, one after another."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

PyTree = object
Batch = Mapping[str, jax.Array]
# (weights, model_state, batch, rng) -> (gradients, metric sums, new state)
Gradients = Callable[
  [PyTree, PyTree, Batch, jax.Array], tuple[PyTree, jax.Array, PyTree]
]


def accumulate(gradients: Gradients, n: int, lanes: PyTree) -> Gradients:
  """The same function, with its batch taken in n parts.

  Gradients and metric sums are added up over the parts. Model state kept per
  row (`lanes` says on which axis) goes with its rows; the other state is
  handed from part to part.

  Args:
    gradients: a function of a batch; it must be a sum over the batch's rows.
    n: the number of parts; it must divide the rows.
    lanes: the layer's `state.lane_axes`.

  Returns:
    A function equal to `gradients` to rounding, with 1/n of its activations.
  """
  if n == 1:
    return gradients
  axes = [axis for axis in jax.tree.leaves(lanes) if axis >= 0]

  def accumulated(weights, model_state, batch, rng):
    batch_parts = {name: _split(x, 0, n) for name, x in batch.items()}
    shared, per_row = _partition(model_state, lanes)
    row_parts = [
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

    part = jax.tree.map(lambda x: x[0], (batch_parts, row_parts))
    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype),
      jax.eval_shape(
        lambda: gradients(
          weights, _combine(shared, part[1], lanes), part[0], rng
        )[:2]
      ),
    )
    (sums, shared), row_parts = jax.lax.scan(
      body, (zeros, shared), (jnp.arange(n), batch_parts, row_parts)
    )
    per_row = [_join(x, axis) for x, axis in zip(row_parts, axes, strict=True)]
    return *sums, _combine(shared, per_row, lanes)

  return accumulated


def _split(x, axis, n):
  """Splits an axis in n parts of every n-th row; the parts lead the result.

  Every n-th row, and not n runs of rows: so each device, which holds a run of
  rows, finds its share of every part in its own memory.
  """
  shape = (*x.shape[:axis], x.shape[axis] // n, n, *x.shape[axis + 1 :])
  return jnp.moveaxis(x.reshape(shape), axis + 1, 0)


def _join(x, axis):
  """Undoes `_split`."""
  x = jnp.moveaxis(x, 0, axis + 1)
  return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _partition(model_state, lanes):
  """Lists of the state arrays that rows share, and of those kept per row."""
  leaves, axes = jax.tree.leaves(model_state), jax.tree.leaves(lanes)
  shared = [x for x, axis in zip(leaves, axes, strict=True) if axis < 0]
  per_row = [x for x, axis in zip(leaves, axes, strict=True) if axis >= 0]
  return shared, per_row


def _combine(shared, per_row, lanes):
  """Undoes `_partition`."""
  axes, structure = jax.tree.flatten(lanes)
  shared, per_row = iter(shared), iter(per_row)
  leaves = [next(shared) if axis < 0 else next(per_row) for axis in axes]
  return jax.tree.unflatten(structure, leaves)
