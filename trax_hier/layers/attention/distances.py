"""Attention terms that depend on the distance between a query and a key.

A term is computed once per distance, and shifts align it with queries and keys,
because a gather of (query, key) pairs is slow and its gradient is slower.

Letters: h heads, q queries, k keys, c distances.
"""

import jax
import jax.numpy as jnp

from trax_hier.layers.base.products import wide_einsum


def distance_grid(query_stride: int, key_stride: int):
  """The grid of distances of queries and keys that end at the same token."""
  if query_stride >= key_stride:
    return _FineKeys(query_stride, key_stride)
  return _CoarseKeys(query_stride, key_stride)


class _FineKeys:
  """Distances where the queries' stride is `ratio` >= 1 times the keys' stride.

  Distances range from the last query's distance to the first key up to ratio -
  1 keys ahead. Shifting row i by its own position aligns the terms of all
  distances with the keys.
  """

  def __init__(self, query_stride, key_stride):
    self._ratio = query_stride // key_stride
    self._stride = key_stride

  def distances(self, n_keys):
    """Distances in tokens, key minus query, (c,); the last ones are padding."""
    return (jnp.arange(n_keys + self._ratio) + self._ratio - n_keys) * (
      self._stride
    )

  def products(self, q, r, n_keys):
    """Aligns products: (.., h, q, d) x (h, c, d) -> float32 (.., h, q, k)."""
    return shift(all_products(q, r[:, -n_keys - self._ratio :]), self._ratio)

  def spread(self, values, n_queries, n_keys):
    """Aligns values of distances: (h, c) -> (h, q, k)."""
    values = values[:, None, -n_keys - self._ratio :]
    shape = len(values), n_queries, n_keys + self._ratio
    return shift(jnp.broadcast_to(values, shape), self._ratio)


class _CoarseKeys:
  """Distances where the keys' stride is `ratio` times the queries' stride.

  The distance from query i = ratio * a + m to key j is ratio * (j - a) - m. For
  each m, the distances shift with a as in `_FineKeys`. The cost is n_queries *
  n_keys; a table of all distances would cost n_queries ** 2.
  """

  def __init__(self, query_stride, key_stride):
    self._ratio = key_stride // query_stride
    self._stride = query_stride

  def distances(self, n_keys):
    """Distances in tokens, key minus query, (c,); they begin with m = 0."""
    groups = jnp.arange(n_keys + 1) + 1 - n_keys
    m = jnp.arange(self._ratio)[:, None]
    return ((groups * self._ratio - m) * self._stride).ravel()

  def products(self, q, r, n_keys):
    """Aligns products: (.., h, q, d) x (h, c, d) -> float32 (.., h, q, k)."""
    *batch, n_queries, d = q.shape
    q = q.reshape(*batch, n_queries // self._ratio, self._ratio, d)
    r = r.reshape(r.shape[0], self._ratio, -1, d)[:, :, -n_keys - 1 :]
    scores = wide_einsum('...hamd,hmcd->...hmac', q, r)
    return self._join(scores)

  def spread(self, values, n_queries, n_keys):
    """Aligns values of distances: (h, c) -> (h, q, k)."""
    h = len(values)
    values = values.reshape(h, self._ratio, 1, -1)[..., -n_keys - 1 :]
    shape = h, self._ratio, n_queries // self._ratio, n_keys + 1
    return self._join(jnp.broadcast_to(values, shape))

  def _join(self, x):
    """Terms by m (.., h, m, a, c) -> (.., h, q, k)."""
    y = jnp.swapaxes(shift(x, 1), -3, -2)  # (.., h, a, m, k)
    *batch, a, m, n_keys = y.shape
    return y.reshape(*batch, a * m, n_keys)


def all_products(q, r):
  """Products (.., h, q, d) x (h, c, d) -> (.., h, q, c), in float32."""
  return wide_einsum('...hqd,hcd->...hqc', q, r)


def shift(scores: jax.Array, step: int) -> jax.Array:
  """Moves row i of n left by step * (n - 1 - i): (n, c + step) -> (n, c).

  Concatenates the rows and cuts them again into rows shorter by `step`. The
  values that wrap around from the next row land where the causal mask hides
  them.
  """
  *batch, n, width = scores.shape
  c = width - step
  flat = scores.reshape(*batch, n * width)
  start = (n - 1) * step
  return flat[..., start : start + n * c].reshape(*batch, n, c)
