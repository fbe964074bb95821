"""Shortening layers pool groups of k vectors: (b, l, d) -> (b, l / k, d).

A pooled vector covers k inputs, so a causal model must first delay the inputs
by k - 1 positions, as `ShortenedStack` does. The length l of a call must be a
multiple of k in all modes.

To add a shortening, write a function here with `shorten_factor` and any of the
other arguments of `AttentionShorten`, and export it from `trax_hier.layers`.

Source: Hourglass (arXiv 2110.13711) section 2.2.
"""

from collections.abc import Callable

import jax.numpy as jnp

from trax_hier.compat import base, tl
from trax_hier.config import configurable
from trax_hier.config.effects import passes_on
from trax_hier.layers.attention.causal_attention import CausalAttention
from trax_hier.layers.attention.positions import NoPositions
from trax_hier.layers.base.dense import Dense
from trax_hier.layers.base.feed_forward import FeedForward
from trax_hier.layers.base.normalization import LayerNorm
from trax_hier.layers.base.slots import FEED_FORWARD, SHORTEN, build_part
from trax_hier.layers.blocks import PreNormResidual


@configurable(module='trax_hier.layers')
def AverageShorten(shorten_factor: int):
  """Averages each group of k: (b, l, d) -> (b, l / k, d).

  Example:
    >>> print(AverageShorten(2)(jnp.array([[[1.0], [3.0], [5.0], [9.0]]])))
    [[[2.]
      [7.]]]
  """

  def mean(x):
    b, l, d = x.shape
    groups = x.reshape(b, l // shorten_factor, shorten_factor, d)
    return jnp.mean(groups, axis=2)

  return tl.Fn(f'AverageShorten({shorten_factor})', mean)


@configurable(module='trax_hier.layers')
def LinearShorten(
  shorten_factor: int, d_model: int, dropout: float = 0.0, mode: str = 'train'
):
  """Concatenates and projects each group of k: (b, l, d) -> (b, l / k, d).

  Args:
    shorten_factor: k.
    d_model: Width of inputs and outputs.
    dropout: Dropout rate of the output.
    mode: 'train', 'eval' or 'predict'.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> print(tree(LinearShorten(shorten_factor=3, d_model=8), (2, 12, 8)))
    layer              parameters   in           out
    LinearShorten             200   (2, 12, 8)   (2, 4, 8)
      GroupTokens(3)            -   (2, 12, 8)   (2, 4, 24)
      Dense_8                 200   (2, 4, 24)   (2, 4, 8)
  """

  def group(x):
    b, l, d = x.shape
    return x.reshape(b, l // shorten_factor, shorten_factor * d)

  return tl.Serial(
    tl.Fn(f'GroupTokens({shorten_factor})', group),  # (b, l / k, k d)
    Dense(d_model),  # (b, l / k, d)
    tl.Dropout(dropout, mode=mode),
  )


@configurable(module='trax_hier.layers')
@passes_on('d_ff')
def AttentionShorten(
  shorten_factor: int,
  d_model: int,
  d_ff: int = 2048,
  n_heads: int = 8,
  pool: Callable[..., base.Layer] = AverageShorten,
  feed_forward: Callable[..., base.Layer] = FeedForward,
  dropout: float = 0.0,
  mode: str = 'train',
  max_len: int = 2048,
  stride: int = 1,
  positions: NoPositions | None = None,
):
  """Attention of pooled vectors to the inputs, then a feed-forward layer.

  (b, l, d) -> (b, l / k, d). x' = S(x) + Attention(S(x), x): queries are a
  pooling S of the inputs, keys and values are the inputs. x is normalized
  first, and so is S(x). A pooled vector attends to the inputs up to the end of
  its group.

  Args:
    shorten_factor: k.
    d_model: Width of inputs and outputs.
    d_ff: Hidden width of the feed-forward layer.
    n_heads: Number of attention heads.
    pool: Factory of S: `AverageShorten` or `LinearShorten`.
    feed_forward: Factory of the feed-forward layer.
    dropout: Dropout rate of the attention and feed-forward layers, inside and
      after them.
    mode: 'train', 'eval' or 'predict'.
    max_len: Capacity in tokens of the key/value cache in predict mode.
    stride: Distance in tokens between neighboring inputs.
    positions: Position scheme of the attention; None means `NoPositions()`.

  Example:
    >>> from trax_hier.inspection.layer_tree import tree
    >>> layer = AttentionShorten(3, d_model=8, d_ff=16, n_heads=2)
    >>> print(tree(layer, (2, 12, 8)).text(1))
    layer                   parameters   in                     out
    AttentionShorten               616   (2, 12, 8)             (2, 4, 8)
      LayerNorm                     16   (2, 12, 8)             (2, 12, 8)
      AverageShorten(3)              -   (2, 12, 8)             (2, 4, 8)
      LayerNorm                     16   (2, 4, 8)              (2, 4, 8)
      CausalAttention ...          288   (2, 4, 8) (2, 12, 8)   (2, 4, 8)
      PreNormResidual ...          296   (2, 4, 8)              (2, 4, 8)
  """
  dimensions = dict(
    d_model=d_model, d_ff=d_ff, dropout=dropout, mode=mode, stride=stride
  )
  attention = CausalAttention(
    d_model,
    n_heads,
    query_stride=shorten_factor * stride,
    key_stride=stride,
    dropout=dropout,
    mode=mode,
    max_len=max_len,
    positions=positions,
  )
  feed = build_part(
    'AttentionShorten.feed_forward', feed_forward, FEED_FORWARD, **dimensions
  )
  return tl.Serial(  # x
    LayerNorm(),  # h
    tl.Branch(
      tl.Serial(
        build_part(
          'AttentionShorten.pool',
          pool,
          SHORTEN.of(f'x -> x/{shorten_factor}'),
          shorten_factor=shorten_factor,
          d_model=d_model,
          mode=mode,
        ),
        LayerNorm(),
      ),
      None,
    ),  # q, h
    tl.Residual(attention, tl.Dropout(dropout, mode=mode)),  # x'
    PreNormResidual(feed, dropout, mode),
  )
