"""Attention to a whole masked sequence: cross-attention and encoder attention.

Letters: b batch, h heads, l and m lengths, d d_model.
"""

from collections.abc import Callable

import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.layers.attention import flash
from trax_hier.layers.attention.dot_product import in_chunks
from trax_hier.layers.attention.heads import Heads, MergeHeads
from trax_hier.layers.attention.softmax import softmax_attention
from trax_hier.layers.base.dense import Dense
from trax_hier.layers.base.once import Once
from trax_hier.layers.base.slots import PROJECTION, build_part


@configurable(module='trax_hier.layers')
def CrossAttention(
  d_model: int,
  n_heads: int = 8,
  dropout: float = 0.0,
  mode: str = 'train',
  query: Callable[..., base.Layer] = Dense,
  output: Callable[..., base.Layer] = Dense,
):
  """Cross-attention to all rows of another sequence, without positions.

  x (b, l, d), context (b, m, d), mask (b, m) bool -> (b, l, d); rows of
  `context` where the mask is False are not attended to. If a whole row of the
  mask is False, the heads return zeros.

  Args:
    d_model: Width of inputs and outputs.
    n_heads: Number of heads; divides d_model.
    dropout: Dropout rate of the attention weights.
    mode: 'train', 'eval' or 'predict'. In predict mode, all later calls use the
      keys and values of the first call's context.
    query: Factory of the projection to queries, of width `d_out`.
    output: Factory of the output projection, of width `d_out`.

  Raises:
    ValueError: n_heads does not divide d_model.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> from trax_hier.compat import ShapeDtype
    >>> layer = CrossAttention(d_model=8, n_heads=2)
    >>> mask = ShapeDtype((2, 5), bool)
    >>> tree(layer, (2, 6, 8), (2, 5, 8), mask).outputs
    ((2, 6, 8),)
  """
  sizes = dict(d_out=d_model, mode=mode)
  project = build_part('CrossAttention.query', query, PROJECTION, **sizes)
  heads = [  # x, context
    Heads(d_model, n_heads, [], project=project),
    Once(Heads(d_model, n_heads, [], []), mode),
  ]
  output = build_part('CrossAttention.output', output, PROJECTION, **sizes)
  return tl.Serial(*_attend_to_masked(heads, output, dropout, mode))


@configurable(module='trax_hier.layers')
def EncoderAttention(
  d_model: int, n_heads: int = 8, dropout: float = 0.0, mode: str = 'train'
):
  """Bidirectional self-attention: x (b, l, d), mask (b, l) -> (b, l, d).

  Arguments and mask as in `CrossAttention`; every call gets a whole sequence.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> from trax_hier.compat import ShapeDtype
    >>> layer = EncoderAttention(d_model=8, n_heads=2)
    >>> tree(layer, (2, 6, 8), ShapeDtype((2, 6), bool)).outputs
    ((2, 6, 8),)
  """
  heads = [Heads(d_model, n_heads, [], [], [])]
  return tl.Serial(*_attend_to_masked(heads, Dense(d_model), dropout, mode))


def _attend_to_masked(heads, output, dropout, mode):
  """Layers that attend to rows where the mask is True, and project by `output`.

  Inputs of `heads`, mask (b, m) bool -> (b, l, d); `heads` return q, k and v.
  """
  return [
    tl.Parallel(
      *heads, tl.Fn('OverHeads', lambda mask: mask[:, None, None])
    ),  # q, k, v, mask
    _MaskedAttention(dropout if mode == 'train' else 0.0),  # (b, h, l, d / h)
    MergeHeads(),
    output,
  ]


class _MaskedAttention(base.Layer):
  """Attention to unmasked keys: q, k, v, mask -> (b, h, l, d / h)."""

  def __init__(self, dropout):
    super().__init__(n_in=4, n_out=1)
    self._dropout = dropout

  def forward(self, inputs):
    q, k, v, mask = inputs

    def attend(q, start, rng):
      del start
      return softmax_attention(q, k, v, 0.0, mask, self._dropout, rng)

    if flash.fits(q, k, flash.ALL_KEYS, masked=True, dropout=self._dropout):
      y = flash.attend(q, k, v, flash.ALL_KEYS, mask=mask)
    else:
      y = in_chunks(attend, q, self.rng)
    # Without a visible key, y is arbitrary, such as the mean of all values.
    return jnp.where(jnp.any(mask, axis=-1, keepdims=True), y, 0)
