"""Segments of variable length: where they start, and what is known of them.

A boundary at position t starts a segment there. Position 0 always starts one.
A vector of a segment may use the inputs up to its first position, so that all
its positions may read it.

Letters: b batch, l length, d d_model, m segments, r columns.
"""

import math

import jax
import jax.numpy as jnp


def n_segments(length: int, target: float, capacity: float) -> int:
  """Number of segments that a sequence of `length` positions can have.

  Args:
    length: Number of positions.
    target: Expected mean length of a segment.
    capacity: Number of segments, relative to length / target.

  Example:
    >>> n_segments(100, target=4, capacity=1.5)
    38
  """
  return min(length, max(1, math.ceil(capacity * length / target)))


def limit(
  boundaries: jax.Array, begun: jax.Array | int, capacity: int
) -> jax.Array:
  """Drops boundaries (b, l) after the first `capacity` of a sequence.

  Args:
    boundaries: 1.0 where a segment starts, else 0.0.
    begun: Number of segments that earlier calls started.
    capacity: Number of segments that a sequence can have.

  Example:
    >>> print(limit(jnp.array([[1.0, 0.0, 1.0, 1.0]]), 0, capacity=2))
    [[1. 0. 1. 0.]]
  """
  return boundaries * (begun + count(boundaries) <= capacity)


def count(boundaries: jax.Array) -> jax.Array:
  """Number of boundaries up to each position: (b, l) -> int32 (b, l).

  Example:
    >>> print(count(jnp.array([[1.0, 0.0, 1.0]])))
    [[1 1 2]]
  """
  return jnp.cumsum((boundaries > 0.5).astype(jnp.int32), axis=1)


def starts(boundaries: jax.Array, m: int) -> jax.Array:
  """Positions of the first m boundaries: (b, l) -> int32 (b, m).

  Rows with fewer boundaries end in copies of l - 1.

  Example:
    >>> print(starts(jnp.array([[1.0, 0.0, 1.0, 0.0]]), 3))
    [[0 2 3]]
  """

  def of_row(counts):
    return jnp.searchsorted(counts, jnp.arange(1, m + 1))

  found = jax.vmap(of_row)(count(boundaries))
  return jnp.minimum(found, boundaries.shape[1] - 1).astype(jnp.int32)


def take(rows: jax.Array, index: jax.Array) -> jax.Array:
  """Rows (b, n, d) at indices (b, m): (b, m, d); or (b, n) -> (b, m).

  Example:
    >>> print(take(jnp.array([[5, 6, 7]]), jnp.array([[2, 0]])))
    [[7 5]]
  """
  if rows.ndim > index.ndim:
    index = index[..., None]
  return jnp.take_along_axis(rows, index, axis=1)


def hold(last: jax.Array, rows: jax.Array, boundaries: jax.Array) -> jax.Array:
  """The row of the segment of each position: (b, l, d).

  Args:
    last: Row of the segment that continues from earlier calls, (b, 1, d).
    rows: Rows of the segments that start in this call, (b, m, d).
    boundaries: Where they start, (b, l).

  Example:
    >>> last, rows = jnp.array([[[9]]]), jnp.array([[[5], [6]]])
    >>> print(hold(last, rows, jnp.array([[0.0, 1.0, 0.0, 1.0]]))[..., 0])
    [[9 5 5 6]]
  """
  rows = jnp.concatenate([last.astype(rows.dtype), rows], axis=1)
  return take(rows, count(boundaries))


def since(events: jax.Array, before: jax.Array | int) -> jax.Array:
  """Number of positions since the last event: (b, l) bool -> int32 (b, l).

  Args:
    events: Where events are; the number is 0 there.
    before: Number of positions from the last event to the first position, (b,)
      or a number.

  Example:
    >>> print(since(jnp.array([[False, False, True, False]]), 3))
    [[3 4 0 1]]
  """
  i = jnp.arange(events.shape[1])
  start = -jnp.broadcast_to(jnp.asarray(before), events.shape[:1])[:, None]
  last = jnp.where(events, i, start)
  return i - jax.lax.cummax(last, axis=1)
