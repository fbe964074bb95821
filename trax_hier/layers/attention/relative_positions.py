"""Transformer-XL's relative positions: a bias from queries and distances.

Letters: b batch, h heads, l length, q queries, k keys, c rows of the table.
"""

import jax
import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.attention.distances import (
  all_products,
  distance_grid,
  shift,
)
from trax_hier.layers.attention.positions import Bias, NoPositions, sinusoid
from trax_hier.layers.base.checks import check_arguments
from trax_hier.layers.base.dense import Dense
from trax_hier.layers.base.once import FromWeights


@configurable(module='trax_hier.layers')
class RelativePositions(NoPositions):
  """Transformer-XL's relative positions.

  score(i, j) = (q_i + u).k_j + (q_i + v).r_ij, where r_ij projects the sinusoid
  of the distance from query i to key j. Each attention layer learns its own
  projection; the whole model shares the biases u and v, (1, h, 1, d_head).

  Args:
    d_model: Width of the model and of the sinusoids; even.
    n_heads: Number of attention heads; divides d_model.

  Raises:
    ValueError: d_model is odd or not divisible by n_heads.

  Example:
    >>> from trax_hier.layers import SelfAttention, ShareWeights
    >>> from trax_hier.inspection.layer_tree import tree
    >>> positions = RelativePositions(d_model=8, n_heads=2)
    >>> layer = tl.Serial(
    ...   ShareWeights(*positions.shared),  # u and v
    ...   SelfAttention(8, n_heads=2, positions=positions),
    ... )
    >>> print(tree(layer, (2, 12, 8)).text(1))
    layer                 parameters   in           out
    Serial                       376   (2, 12, 8)   (2, 12, 8)
      ShareWeights ...            16
      SelfAttention ...          360   (2, 12, 8)   (2, 12, 8)

  Source: Transformer-XL (arXiv 1901.02860) section 3.3; Hourglass appendix B.
  """

  def __init__(self, d_model: int, n_heads: int):
    check_arguments('RelativePositions', d_model=d_model, n_heads=n_heads)
    if d_model % 2:
      raise ValueError(f'RelativePositions: d_model = {d_model} must be even')
    self._d_model = d_model
    self._n_heads = n_heads
    shape = (1, n_heads, 1, d_model // n_heads)
    initializer = tl.RandomNormalInitializer(1e-6)
    self._context_bias = tl.Weights(initializer, shape)
    self._location_bias = tl.Weights(initializer, shape)

  @property
  def shared(self) -> tuple[base.Layer, ...]:
    """The layers u and v, which the model's `ShareWeights` must own."""
    return self._context_bias, self._location_bias

  def bias(
    self, query_stride: int, key_stride: int, max_len: int, mode: str
  ) -> Bias:
    """Returns the bias, whose arrays are v, u and projected distances r."""
    is_predict = mode == 'predict'
    if is_predict:
      grid = _AnyOffsets(query_stride, key_stride, max_len)
    else:
      grid = distance_grid(query_stride, key_stride)

    def split(r):
      return r.reshape(r.shape[0], self._n_heads, -1).swapaxes(0, 1)

    def table(sinusoids):
      """A layer that computes r, (h, c, d / h)."""
      return tl.Serial(
        tl.Fn('Sinusoid', sinusoids),
        Dense(self._d_model),
        tl.Fn('SplitHeads', split),
      )

    if is_predict:
      distances = FromWeights(
        table(lambda: sinusoid(grid.distances(), self._d_model)), n_in=2
      )
    else:
      distances = table(
        lambda q, k: sinusoid(
          grid.distances(k.shape[-2]), self._d_model
        ).astype(q.dtype)
      )

    def apply(arrays, offsets, q, n_keys):
      v, u, r = arrays
      if q.shape[-1] != u.shape[-1]:
        raise ValueError(
          f'RelativePositions has heads of d_model / n_heads = {u.shape[-1]}, '
          f'but the attention has d_head = {q.shape[-1]}'
        )
      rows = (offsets,) if is_predict else ()
      return q + u, grid.products(q + v, r, *rows, n_keys)

    layer = tl.Serial(  # q, k
      distances,  # r
      self._context_bias,
      self._location_bias,  # v, u, r
    )
    return Bias(layer, 3, apply)


class _AnyOffsets:
  """Bias for positions that are known only at run time, in predict mode.

  The table holds every distance possible in a cache of `max_len` tokens; the
  first n_keys keys need only its last rows. For several queries and keys that
  are not coarser, `bias` shifts a slice of the scores as in `_FineKeys`;
  otherwise, it gathers the score of each offset.
  """

  def __init__(self, query_stride, key_stride, max_len):
    self._stride = min(query_stride, key_stride)
    self._ratio = query_stride // self._stride
    self._key_ratio = key_stride // self._stride
    self._n_past = -(-max_len // self._stride) + self._ratio
    self._n_rows = self._n_past + self._ratio

  def distances(self):
    """Distances in tokens, key minus query, (c,)."""
    return (jnp.arange(self._n_rows) - self._n_past) * self._stride

  def products(self, q, r, offsets, n_keys):
    """Products (.., h, q, d) x (h, c, d) -> (.., h, q, k), by offsets."""
    n_past = min(self._n_past, n_keys * self._key_ratio + self._ratio)
    # Offsets are multiples of the stride, so `floor_divide` is not needed.
    stride = jnp.full_like(offsets, self._stride)
    rows = jax.lax.div(offsets, stride) + n_past
    scores = all_products(q, r[:, self._n_past - n_past :])
    n = q.shape[-2]
    if n > 1 and self._key_ratio == 1:
      # Rows outside the table belong to masked keys, such as keys that a cache
      # holds beyond the window.
      before = n * self._ratio + max(0, n_keys - n_past)
      padding = [(0, 0)] * (scores.ndim - 1) + [(before, n_keys)]
      scores = jax.lax.dynamic_slice_in_dim(
        jnp.pad(scores, padding),
        rows[-1, 0] + before,
        n_keys + self._ratio,
        axis=-1,
      )
      return shift(scores, self._ratio)
    if n == 1:
      return jnp.take(scores, rows[0], axis=-1, mode='clip')
    rows = jnp.clip(rows, 0, scores.shape[-1] - 1)
    rows = jnp.broadcast_to(rows, (*scores.shape[:-1], rows.shape[-1]))
    return jnp.take_along_axis(scores, rows, axis=-1)
