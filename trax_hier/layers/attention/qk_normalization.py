"""Query-key normalization: unit-length queries and keys, one scale per head.

Letters: b batch, h heads, l length, q queries, k keys.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.layers.attention import flash
from trax_hier.layers.attention.positions import Bias, NoPositions
from trax_hier.layers.attention.softmax import softmax_attention


class QKNormalization(NoPositions):
  """A position scheme with query-key normalization.

  scores = |scale_h| (q.k / (|q| |k|) + bias); scale_h is learned, initially 1.

  Args:
    positions: The scheme that rotates queries and keys and returns the bias.
    scale: Layer of the scales, if another layer shares their weights.
  """

  def __init__(self, positions: NoPositions, scale: base.Layer | None = None):
    self._positions = positions
    self._scale = scale

  def rotate(self, stride: int, mode: str) -> list[base.Layer]:
    """Returns the layers of the wrapped scheme, then a `Normalize`."""
    return [*self._positions.rotate(stride, mode), Normalize()]

  def bias(
    self, query_stride: int, key_stride: int, max_len: int, mode: str
  ) -> Bias:
    """Returns the wrapped scheme's bias, times each head's scale."""
    inner = self._positions.bias(query_stride, key_stride, max_len, mode)
    scale_layer = self._scale or HeadScale()

    def apply(arrays, offsets, q, n_keys):
      *arrays, scale = arrays
      q, bias = inner.apply(arrays, offsets, q, n_keys)
      scaled = (q * _factor(scale, q)).astype(q.dtype)
      return scaled, bias * _factor(scale, q)

    return dataclasses.replace(
      inner,
      layer=tl.Serial(  # q, k
        tl.Select([0, 1, 0]),  # q, k, q
        inner.layer,  # arrays, q
        tl.Parallel(*[None] * inner.n_arrays, scale_layer)
        if inner.n_arrays
        else scale_layer,
      ),
      n_arrays=inner.n_arrays + 1,
      apply=apply,
    )


def Normalize() -> base.Layer:
  """L2-normalizes the last axis: (b, h, l, d_head) -> same.

  Example:
    >>> print(Normalize()(jnp.array([[3.0, 4.0]])).round(1))
    [[0.6 0.8]]
  """

  def normalize(x):
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.sum(y * y, axis=-1, keepdims=True) + 1e-6)
    return y.astype(x.dtype)

  return tl.Fn('Normalize', normalize)


class HeadScale(base.Layer):
  """Learned scale of each head: q (b, h, l, d_head) -> (h,)."""

  is_positionwise = True

  def init_weights_and_state(self, input_signature):
    self.weights = jnp.ones(input_signature.shape[1], jnp.float32)

  def forward(self, x):
    return self.weights


class ScaledAttention(base.Layer):
  """Attention of all queries to all keys, with a learned scale for each head.

  q (.., h, q, d_head), k and v (.., h, k, d_head) -> (.., h, q, d_head), with
  neither mask nor positions.

  Args:
    n_heads: Number of heads.
    dropout: Dropout rate of the attention weights in 'train' mode.
    mode: 'train', 'eval' or 'predict'.
  """

  def __init__(self, n_heads: int, dropout: float, mode: str):
    super().__init__(n_in=3, n_out=1)
    self._n_heads = n_heads
    self._dropout = dropout if mode == 'train' else 0.0

  def init_weights_and_state(self, input_signature):
    self.weights = jnp.ones(self._n_heads, jnp.float32)

  def forward(self, inputs):
    q, k, v = inputs
    q = (q * _factor(self.weights, q)).astype(q.dtype)
    if flash.fits(q, k, flash.ALL_KEYS, dropout=self._dropout):
      return flash.attend(q, k, v, flash.ALL_KEYS)
    return softmax_attention(q, k, v, 0.0, True, self._dropout, self.rng)


def _factor(scale, q):
  """Factor |scale| sqrt(d_head), (h, 1, 1), for `scale` (h,), q (.., d_head).

  Attention divides scores by sqrt(d_head), which leaves |scale|.
  """
  factor = jnp.abs(scale.astype(jnp.float32)) * math.sqrt(q.shape[-1])
  return factor[:, None, None]
