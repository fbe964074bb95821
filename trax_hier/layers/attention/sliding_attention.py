"""Attention to a window of the past, with normalised queries and keys.

A position attends to the `window` keys before it, itself excluded; at the start
of a sequence these are zeros with values of zero, which are not masked. Queries
and keys have length 1 in each head, and the products, with the bias of the
position scheme, are multiplied by a learned scale for each head.

Letters: b batch, h heads, l length, d d_model, q queries, k keys.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.attention.attention import Attend, Heads
from trax_hier.layers.attention.cache import PastRows
from trax_hier.layers.attention.dot_product import softmax_attention
from trax_hier.layers.attention.positions import Bias, NoPositions
from trax_hier.layers.base.dense import Linear


@configurable(module='trax_hier.layers', denylist=['carry'])
def SlidingAttention(
  d_model: int,
  n_heads: int = 8,
  window: int = 512,
  dropout: float = 0.0,
  mode: str = 'train',
  stride: int = 1,
  positions: NoPositions | None = None,
  d_head: int | None = None,
  carry: bool = False,
):
  """Self-attention to a window of the past: (b, l, d) -> (b, l, d).

  Cost is linear in length. With segments of `window` tokens whose memory is
  carried, this is Transformer-XL's attention to the last segment.

  Args:
    d_model: Width of inputs and outputs.
    n_heads: Number of heads.
    window: Number of positions that a position sees, all before it.
    dropout: Rate of dropout on the attention weights.
    mode: 'train', 'eval' or 'predict'.
    stride: Distance in tokens of neighbouring positions.
    positions: Position scheme; None is `NoPositions()`.
    d_head: Width of a head; None is d_model / n_heads.
    carry: Whether calls in 'train' and 'eval' modes go on with one sequence:
      the first positions then see the last ones of the call before.

  Raises:
    ValueError: window is not positive, n_heads does not divide d_model, or
      positions that count from the start of a call are to be carried.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = SlidingAttention(8, n_heads=2, window=4)
    >>> print(tree(layer, (2, 12, 8)).text(0))
    layer                  parameters   in           out
    SlidingAttention ...          258   (2, 12, 8)   (2, 12, 8)

  Source: Block-Recurrent Transformers (arXiv 2203.07852) and its published
  code.
  """
  positions = positions or NoPositions()
  scheme = NormalisedHeads(positions)
  rotate_q, rotate_k = (scheme.rotate(stride, mode) for _ in range(2))
  check_window('SlidingAttention', window)
  check_carry('SlidingAttention', positions, carry)
  return tl.Serial(  # x
    Heads(
      d_model, n_heads, rotate_q, rotate_k, [], d_head=d_head, dense=Linear
    ),  # q, k, v
    tl.Parallel(None, PastRows(window, carry, mode)),
    Attend(
      scheme, stride, stride, window, dropout, mode, window, past_only=True
    ),
    Linear(d_model),
  )


def check_window(name: str, window: int) -> None:
  """Raises ValueError unless `window` is positive."""
  if window < 1:
    raise ValueError(f'{name}.window = {window} must be positive')


def check_carry(name: str, positions: NoPositions, carry: bool) -> None:
  """Raises ValueError if keys that are carried would have absolute positions.

  They would count from the beginning of the call that a key came in.
  """
  if carry and (positions.rotate(1, 'train') or positions.embed('train')):
    raise ValueError(
      f'{name}: keys that are carried from one call to the next cannot have '
      'positions that rotate or that are added to embeddings, such as '
      'RotaryPositions or LearnedPositions: use T5Positions, '
      'RelativePositions or NoPositions'
    )


class NormalisedHeads(NoPositions):
  """A position scheme whose queries and keys are then normalised.

  scores = |scale_h| (q.k / (|q| |k|) + bias); scale_h is learned, 1 at first.

  Args:
    positions: The scheme that rotates queries and keys and gives the bias.
  """

  def __init__(self, positions: NoPositions):
    self._positions = positions

  def rotate(self, stride: int, mode: str) -> list[base.Layer]:
    """Returns the layers of the scheme and one that normalises."""
    return [*self._positions.rotate(stride, mode), Normalise()]

  def bias(
    self, query_stride: int, key_stride: int, max_len: int, mode: str
  ) -> Bias:
    """Returns the scheme's bias, with all scores scaled."""
    inner = self._positions.bias(query_stride, key_stride, max_len, mode)

    def apply(arrays, offsets, q, n_keys):
      *arrays, scale = arrays
      q, bias = inner.apply(arrays, offsets, q, n_keys)
      return scale_scores(scale, q), scale_scores(scale, q, bias)

    return dataclasses.replace(
      inner,
      layer=tl.Serial(  # q, k
        tl.Select([0, 1, 0]),  # q, k, q
        inner.layer,  # arrays, q
        tl.Parallel(*[None] * inner.n_arrays, _HeadScale())
        if inner.n_arrays
        else _HeadScale(),
      ),
      n_arrays=inner.n_arrays + 1,
      apply=apply,
    )


def Normalise() -> base.Layer:
  """Gives the last axis length 1: (b, h, l, d_head) -> same.

  Example:
    >>> print(Normalise()(jnp.array([[3.0, 4.0]])).round(1))
    [[0.6 0.8]]
  """

  def normalise(x):
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.sum(y * y, axis=-1, keepdims=True) + 1e-6)
    return y.astype(x.dtype)

  return tl.Fn('Normalise', normalise)


class _HeadScale(base.Layer):
  """q (b, h, l, d_head) -> the learned scale of each head, (h,)."""

  def init_weights_and_state(self, input_signature):
    self.weights = jnp.ones(input_signature.shape[1], jnp.float32)

  def forward(self, x):
    return self.weights


class ScaledAttention(base.Layer):
  """Attention of all queries to all keys, with a learned scale for each head.

  q (.., h, q, d_head), k and v (.., h, k, d_head) -> (.., h, q, d_head); no
  mask and no positions.

  Args:
    n_heads: h.
    dropout: Rate of dropout on the attention weights in 'train' mode.
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
    q = scale_scores(self.weights, q)
    return softmax_attention(q, k, v, 0.0, True, self._dropout, self.rng)


def scale_scores(scale, q, x=None):
  """|scale| x, where attention is to divide it by sqrt(d_head); x is q if None.

  `scale` (h,), q (.., h, q, d_head), x a number or (.., h, q, k).
  """
  factor = jnp.abs(scale.astype(jnp.float32)) * math.sqrt(q.shape[-1])
  factor = factor[:, None, None]
  return (q * factor).astype(q.dtype) if x is None else x * factor
