"""T5's relative position bias: a learned scalar per bucket of distances."""

import math

import jax.numpy as jnp

from trax_hier.compat import tl
from trax_hier.config import configurable
from trax_hier.layers.attention.distances import distance_grid
from trax_hier.layers.attention.positions import Bias, NoPositions


@configurable(module='trax_hier.layers')
class T5Positions(NoPositions):
  """A learned bias for each head and each logarithmic bucket of distances.

  Args:
    n_heads: Number of attention heads.
    n_buckets: Number of buckets; each of the first half holds one distance.
    max_distance: All distances of at least this many tokens share a bucket.

  Example:
    >>> from trax_hier.layers import SelfAttention
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = SelfAttention(8, n_heads=2, positions=T5Positions(n_heads=2))
    >>> tree(layer, (2, 12, 8)).n_parameters  # 288 + 2 * 32 of the table
    352

  Source: T5 (arXiv 1910.10683), section 2.1, with unidirectional buckets. Each
  attention layer has its own table (n_heads, n_buckets).
  """

  def __init__(
    self, n_heads: int, n_buckets: int = 32, max_distance: int = 128
  ):
    if not 2 <= n_buckets < 2 * max_distance:
      raise ValueError(
        f'T5Positions.n_buckets = {n_buckets} must be between 2 and '
        f'2 * max_distance = {2 * max_distance}'
      )
    self._n_heads = n_heads
    self._n_buckets = n_buckets
    self._max_distance = max_distance

  def bias(
    self, query_stride: int, key_stride: int, max_len: int, mode: str
  ) -> Bias:
    """Returns the bias for each head and distance."""
    del max_len
    grid = distance_grid(query_stride, key_stride)
    n, longest = self._n_buckets, self._max_distance

    def apply(arrays, offsets, q, n_keys):
      (table,) = arrays
      if mode == 'predict':
        return q, table[:, t5_buckets(-offsets, n, longest)]  # (h, q, k)
      buckets = t5_buckets(-grid.distances(n_keys), n, longest)
      return q, grid.spread(table[:, buckets], q.shape[-2], n_keys)

    table = tl.Weights(tl.RandomNormalInitializer(n**-0.5), (self._n_heads, n))
    return Bias(tl.Serial(tl.Select([], n_in=2), table), 1, apply)


def t5_buckets(distances, n_buckets: int, max_distance: int):
  """Buckets (int32) of distances query minus key; negative ones count as 0.

  Example:
    >>> distances = jnp.array([-3, 0, 1, 15, 16, 40, 127, 1000])
    >>> print(t5_buckets(distances, n_buckets=32, max_distance=128))
    [ 0  0  1 15 16 23 31 31]
  """
  distances = jnp.maximum(distances, 0)
  exact = n_buckets // 2
  ratios = jnp.maximum(distances, 1).astype(jnp.float32) / exact
  fraction = jnp.log(ratios) / math.log(max_distance / exact)
  coarse = exact + (fraction * (n_buckets - exact)).astype(jnp.int32)
  return jnp.where(
    distances < exact, distances, jnp.minimum(coarse, n_buckets - 1)
  )
